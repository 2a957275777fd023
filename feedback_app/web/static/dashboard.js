// The cluster: what it does now, what needs attention, and the last hour.

import { ask, repeatedly } from "./api.js";
import { lines } from "./charts.js";
import { agentLink, byId, element, fill, show, workerLink } from "./dom.js";
import { UNKNOWN, count, measure, seconds, share, time } from "./format.js";
import { follow } from "./live.js";
import { table } from "./tables.js";

const HISTORY_MS = 10_000;
const AGENTS_MS = 10_000;
const PAGE = 10;

// The six figures for scaling, by the names of docs/operations.md.
const FIGURES = [
  ["Flush rate", "flushRate", measure, "passes a second that closed windows"],
  ["Batch size", "batchSize", measure, "windows a flush, over the last minute"],
  ["Batches in memory", "batchesInMemory", count, "windows in the cache"],
  ["MongoDB operations", "mongodbOperationsPerSecond", measure, "a second, over the last minute"],
  ["Events published", "eventsPublishedPerSecond", measure, "a second, over the last minute"],
  ["Batch age", "batchAgeSeconds", seconds, "from first event to flush, over the last minute"],
];

const CHARTS = [
  ["Records", "a second", { read: "records", counted: "counted" }],
  ["Late and dead letters", "a second", { late: "late", "dead letters": "deadLetters" }],
  ["Windows closed", "a second", { "windows closed": "windowsClosed", "events published": "aggregatedEvents" }],
  ["Lag", "records", { lag: "lag" }],
  ["Open windows", "", { "open windows": "openWindows" }],
  ["MongoDB operations", "a second", { operations: "mongodbOperations" }],
];

const TOTALS = [
  ["Records read", "records"],
  ["Counted", "counted"],
  ["Late", "late"],
  ["Dead letters", "deadLetters"],
  ["Forwarded", "forwarded"],
  ["Windows closed", "windowsClosed"],
  ["Windows amended", "windowsAmended"],
  ["Events published", "aggregatedEvents"],
];

const card = (name, value, hint = "") =>
  element(
    "div",
    { class: "card" },
    element("dt", {}, name),
    element("dd", {}, element("span", { class: "value" }, value), hint ? element("span", { class: "hint" }, hint) : ""),
  );

const state = (name) => element("span", { class: `state ${name}` }, name);

const showPartitions = table(byId("partitions"), {
  caption: "Partitions, with their owners and how far each is",
  empty: "No partition is known yet.",
  keyOf: (row) => row.partition,
  columns: [
    { label: "Partition", show: (row) => row.partition, number: true },
    { label: "Owner", show: (row) => (row.owner ? workerLink(row.owner) : "nobody") },
    { label: "State", show: (row) => state(row.state) },
    { label: "Lag", show: (row) => count(row.lag), number: true },
    { label: "Watermark", show: (row) => time(row.watermark), wide: true },
    { label: "Behind", show: (row) => seconds(row.behind), number: true },
    { label: "Open", show: (row) => count(row.openWindows), number: true },
    { label: "Due", show: (row) => count(row.dueWindows), number: true, wide: true },
    { label: "Last counted", show: (row) => time(row.silentSince), wide: true },
  ],
});

const showWorkers = table(byId("workers"), {
  caption: "Workers of the cluster",
  empty: "No worker is known yet.",
  keyOf: (row) => row.url,
  columns: [
    { label: "Worker", show: (row) => workerLink(row.url, " (this one)") },
    { label: "State", show: (row) => state(row.state) },
    { label: "Partitions", show: (row) => (row.partitions ?? []).join(", ") || UNKNOWN },
    { label: "Reasons", show: (row) => (row.reasons ?? []).join("; ") || UNKNOWN },
    { label: "Version", show: (row) => row.version ?? UNKNOWN, wide: true },
    { label: "Running since", show: (row) => time(row.startedAt), wide: true },
  ],
});

const showAgents = table(byId("agents"), {
  caption: "Agents of the newest closed windows",
  empty: "No window has closed yet.",
  keyOf: (row) => row.agentId,
  columns: [
    { label: "Agent", show: (row) => agentLink(row.agentId) },
    { label: "Events", show: (row) => count(row.events), number: true },
    { label: "Ratings", show: ratings, wide: true },
    { label: "Negative", show: (row) => share(row.negativeShare), number: true },
  ],
});

function ratings(row) {
  const names = ["positive", "neutral", "negative"];
  const words = names.map((name) => `${count(row[name])} ${name}`).join(", ");
  const bar = element("span", { class: "ratings", role: "img", "aria-label": words, title: words });
  names.forEach((name) => {
    const part = element("span", { class: name });
    part.style.flexGrow = row[name];
    bar.append(part);
  });
  return bar;
}

// -- what comes live --------------------------------------------------------------------------------------------------

let overview = null;

function onOverview(given) {
  overview = given;
  const { figures = {}, rates = {}, totals = {}, sink = {} } = given;
  fill(byId("figures"), ...FIGURES.map(([name, key, format, hint]) => card(name, format(figures[key]), hint)));
  fill(
    byId("now"),
    card("Events in", measure(rates.records), "a second"),
    card("Counted", measure(rates.counted), "a second"),
    card("Late", measure(rates.late), "a second"),
    card(letters("Dead letters"), measure(rates.deadLetters), "a second"),
    card("Closed", measure(rates.windowsClosed), "windows a second"),
    card("Lag", count(totals.lag), "records"),
    card("Open", count(totals.openWindows), "windows"),
    card("Due", count(totals.dueWindows), "windows to close"),
    card("Close delay", seconds(given.closeDelaySeconds), "last minute"),
    card(sinkName(sink), sink.up === true ? "up" : sink.up === false ? "away" : UNKNOWN, `${count(sink.failedCommands)} failed commands`),
  );
  fill(byId("totals"), ...TOTALS.map(([name, key]) => card(key === "deadLetters" ? letters(name) : name, count(totals[key]))));
  const now = Date.parse(given.time);
  showPartitions(
    (given.partitions ?? []).map((row) => ({ ...row, behind: row.watermark ? (now - Date.parse(row.watermark)) / 1000 : null })),
  );
  showWorkers(given.workers ?? []);
  notify();
}

const letters = (text) => element("a", { href: "/feedback/dead-letters" }, text);

const sinkName = (sink) => (sink.name === "mongodb" ? "MongoDB" : (sink.name ?? "Database"));

const LINK = {
  connecting: "Connecting …",
  live: "Live",
  polling: "Asking every 3 s: the live stream can't be had",
  lost: "Connection lost: this worker does not answer. Trying again …",
};

let link = "connecting";

function onState({ state: now, ageMs }) {
  link = now;
  byId("link").dataset.state = now;
  fill(byId("link"), LINK[now]);
  fill(byId("age"), ...(ageMs === null ? [] : ["Figures of ", time(overview.time), `, ${count(ageMs / 1000)} s old`]));
  document.body.classList.toggle("stale", now === "lost");
  notify();
}

/** List what needs attention; as long as that stays the same nothing is announced again. */
function notify() {
  const found = [...problems()];
  const database = overview?.sink?.up === true ? "the database takes writes" : "nothing was written to the database yet";
  const fine = `All workers answer, all partitions are counted, ${database}.`;
  const good = overview ? [element("li", { class: "notice good" }, fine)] : [];
  fill(byId("notices"), ...(found.length ? found.map((text) => element("li", { class: "notice bad" }, text)) : good));
}

function* problems() {
  if (!overview) return;
  const { sink = {}, unanswered = [], partitions = [], workers = [] } = overview;
  if (link === "lost") yield "The figures below are old: this worker does not answer. Open the page of another worker.";
  if (sink.up === false) {
    yield `${sinkName(sink)} is away${sink.reason ? `: ${sink.reason}` : ""}. Counting goes on; windows stay due and are written when it is back.`;
  }
  for (const url of unanswered) yield `Worker ${url} does not answer; what it does is not in these figures.`;
  const not = (name) => partitions.filter((row) => row.state === name).map((row) => row.partition);
  const restoring = not("restoring");
  const unknown = not("unknown");
  if (restoring.length) yield `Being restored: partition ${restoring.join(", ")}.`;
  if (unknown.length) yield `Changing hands, or with a worker that does not answer: partition ${unknown.join(", ")}.`;
  for (const worker of workers) {
    // That the database is away is said once, above.
    const reasons = (worker.reasons ?? []).filter((reason) => sink.up !== false || !sink.reason || !reason.includes(sink.reason));
    if (worker.state === "degraded" && (reasons.length || sink.up !== false)) {
      yield `Worker ${worker.url} is degraded: ${reasons.join("; ") || "it does not say why"}.`;
    }
    if (worker.state === "starting") yield `Worker ${worker.url} is starting.`;
  }
}

// -- what is asked for now and then -----------------------------------------------------------------------------------

const charts = CHARTS.map(([title, unit, series]) => {
  const figure = element("figure");
  byId("charts").append(figure);
  return [lines(figure, title, unit, Object.keys(series)), Object.values(series)];
});

repeatedly(HISTORY_MS, () =>
  noting(byId("history-note"), async () => {
    const { times, series } = await ask("/feedback/history");
    for (const [draw, names] of charts) draw(times, names.map((name) => series[name] ?? []));
  }),
);

let order = "volume";
let offset = 0;
let wanted = 0;

repeatedly(AGENTS_MS, loadAgents);

async function loadAgents() {
  const mine = ++wanted;
  await noting(byId("agents-note"), async () => {
    const page = await ask(`/feedback/agents?order=${order}&limit=${PAGE}&offset=${offset}`);
    if (mine !== wanted) return; // another order was asked for meanwhile
    showAgents(page.agents);
    const which = order === "negative" ? "; agents with few events are left out" : "";
    fill(byId("agents-span"), ...(page.from ? ["Windows of ", time(page.from), " to ", time(page.to), which] : []));
    show(byId("agents-back"), offset > 0);
    show(byId("agents-on"), page.next !== null);
  });
}

async function noting(note, work) {
  try {
    await work();
    show(note, false);
  } catch (error) {
    fill(note, `${error.message}.`);
    show(note, true);
  }
}

function turn(newOrder, newOffset) {
  order = newOrder;
  offset = newOffset;
  byId("by-volume").setAttribute("aria-pressed", String(order === "volume"));
  byId("by-negative").setAttribute("aria-pressed", String(order === "negative"));
  loadAgents();
}

byId("by-volume").addEventListener("click", () => turn("volume", 0));
byId("by-negative").addEventListener("click", () => turn("negative", 0));
byId("agents-back").addEventListener("click", () => turn(order, Math.max(0, offset - PAGE)));
byId("agents-on").addEventListener("click", () => turn(order, offset + PAGE));

follow(onOverview, onState);
