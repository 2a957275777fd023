// The dead letters, a page at a time. Filter and place are in the address, so that going back works.

import { ask } from "./api.js";
import { byId, element, fill, show } from "./dom.js";
import { UNKNOWN, bytes, time, yesOrNo } from "./format.js";
import { table } from "./tables.js";

const PATH = "/feedback/dead-letters";
const given = new URLSearchParams(location.search);

/** The address of this list with another filter or place. */
function address(changes) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries({ error: given.get("error"), ...changes })) if (value) query.set(name, value);
  return query.size ? `${PATH}?${query}` : PATH;
}

const showLetters = table(byId("letters"), {
  caption: "Dead letters, newest first",
  empty: given.get("error") ? "There is no letter with this error." : "There are no dead letters.",
  keyOf: (row) => `${row.partition}@${row.offset}`,
  columns: [
    { label: "Letter", show: (row) => element("a", { href: `${PATH}/${row.partition}/${row.offset}` }, `${row.partition}@${row.offset}`) },
    { label: "Time", show: (row) => time(row.time) },
    { label: "Error", show: (row) => element("span", { class: "error", dir: "auto" }, [row.error, row.detail].filter(Boolean).join(": ") || UNKNOWN) },
    { label: "From", show: (row) => (row.source ? `${row.source.topic}/${row.source.partition}@${row.source.offset}` : UNKNOWN), wide: true },
    { label: "Size", show: (row) => bytes(row.size), number: true, wide: true },
    { label: "Replayed", show: (row) => yesOrNo(row.replayed) },
    { label: "Begins with", show: (row) => element("code", { class: "preview", dir: "auto" }, row.preview ?? ""), wide: true },
  ],
});

async function load() {
  const query = new URLSearchParams(given);
  query.set("limit", "50");
  try {
    const { letters, next } = await ask(`${PATH}?${query}`);
    showLetters(letters);
    fill(byId("errors"), ...[...new Set(letters.map((letter) => letter.error))].map((error) => element("option", { value: error })));
    byId("older").href = address({ before: next });
    show(byId("older"), next !== null);
    fill(byId("note"), "None among the newest letters that were looked at; older ones may have it.");
    show(byId("note"), !letters.length && next !== null);
  } catch (error) {
    fill(byId("note"), `${error.message}.`);
    show(byId("note"), true);
  }
  show(byId("waiting"), false);
}

byId("error").value = given.get("error") ?? "";
byId("newest").href = address({});
show(byId("newest"), given.has("before"));
show(byId("all"), given.has("error"));
byId("filter").addEventListener("submit", (event) => {
  event.preventDefault();
  location.assign(address({ error: byId("error").value.trim() }));
});
load();
