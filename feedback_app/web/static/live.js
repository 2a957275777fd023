// The overview, as it comes: by server-sent events, and by asking while these can't be had.

import { ask, logIn } from "./api.js";

const POLL_MS = 3_000;
const RETRY_STREAM_MS = 15_000;
const SILENT_MS = 7_000;
const LOOK_MS = 500;

/**
 * Follow the overview for as long as the page is open.
 *
 * onOverview gets each overview. onState gets {state: "connecting" | "live" | "polling" | "lost", ageMs} twice a second;
 * ageMs is how long ago the figures last changed their time: by this machine's clock, since two clocks differ.
 */
export function follow(onOverview, onState) {
  let source = null;
  let streamSeen = -Infinity;
  let askedAt = -Infinity;
  let triedAt = -Infinity;
  let asking = false;
  let newest = null;
  let newestAt = null;

  const take = (overview) => {
    if (overview.time !== newest) {
      newest = overview.time;
      newestAt = performance.now();
    }
    onOverview(overview);
  };

  const listen = () => {
    triedAt = performance.now();
    source?.close();
    source = new EventSource("/feedback/stream");
    source.addEventListener("overview", (event) => {
      streamSeen = performance.now();
      take(JSON.parse(event.data));
    });
  };

  const poll = async () => {
    asking = true;
    askedAt = performance.now();
    try {
      take(await ask("/feedback/overview"));
    } catch (error) {
      if (error.status === 401) logIn();
    } finally {
      asking = false;
    }
  };

  const look = () => {
    const now = performance.now();
    const streaming = now - streamSeen < SILENT_MS;
    if (!streaming && now - triedAt > RETRY_STREAM_MS) listen();
    if (!streaming && !asking && now - askedAt > POLL_MS) poll();
    const ageMs = newestAt === null ? null : now - newestAt;
    const state = ageMs === null ? "connecting" : ageMs > SILENT_MS ? "lost" : streaming ? "live" : "polling";
    onState({ state: ageMs === null && now > SILENT_MS ? "lost" : state, ageMs });
  };

  setInterval(look, LOOK_MS);
  look();
}
