// Asking the worker. Every answer is JSON; an error has a message for people.

const PATIENCE_MS = 10_000;

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Go to the login page, and come back here afterwards. */
export function logIn() {
  location.assign(`/feedback/login?next=${encodeURIComponent(location.pathname + location.search)}`);
}

/** Return an answer's JSON. Throws ApiError; with status 0 when there was no answer, and 401 on the way to the login. */
export async function ask(path) {
  let answer;
  let body;
  try {
    answer = await fetch(path, {
      headers: { Accept: "application/json" },
      cache: "no-store",
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
    body = await answer.json();
  } catch (error) {
    throw new ApiError(answer?.status ?? 0, answer ? "the worker's answer can't be read" : "this worker does not answer");
  }
  if (answer.status === 401) logIn();
  if (!answer.ok) throw new ApiError(answer.status, body?.error ?? `the worker answers with ${answer.status}`);
  return body;
}

/** Call work now and then, never twice at once, and not while nobody looks at the page. */
export function repeatedly(everyMs, work) {
  let running = false;
  const run = async () => {
    if (running || document.hidden) return;
    running = true;
    try {
      await work();
    } finally {
      running = false;
    }
  };
  setInterval(run, everyMs);
  document.addEventListener("visibilitychange", run);
  run();
  return run;
}
