// Building the page. Text only ever becomes text: nothing here, or anywhere else, parses what came from outside.

export const byId = (id) => document.getElementById(id);

/** Make an element. Attributes with a null or false value are left out; children are nodes, or become text. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on") || key === "style") throw new Error(`${key} is no attribute for a page`);
    if (value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.map(textOrNode));
  return made;
}

/** Put content into a node, unless it is there already: what has not changed keeps its focus and is not announced. */
export function fill(node, ...contents) {
  const wanted = contents.map(textOrNode);
  const there = [...node.childNodes];
  if (there.length === wanted.length && there.every((child, index) => child.isEqualNode(wanted[index]))) return;
  node.replaceChildren(...wanted);
}

/** Show or hide an element. */
export const show = (node, visible) => node.toggleAttribute("hidden", !visible);

/** Where an agent's page is; null for the two names that every browser takes for a step up or none. */
export function agentPath(agentId) {
  return agentId === "." || agentId === ".." ? null : `/feedback/agents/${encodeURIComponent(agentId)}`;
}

/** A link to an agent's page, or its name where there can be no link. */
export function agentLink(agentId) {
  const path = agentPath(agentId);
  return path === null ? document.createTextNode(agentId) : element("a", { href: path, dir: "auto" }, agentId);
}

/** A worker's address, as a link to its own page. Anything but http stays text. */
export function workerLink(url, note = "") {
  const short = url.replace(/^https?:\/\//, "");
  if (!/^https?:\/\/[^/]+$/.test(url)) return document.createTextNode(url);
  return short === location.host
    ? element("span", { title: "the worker that shows this page" }, `${short}${note}`)
    : element("a", { href: `${url}/feedback/` }, short);
}

const textOrNode = (child) => (child instanceof Node ? child : document.createTextNode(String(child)));
