// Server-sent events out of bytes that are cut anywhere. Pure. (HTML standard, section 9.2.6.)

/**
 * `id` is the last one seen, in this message or before it; `event` is `message` where the message names none.
 * @typedef {{id: string, event: string, data: string}} SseMessage
 */

/**
 * What is left over between two chunks. Begin with none, and hand each answer's `state` to the next call.
 * @typedef {object} SseState
 * @property {string} id the last one seen: with it a client comes back
 * @property {number|null} retry milliseconds to wait before coming back, as last told
 * @property {number} unfinished about how much is held of the message that has begun, in characters
 * @property {Uint8Array} bytes of a character that has begun
 * @property {string} line that has begun
 * @property {string} event
 * @property {readonly string[]} data
 * @property {boolean} isBegun whether any text has come
 * @property {boolean} isAfterCr whether a line feed now would belong to the line end before it
 */

/** @type {SseState} */
const NOTHING = Object.freeze({
  ...{ id: "", retry: null, unfinished: 0 },
  ...{ bytes: new Uint8Array(0), line: "", event: "", data: [], isBegun: false, isAfterCr: false },
});

const LINE_END = /\r\n|\r|\n/;

/**
 * The messages that `chunk` completes. The chunks of a stream are all bytes or all text. Messages with the payloads "0"
 * and "" are messages; comments are not, nor is what has no `data`.
 * @param {Uint8Array|string} chunk
 * @param {SseState} [state]
 * @returns {{messages: SseMessage[], state: SseState}}
 */
export function parseSseChunk(chunk, state = NOTHING) {
  const [decoded, bytes] = typeof chunk === "string" ? [chunk, state.bytes] : decode(chunk, state.bytes);
  if (decoded === "") return { messages: [], state: { ...state, bytes } };
  let text = decoded;
  if (!state.isBegun && text.startsWith("\uFEFF")) text = text.slice(1);
  if (state.isAfterCr && text.startsWith("\n")) text = text.slice(1);
  // Each text is searched once: a line that comes in a thousand chunks is not searched a thousand times.
  const lines = text.split(LINE_END);
  lines[0] = state.line + lines[0];
  const line = lines.pop() ?? "";
  const parser = new Parser(state);
  for (const complete of lines) parser.take(complete);
  const { id, retry, event, data, messages } = parser;
  const unfinished = data.reduce((sum, part) => sum + part.length, line.length);
  const isAfterCr = decoded.endsWith("\r");
  return { messages, state: { id, retry, unfinished, bytes, line, event, data, isBegun: true, isAfterCr } };
}

class Parser {
  /** @type {SseMessage[]} */
  messages = [];

  /** @param {SseState} state */
  constructor(state) {
    this.id = state.id;
    this.retry = state.retry;
    this.event = state.event;
    this.data = [...state.data];
  }

  /** @param {string} line */
  take(line) {
    if (line === "") return this.#dispatch();
    const colon = line.indexOf(":");
    if (colon === 0) return; // a comment
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (field === "data") this.data.push(value);
    else if (field === "event") this.event = value;
    else if (field === "id" && !value.includes("\0")) this.id = value;
    else if (field === "retry" && /^[0-9]+$/.test(value)) this.retry = Number(value);
  }

  #dispatch() {
    if (this.data.length) {
      this.messages.push({ id: this.id, event: this.event || "message", data: this.data.join("\n") });
    }
    this.data = [];
    this.event = "";
  }
}

/**
 * The text of all characters that are complete, and the bytes of the one that is not.
 * @param {Uint8Array} chunk
 * @param {Uint8Array} before
 * @returns {[string, Uint8Array]}
 */
function decode(chunk, before) {
  let bytes = chunk;
  if (before.length) {
    bytes = new Uint8Array(before.length + chunk.length);
    bytes.set(before);
    bytes.set(chunk, before.length);
  }
  const end = bytes.length - unfinishedBytes(bytes);
  // ignoreBOM: it would be taken away at the beginning of every chunk, and counts at that of the stream only.
  const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes.subarray(0, end));
  return [text, bytes.slice(end)];
}

/**
 * How many of the last bytes begin a character whose end has not come.
 * @param {Uint8Array} bytes
 */
function unfinishedBytes(bytes) {
  for (let back = 1; back <= Math.min(3, bytes.length); back += 1) {
    const byte = bytes[bytes.length - back];
    if (byte < 0x80) return 0;
    if (byte >= 0xc0) return back < (byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2) ? back : 0;
  }
  return 0;
}
