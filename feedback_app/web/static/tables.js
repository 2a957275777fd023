// A table that follows its rows: cells change in place, so that a link keeps its focus and a reader its place.

import { element, fill } from "./dom.js";

/**
 * Make a table in a container.
 *
 * columns: {label, show(row) -> text or node, number?, wide?}; wide ones are left out on a phone. The first one names
 * the row. keyOf(row) tells rows apart.
 */
export function table(container, { caption, columns, keyOf, empty }) {
  const looks = (column) => [column.number && "number", column.wide && "wide"].filter(Boolean).join(" ") || null;
  const heads = columns.map((column) => element("th", { scope: "col", class: looks(column) }, column.label));
  const body = element("tbody");
  const none = element("p", { class: "none", hidden: true }, empty);
  const made = element(
    "table",
    {},
    element("caption", { class: "unseen" }, caption),
    element("thead", {}, element("tr", {}, ...heads)),
    body,
  );
  // Focusable, so that a keyboard can scroll what is too wide.
  container.replaceChildren(element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, made), none);

  const rows = new Map();
  const makeRow = () =>
    element(
      "tr",
      {},
      ...columns.map((column, index) =>
        index === 0
          ? element("th", { scope: "row", class: looks(column) })
          : element("td", { class: looks(column) }),
      ),
    );

  return (data) => {
    const wanted = data.map((row) => {
      const key = String(keyOf(row));
      if (!rows.has(key)) rows.set(key, makeRow());
      const line = rows.get(key);
      columns.forEach((column, index) => fill(line.children[index], column.show(row)));
      return [key, line];
    });
    const keys = new Set(wanted.map(([key]) => key));
    for (const key of rows.keys()) if (!keys.has(key)) rows.delete(key);
    const lines = wanted.map(([, line]) => line);
    if (lines.length !== body.children.length || lines.some((line, index) => line !== body.children[index])) {
      body.replaceChildren(...lines);
    }
    none.hidden = data.length > 0;
    made.hidden = data.length === 0;
  };
}
