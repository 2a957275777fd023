// What all pages have: the way to the others, and the search for an agent.

import { agentPath, byId } from "./dom.js";

for (const link of document.querySelectorAll("header a")) {
  if (link.pathname === location.pathname) link.setAttribute("aria-current", "page");
}

const form = byId("search");
form.addEventListener("submit", (event) => {
  event.preventDefault();
  const field = form.elements.agent;
  const path = agentPath(field.value.trim());
  field.setCustomValidity(path === null ? "This name can't stand in a browser's address." : "");
  if (form.reportValidity() && path !== null) location.assign(path);
});
form.elements.agent.addEventListener("input", () => form.elements.agent.setCustomValidity(""));
