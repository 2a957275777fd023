// One agent: its open windows, its recent ones, and its ratings over time.

import { ask, repeatedly } from "./api.js";
import { bars } from "./charts.js";
import { byId, element, fill, show } from "./dom.js";
import { UNKNOWN, count, measure, share, time } from "./format.js";
import { table } from "./tables.js";

const REFRESH_MS = 3_000;
const PAGE = 50;
const RATINGS = ["positive", "neutral", "negative"];

const path = location.pathname;
const agentId = decoded(path.slice(path.lastIndexOf("/") + 1));
let before = null;
let next = null;

document.title = `Feedback: ${agentId}`;
fill(byId("name"), agentId);

const drawRatings = bars(byId("ratings"), "Ratings", "in each window, the open ones last", RATINGS);

const showRecent = table(byId("recent"), {
  caption: "Recent windows, newest first",
  empty: "No window of this agent has closed.",
  keyOf: (row) => row._id,
  columns: [
    { label: "Window", show: (row) => span(row) },
    { label: "Events", show: (row) => count(row.count), number: true },
    { label: "Positive", show: (row) => count(row.positive), number: true },
    { label: "Neutral", show: (row) => count(row.neutral), number: true, wide: true },
    { label: "Negative", show: (row) => count(row.negative), number: true },
    { label: "Share negative", show: (row) => share(row.count ? row.negative / row.count : null), number: true, wide: true },
    { label: "Mean score", show: (row) => measure(mean(row)), number: true, wide: true },
    { label: "Comments", show: (row) => count(row.comments), number: true, wide: true },
    { label: "Tags", show: tags, wide: true },
    { label: "Revision", show: (row) => count(row.revision), number: true, wide: true },
  ],
});

/** What an address says; as it is where that is no text at all. */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

const mean = (row) => (row.scoreCount ? row.scoreSum / row.scoreCount : null);

const span = (row) => element("span", { class: "span" }, time(row.windowStart), " to ", time(row.windowEnd));

function tags(row) {
  const often = [...(row.tags ?? [])].sort((a, b) => b.count - a.count);
  const named = often.map(({ tag, count: times }) => `${tag} ${count(times)}`);
  if (row.otherTags) named.push(`others ${count(row.otherTags)}`);
  return named.length ? element("span", { class: "tags" }, named.join(", ")) : UNKNOWN;
}

function openWindow(row) {
  const fact = (name, value) => element("div", { class: "card" }, element("dt", {}, name), element("dd", {}, element("span", { class: "value" }, value)));
  return element(
    "article",
    { class: "window" },
    element("h3", {}, span(row)),
    element(
      "dl",
      { class: "cards small" },
      fact("Events", count(row.count)),
      ...RATINGS.map((name) => fact(name[0].toUpperCase() + name.slice(1), count(row[name]))),
      fact("Mean score", measure(mean(row))),
      fact("Comments", count(row.comments)),
      fact("First event", time(row.firstTimestamp)),
      fact("Last event", time(row.lastTimestamp)),
    ),
    element("p", {}, "Tags: ", tags(row)),
  );
}

const refresh = async () => {
  const cursor = before;
  try {
    const found = await ask(`${path}?limit=${PAGE}${cursor === null ? "" : `&before=${encodeURIComponent(cursor)}`}`);
    if (cursor !== before) return;
    const { open = [], recent = [] } = found;
    fill(byId("partition"), `in partition ${found.partition}`);
    fill(byId("open"), ...open.map(openWindow));
    show(byId("none-open"), open.length === 0);
    showRecent(recent);
    const shown = [...recent].reverse().concat(before === null ? open : []);
    drawRatings(shown.map((row) => new Date(row.windowStart).toLocaleTimeString("en-GB")), RATINGS.map((name) => shown.map((row) => row[name])));
    next = found.next ?? null;
    show(byId("older"), next !== null);
    show(byId("newest"), before !== null);
    note(byId("recent-note"), found.recentError);
    note(byId("note"), null);
  } catch (error) {
    note(byId("note"), `${error.message}; what is shown may be old`);
  }
};

function note(node, problem) {
  if (problem) fill(node, `${problem}.`);
  show(node, Boolean(problem));
}

byId("older").addEventListener("click", () => turn(next));
byId("newest").addEventListener("click", () => turn(null));

function turn(cursor) {
  before = cursor;
  refresh();
}

repeatedly(REFRESH_MS, refresh);
