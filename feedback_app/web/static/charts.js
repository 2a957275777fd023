// Charts by Chart.js (a global of its own script), in the page's colours, with their content in words as well.

import { element, fill } from "./dom.js";
import { measure } from "./format.js";

const DASHES = [[], [6, 3], [2, 2]];
const HOUR_MS = 3_600_000;
const LEAST_SPAN_MS = 300_000;

const charts = new Map();

/** A chart of lines over time. Returns show(times, lists), with a list of numbers or nulls for each of the names. */
export function lines(container, title, unit, names) {
  const { words, make } = frame(container, title, unit, names);
  const chart = make({
    type: "line",
    data: { datasets: names.map((name, index) => ({ label: name, data: [], borderDash: DASHES[index] })) },
    options: { ...COMMON, scales: scales({ type: "time" }) },
  });
  return (times, lists) => {
    const stamps = times.map((text) => Date.parse(text));
    const last = stamps.at(-1) ?? Date.now();
    const first = Math.max(stamps[0] ?? last, last - HOUR_MS);
    fill(words, ...inWords(names, lists));
    if (!chart) return;
    names.forEach((_, index) => {
      chart.data.datasets[index].data = stamps.map((x, at) => ({ x, y: lists[index]?.[at] ?? null }));
    });
    Object.assign(chart.options.scales.x, { min: Math.min(first, last - LEAST_SPAN_MS), max: last });
    chart.update("none");
  };
}

/** A chart of stacked bars, one for each label. Returns show(labels, lists). */
export function bars(container, title, unit, names) {
  const { words, make } = frame(container, title, unit, names);
  const chart = make({
    type: "bar",
    data: { labels: [], datasets: names.map((name) => ({ label: name, data: [], maxBarThickness: 40 })) },
    options: { ...COMMON, scales: scales({ stacked: true }) },
  });
  return (labels, lists) => {
    fill(words, ...inWords(names, lists));
    if (!chart) return;
    chart.data.labels = labels;
    names.forEach((_, index) => (chart.data.datasets[index].data = lists[index]));
    chart.update("none");
  };
}

const COMMON = {
  animation: false, // the figures move enough
  maintainAspectRatio: false,
  interaction: { mode: "index", intersect: false },
  plugins: { legend: { display: false }, colors: { enabled: false } },
  elements: { point: { radius: 0, hoverRadius: 3, hitRadius: 8 }, line: { borderWidth: 1.75 } },
};

function scales(x) {
  const times = { unit: "minute", displayFormats: { minute: "HH:mm" }, tooltipFormat: "HH:mm:ss" };
  return {
    x: {
      ...x,
      ...(x.type === "time" ? { time: times } : {}),
      ticks: { maxRotation: 0, autoSkipPadding: 24, font: { size: 11 } },
      grid: { display: false },
    },
    y: {
      beginAtZero: true,
      suggestedMax: 1,
      stacked: x.stacked ?? false,
      ticks: { maxTicksLimit: 5, font: { size: 11 } },
      grid: {},
      border: { display: false },
    },
  };
}

function frame(container, title, unit, names) {
  const canvas = element("canvas", { role: "img", "aria-label": `Chart: ${title}; the figures are in the text above it.` });
  const words = element("p", { class: "words" });
  const caption = element("figcaption", {}, element("strong", {}, title), ` ${unit}`);
  container.replaceChildren(caption, words, element("div", { class: "canvas" }, canvas));
  const make = (config) => {
    if (!globalThis.Chart) {
      canvas.replaceWith(element("p", { class: "none" }, "The chart library could not be loaded; the figures are in the text."));
      return null;
    }
    colour(config, names);
    const chart = new globalThis.Chart(canvas, config);
    charts.set(chart, names);
    return chart;
  };
  return { words, make };
}

/** Ratings keep their colours wherever they are shown. */
function paint(name, index) {
  return { positive: "positive", neutral: "neutral", negative: "negative" }[name] ?? index + 1;
}

function colour(config, names) {
  const style = getComputedStyle(document.documentElement);
  const value = (name) => style.getPropertyValue(name).trim();
  config.data.datasets.forEach((dataset, index) => {
    dataset.borderColor = value(`--series-${paint(names[index], index)}`);
    dataset.backgroundColor = dataset.borderColor;
  });
  for (const axis of Object.values(config.options.scales)) {
    axis.ticks.color = value("--quiet");
    axis.grid.color = value("--line");
  }
}

/** What the chart says, which is its legend too: the newest value of each name, and the highest. */
function inWords(names, lists) {
  return names.map((name, index) => {
    const values = (lists[index] ?? []).filter((value) => value !== null);
    const most = values.length ? values.reduce((a, b) => Math.max(a, b)) : null;
    const label = names.length > 1 ? `${name} ` : "";
    return element(
      "span",
      { class: `key key-${paint(name, index)}` },
      label,
      element("span", { class: "now" }, measure(values.at(-1))),
      ` (most ${measure(most)})`,
    );
  });
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  charts.forEach((names, chart) => {
    colour(chart.config, names);
    chart.update("none");
  });
});
