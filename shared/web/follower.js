// One stream, whatever carries it: where it stands, what is handed over, and how it shows itself.

import { clockOf } from "./clock.js";
import { ask } from "./http.js";
import { isAfter, isPosition } from "./position.js";
import { Refused } from "./problems.js";
import { makeStatus } from "./status.js";

/** @typedef {import("./wire.js").Frame} Frame */
/** @typedef {import("./wire.js").Hello} Hello */
/** @typedef {import("./wire.js").Gap} Gap */
/** @typedef {import("./wire.js").Reset} Reset */
/** @typedef {import("./wire.js").StreamEnd} StreamEnd */
/** @typedef {import("./wire.js").Problem} Problem */
/** @typedef {import("./wire.js").WireEvent} WireEvent */
/** @typedef {import("./status.js").Status} Status */
/** @typedef {import("./target.js").Target} Target */
/** @typedef {import("./lines.js").Lines} Lines */
/** @typedef {import("./line.js").Line} Line */
/** @typedef {import("./line.js").LineState} LineState */
/** @typedef {import("./follow.js").FollowOptions} FollowOptions */
/** @typedef {{id: string, event: any}} RawFrame a frame as it came, an event or a control frame */

const POLL_LIMIT = 500;
const POLL_TIMEOUT_MS = 15_000;
const LAG_MS = 1_000; // the lag is shown no more often: each new status is work for the page

export class Follower {
  status = makeStatus({ phase: "connecting", since: Date.now() });
  /** The last position handed over. @type {string|null} */
  position = null;
  /** Whether nothing more will come: it has ended, was refused or stopped. */
  isOver = false;
  /** @type {Line|null} */
  line = null;

  #isAnnounced = false; // the page knows of this stream
  #isLive = false; // what comes now is news
  #isCurrent = false; // a poll has read all there was: what the next one brings is news
  /** @type {Frame[]} */
  #batch = [];
  /** @type {ReturnType<typeof setTimeout>|undefined} */
  #lagTimer = undefined;
  /** @type {number|null} */
  #lagMs = null;

  /**
   * @param {Target} target
   * @param {FollowOptions} options
   * @param {Lines} lines
   */
  constructor(target, options, lines) {
    this.target = target;
    this.options = options;
    this.lines = lines;
    if (isPosition(target.after)) this.position = target.after;
  }

  /** No callback is called before this has returned. */
  start() {
    this.moveTo(this.lines.lineFor(this));
    queueMicrotask(() => {
      this.#isAnnounced = true;
      this.#call(this.options.onStatus, this.status);
    });
    return this;
  }

  /** @param {Line} line */
  moveTo(line) {
    this.line?.leave(this);
    this.line = line;
    line.join(this);
  }

  stop() {
    this.#over({ phase: "stopped", why: "" });
  }

  retryNow() {
    this.line?.retryNow();
  }

  // ── what comes ───────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Frames of this stream, in order. Returns the end that the server has said, if this stream is to come back after it.
   * @param {readonly RawFrame[]} frames
   * @param {Line} line
   * @returns {StreamEnd|null}
   */
  take(frames, line) {
    for (const { id, event } of frames) {
      if (this.isOver) return null;
      switch (event.type) {
        case "hello":
          this.#greet(event, id);
          line.greeted(event);
          break;
        case "live":
          this.#flush();
          line.worked();
          this.#goLive(event);
          break;
        case "stream_end":
          this.#flush();
          if (!event.final) return event;
          this.finish(event);
          break;
        default:
          this.#takeOne(id, event);
      }
    }
    if (this.#batch.length) line.worked();
    this.#flush();
    return null;
  }

  /**
   * What both streams and polls bring.
   * @param {string} id
   * @param {any} event
   */
  #takeOne(id, event) {
    if (event.type === "reset") {
      this.#flush();
      this.position = id; // it may lie before the old one
      this.#call(this.options.onReset, event);
    } else if (!isAfter(id, this.position)) {
      return; // had already: two connections overlap, or a poll was faster
    } else {
      this.position = id;
      if (event.type === "gap") {
        this.#flush();
        this.#call(this.options.onGap, { ...event, backfill: new URL(event.backfill, this.target.url).href });
      } else if (event.type !== "bookmark") {
        this.#batch.push({ id, event, live: this.#isLive });
      }
    }
  }

  /**
   * The id of a hello that goes on from elsewhere than we asked is where that begins. A reset follows: cut off before
   * it, and coming back from there, we would never be told.
   * @param {Hello} hello
   * @param {string} id
   */
  #greet(hello, id) {
    if ((hello.resumed || this.position === null) && isAfter(id, this.position)) this.position = id;
    this.#isLive = this.#isCurrent = false;
    this.#show({ phase: "catching_up", why: "", retryAt: null, transport: this.line?.transport ?? null });
  }

  /** @param {{replayed: number}} live */
  #goLive(live) {
    this.#isLive = this.#isCurrent = true;
    this.#lagMs = null;
    this.#show({ phase: "live", why: "", retryAt: null, lagMilliseconds: null });
    this.#call(this.options.onLive, live);
  }

  /** What has come so far is handed over: before anything that has its place after it. */
  #flush() {
    if (!this.#batch.length) return;
    const frames = this.#batch;
    this.#batch = [];
    this.#call(this.options.onFrames, frames);
    this.#measureLag(frames[frames.length - 1]);
  }

  /**
   * A mistake of the page's stops nothing; it is reported like any other that nobody catches.
   * @template T
   * @param {((what: T) => void)|undefined} callback
   * @param {T} what
   */
  #call(callback, what) {
    if (this.isOver || !callback) return;
    try {
      callback(what);
    } catch (error) {
      reportError(error);
    }
  }

  // ── polling ──────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Fetch what is new from the polling twin, all of it. Whether that works; it does where nothing more is to come.
   * @param {AbortSignal} signal
   */
  async poll(signal) {
    try {
      while (!this.isOver) {
        const asked = { credentials: this.lines.credentials, signal, timeoutMs: POLL_TIMEOUT_MS };
        const { body } = await ask(this.target.pollUrl(this.position, POLL_LIMIT), asked);
        if (signal.aborted || this.isOver) return true;
        const before = this.position;
        this.#takePolled(body);
        if (body.next === body.head || body.next === before) break;
      }
      return true;
    } catch (error) {
      if (signal.aborted || !(error instanceof Refused) || error.mayPass || error.status === 401) return false;
      this.refuse(error.problem);
      return true;
    }
  }

  /** @param {{data: RawFrame[], next: string, head: string, ended: string|null}} answer */
  #takePolled({ data, next, head, ended }) {
    this.#isLive = this.#isCurrent;
    for (const { id, event } of data) this.#takeOne(id, event);
    this.#flush();
    if (this.isOver) return;
    if (isAfter(next, this.position)) this.position = next;
    this.#isCurrent ||= next === head;
    if (ended !== null) this.finish(terminal(ended, next));
  }

  // ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * The stream is over for good.
   * @param {StreamEnd} end
   */
  finish(end) {
    this.#flush();
    this.#call(this.options.onEnd, end);
    this.#over({ phase: "ended", why: "", reason: end.reason, outcome: end.status });
  }

  /** There is nothing after our position, and nothing more will come: 204. */
  finishSilently() {
    this.finish(terminal(null, this.position ?? ""));
  }

  /** @param {Problem} problem */
  refuse(problem) {
    this.#over({ phase: "refused", why: problem.detail || problem.title, problem });
  }

  /** @param {Partial<Status>} how */
  #over(how) {
    if (this.isOver) return;
    clearTimeout(this.#lagTimer);
    if (how.phase !== "stopped") this.#show({ retryAt: null, lagMilliseconds: null, ...how });
    else this.status = makeStatus({ ...how, since: Date.now() });
    this.isOver = true;
    this.#batch = [];
    this.lines.forget(this);
    this.line?.leave(this);
  }

  // ── how it shows itself ──────────────────────────────────────────────────────────────────────────────────────

  /**
   * The line has changed.
   * @param {LineState} state
   * @param {"sse"|"websocket"} transport
   */
  lineIs({ phase, why, retryAt, isPolling }, transport) {
    if (phase === "open" || this.isOver) return; // what comes says how it is
    if (phase === "pausing" && !isPolling) this.#isLive = this.#isCurrent = false;
    const common = { why, retryAt, lagMilliseconds: null };
    if (phase === "signed_out") this.#show({ phase, ...common, retryAt: null, transport: null });
    else if (isPolling) this.#show({ phase: "polling", ...common, transport: "polling" });
    else this.#show({ phase: why ? "reconnecting" : "connecting", ...common, transport });
  }

  /**
   * This stream alone cannot be carried now, though its line can.
   * @param {string} why
   * @param {number} retryAt
   * @param {boolean} isPolling
   */
  waits(why, retryAt, isPolling) {
    this.lineIs({ phase: "pausing", why, retryAt, isPolling }, this.line?.transport ?? "sse");
  }

  /** @param {Frame} frame */
  #measureLag({ event, live }) {
    if (!live || !event.ts || this.isOver) return;
    this.#lagMs = clockOf(this.target.url.href).lagMs(event.ts, Date.now());
    this.#lagTimer ??= setTimeout(() => {
      this.#lagTimer = undefined;
      if (this.status.phase === "live") this.#show({ lagMilliseconds: this.#lagMs });
    }, LAG_MS);
  }

  /** @param {Partial<Status>} changes */
  #show(changes) {
    const now = { ...this.status, ...changes };
    const names = /** @type {(keyof Status)[]} */ (Object.keys(changes));
    if (this.isOver || names.every((name) => this.status[name] === changes[name])) return;
    const since = now.phase === this.status.phase ? now.since : Date.now();
    this.status = makeStatus({ ...now, since });
    if (this.#isAnnounced) this.#call(this.options.onStatus, this.status);
  }
}

/**
 * @param {string|null} status
 * @param {string} position
 * @returns {StreamEnd}
 */
function terminal(status, position) {
  return { type: "stream_end", status, reason: "terminal", final: true, last_id: position, retry_after_ms: null };
}
