// One dead letter: why it is one, and what it was, to the byte.

import { ask } from "./api.js";
import { byId, element, fill, show } from "./dom.js";
import { UNKNOWN, bytes, time, yesOrNo } from "./format.js";
import { table } from "./tables.js";

const SHOWN_BYTES = 16_384;
// What fits on a phone.
const WIDTH = matchMedia("(max-width: 640px)").matches ? 8 : 16;

const [partition, offset] = location.pathname.split("/").slice(-2);

let whole = false;
let hex = true;
let letter = null;

const decode = (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));

/** Bytes as a dump: place, some of them in hex, and those that are printable ASCII. */
function dump(data) {
  const rows = [];
  for (let start = 0; start < data.length; start += WIDTH) {
    const row = [...data.subarray(start, start + WIDTH)];
    const digits = row.map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const signs = row.map((byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : ".")).join("");
    rows.push(`${start.toString(16).padStart(6, "0")}  ${digits.padEnd(3 * WIDTH - 1)}  ${signs}`);
  }
  return rows.join("\n");
}

function showBytes() {
  const data = letter.base64 === null ? new Uint8Array() : decode(letter.base64);
  const part = whole ? data : data.subarray(0, SHOWN_BYTES);
  const base64 = whole ? letter.base64 : letter.base64?.slice(0, (SHOWN_BYTES / 3) << 2);
  fill(byId("bytes"), letter.base64 === null ? "no value at all (null)" : data.length ? (hex ? dump(part) : base64) : "empty");
  byId("bytes").classList.toggle("dump", hex);
  fill(byId("whole"), `Show all ${bytes(data.length)}`);
  show(byId("whole"), part.length < data.length);
  byId("as-hex").setAttribute("aria-pressed", String(hex));
  byId("as-base64").setAttribute("aria-pressed", String(!hex));
}

function showLetter() {
  const { source } = letter;
  const fact = (name, value) => element("div", {}, element("dt", {}, name), element("dd", { dir: "auto" }, value));
  const key = letter.keyBase64 === null ? "none" : new TextDecoder().decode(decode(letter.keyBase64));
  fill(
    byId("facts"),
    fact("Error", letter.error || UNKNOWN),
    ...(letter.detail ? [fact("Detail", letter.detail)] : []),
    fact("Time", time(letter.time)),
    fact("From", source ? `${source.topic}, partition ${source.partition}, offset ${source.offset}` : "unknown"),
    fact("Key", key),
    fact("Size", bytes(letter.size)),
    fact("Replayed", yesOrNo(letter.replayed)),
  );
  fill(byId("text"), letter.text ?? "");
  table(byId("headers"), {
    caption: "Headers of the letter",
    empty: "It has no headers of its own.",
    keyOf: ([name]) => name,
    columns: [
      { label: "Name", show: ([name]) => element("code", {}, name) },
      { label: "Value", show: ([, value]) => element("code", { dir: "auto" }, value ?? "null") },
    ],
  })(Object.entries(letter.headers ?? {}));
  showBytes();
  show(byId("letter"), true);
}

document.title = `Feedback: dead letter ${partition}@${offset}`;
fill(byId("name"), `Dead letter ${partition}@${offset}`);
byId("whole").addEventListener("click", () => {
  whole = true;
  showBytes();
});
byId("as-hex").addEventListener("click", () => {
  hex = true;
  showBytes();
});
byId("as-base64").addEventListener("click", () => {
  hex = false;
  showBytes();
});

try {
  letter = await ask(`/feedback/dead-letters/${partition}/${offset}`);
  showLetter();
} catch (error) {
  fill(byId("note"), `${error.message}.`);
  show(byId("note"), true);
}
