// Numbers, times and spans as people read them. Null is what nobody knows, and shown as a dash.

import { element } from "./dom.js";

export const UNKNOWN = "–";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat("en", { maximumFractionDigits: 2, maximumSignificantDigits: 3 });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const calendar = new Intl.DateTimeFormat("en-GB", { year: "numeric", month: "short", day: "numeric" });

const known = (value) => typeof value === "number" && Number.isFinite(value);

export const count = (value) => (known(value) ? whole.format(value) : UNKNOWN);

/** A rate or a mean: three digits, unless it is large. */
export const measure = (value) => (known(value) ? (Math.abs(value) >= 1000 ? whole : fine).format(value) : UNKNOWN);

export const share = (value) => (known(value) ? `${(100 * value).toFixed(1)} %` : UNKNOWN);

export const yesOrNo = (value) => (value === null || value === undefined ? UNKNOWN : value ? "yes" : "no");

export function seconds(value) {
  if (!known(value)) return UNKNOWN;
  if (value < 0) return `-${seconds(-value)}`;
  if (value < 9.95) return `${value.toFixed(1)} s`;
  if (value < 120) return `${Math.round(value)} s`;
  if (value < 7200) return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
  return value < 172_800
    ? `${Math.floor(value / 3600)} h ${Math.round((value % 3600) / 60)} min`
    : `${Math.round(value / 86_400)} days`;
}

export function bytes(value) {
  if (!known(value)) return UNKNOWN;
  return value < 10_000 ? `${whole.format(value)} B` : `${whole.format(value / 1000)} kB`;
}

/** A time of day here, with the date where that is not today; the whole of it, in UTC, on hovering. */
export function time(text) {
  const moment = text ? new Date(text) : null;
  if (!moment || Number.isNaN(moment.getTime())) return document.createTextNode(UNKNOWN);
  const today = moment.toDateString() === new Date().toDateString();
  const shown = today ? clock.format(moment) : `${calendar.format(moment)} ${clock.format(moment)}`;
  return element("time", { datetime: moment.toISOString(), title: moment.toISOString() }, shown);
}
