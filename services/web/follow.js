// Follows a Tailrace stream over cuts, restarts and refusals, with nothing lost or repeated.
//
// It reads the stream with fetch, not EventSource: that way the heartbeats are seen, so a connection that died in
// silence is noticed, and a refusal says why. docs/protocol.md describes the frames.

const SILENT_HEARTBEATS = 2.5; // after so many without a byte the connection counts as dead
const ANSWER_MILLISECONDS = 15_000;
const LONGEST_PAUSE_MILLISECONDS = 30_000;

/**
 * Follow the stream at `url` from the position `after` (none: where that stream starts by default).
 *
 * `onFrame(event, id)` gets every frame, control frames too; `onState(state, why)` how the connection is: `connecting`,
 * `history`, `live`, `cut` (it will try again), `ended` or `refused` (it will not). Returns a function that stops it.
 */
export function follow(url, { after = null, onFrame, onState }) {
  const leaving = new AbortController();
  const stream = new Stream(url, after, onFrame, onState, leaving.signal);
  stream.run();
  return () => leaving.abort();
}

class Stream {
  constructor(url, lastId, onFrame, onState, leaving) {
    Object.assign(this, { url, lastId, onFrame, onState, leaving, failures: 0, retry: 2_000, ended: false });
  }

  async run() {
    this.tell("connecting");
    while (!this.leaving.aborted && !this.ended) {
      this.wait = 0;
      let why = "the connection was closed";
      try {
        await this.connect();
      } catch (error) {
        why = error.message;
      }
      if (!this.ended && !this.leaving.aborted) {
        this.tell("cut", why);
        await pause(this.wait || this.backOff(), this.leaving);
        this.failures += 1;
      }
    }
  }

  async connect() {
    const silence = new AbortController();
    let timer = 0;
    const heard = (milliseconds) => {
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(new Error("nothing was heard for too long")), milliseconds);
    };
    try {
      this.patience = ANSWER_MILLISECONDS;
      heard(this.patience);
      const headers = { Accept: "text/event-stream", ...(this.lastId && { "Last-Event-ID": this.lastId }) };
      const signal = AbortSignal.any([silence.signal, this.leaving]);
      const response = await fetch(this.url, { headers, signal, cache: "no-store" });
      if (response.status !== 200) return await this.refused(response);
      const parser = new SseParser();
      const decoder = new TextDecoder();
      const reader = response.body.getReader();
      for (let chunk = await reader.read(); !chunk.done && !this.ended; chunk = await reader.read()) {
        for (const message of parser.feed(decoder.decode(chunk.value, { stream: true }))) this.take(message);
        this.retry = parser.retry ?? this.retry;
        heard(this.patience);
      }
    } finally {
      clearTimeout(timer);
      silence.abort();
    }
  }

  async refused(response) {
    if (response.status === 204) return this.end("ended", "");
    const problem = await response.json().catch(() => ({}));
    const why = problem.detail ?? `${response.status} ${response.statusText}`;
    const passing = response.status >= 500 || response.status === 429 || response.status === 408;
    if (!passing) return this.end("refused", why);
    this.wait = 1000 * Number(response.headers.get("Retry-After") ?? 0) * jitter();
    throw new Error(why);
  }

  take({ id, data }) {
    const event = JSON.parse(data);
    if (event.type === "hello") {
      this.failures = 0;
      this.patience = 1000 * SILENT_HEARTBEATS * event.heartbeat_seconds;
      this.tell("history");
    }
    this.onFrame(event, id);
    this.lastId = id;
    if (event.type === "live") this.tell("live");
    if (event.type === "stream_end") {
      this.wait = event.retry_after_ms ?? 0;
      if (event.final) this.end("ended", event.status ?? event.reason);
    }
  }

  end(state, why) {
    this.ended = true;
    this.tell(state, why);
  }

  tell(state, why = "") {
    if (!this.leaving.aborted) this.onState(state, why);
  }

  backOff() {
    return Math.min(this.retry * 2 ** this.failures, LONGEST_PAUSE_MILLISECONDS) * jitter();
  }
}

/** Server-sent events from text that is cut anywhere. */
export class SseParser {
  constructor() {
    Object.assign(this, { pending: "", id: "", data: [], retry: undefined });
  }

  /** The messages that `text` completes, each with its `id` and `data`. */
  *feed(text) {
    const lines = (this.pending + text).split("\n");
    this.pending = lines.pop();
    for (const line of lines) {
      const message = this.read(line.endsWith("\r") ? line.slice(0, -1) : line);
      if (message) yield message;
    }
  }

  read(line) {
    if (line === "") {
      const data = this.data.join("\n");
      const isMessage = this.data.length > 0;
      this.data = [];
      return isMessage && { id: this.id, data };
    }
    const colon = line.indexOf(":"); // a comment begins with one
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (name === "id") this.id = value;
    else if (name === "data") this.data.push(value);
    else if (name === "retry") this.retry = Number(value);
    return null;
  }
}

function jitter() {
  return 0.75 + Math.random() / 2;
}

function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
