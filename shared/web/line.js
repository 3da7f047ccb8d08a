// A line carries one stream or many: it connects, notices when it is cut, and connects again.
//
// What it carries are its members, followers of one stream each. A line knows when to connect, a member what has come.
// While the line cannot stream, it polls for its members, one after the other.

import { pauseMs } from "./backoff.js";
import { Cut } from "./cut.js";
import { Deadline, sleep } from "./deadline.js";
import { Poller } from "./poller.js";
import { readSse } from "./sse-stream.js";
import { onWake } from "./wake.js";

/** @typedef {import("./credentials.js").Credentials} Credentials */
/** @typedef {import("./follower.js").Follower} Follower */
/** @typedef {import("./follower.js").RawFrame} RawFrame */
/** @typedef {import("./wake.js").Wake} Wake */
/** @typedef {import("./wire.js").Hello} Hello */
/** @typedef {import("./wire.js").StreamEnd} StreamEnd */

/** How patient a line is. Tests have other values; pages should not need to. */
export const TUNING = {
  answerMs: 15_000, // until `hello`
  openMs: 5_000, // until something comes over a WebSocket
  slowMs: 4_000, // without `hello` for so long: poll meanwhile
  awakeMs: 4_000, // to answer a ping after waking up
  silentHeartbeats: 2.5, // so many without a byte, and the connection is dead
  pollMs: 3_000,
  lingerMs: 1_000, // a shared connection waits so long for its next member
  probeMs: 60_000, // between two attempts to use a WebSocket that does not work
  firstMs: 500, // of the pause after a failure
  capMs: 15_000,
};

/** @typedef {typeof TUNING} Tuning */

/**
 * How a line is, as its members show it.
 * @typedef {object} LineState
 * @property {"connecting"|"pausing"|"open"|"signed_out"} phase
 * @property {string} why
 * @property {number|null} retryAt
 * @property {boolean} isPolling whether news comes by polling
 */

export class Line {
  /** @type {"sse"|"websocket"} */
  transport = "sse";
  /** @type {Set<Follower>} */
  members = new Set();
  /** @type {LineState} */
  state = { phase: "connecting", why: "", retryAt: null, isPolling: false };
  /** Called when the last member has gone. */
  onIdle = () => {};

  #isRunning = false;
  #isSuspended = false;
  #failures = 0;
  #ungreeted = 0; // attempts in a row without a `hello`
  #renewals = 0; // refused tokens in a row
  #patienceMs = 0;
  #heartbeatMs = 0;
  #heardAt = 0;
  /** @type {number|null} */
  #retryMs = null; // what `retry:` has asked for
  /** @type {string|null} */
  #token = null;
  /** @type {Deadline|null} */
  #attempt = null;
  #pause = new AbortController();
  #poller;

  /**
   * @param {Credentials} credentials
   * @param {Tuning} tuning
   */
  constructor(credentials, tuning) {
    this.credentials = credentials;
    this.tuning = tuning;
    this.#poller = new Poller(
      () => this.members,
      tuning.pollMs,
      (isPolling) => isPolling !== this.state.isPolling && this.set({ isPolling }),
    );
  }

  // ── members ──────────────────────────────────────────────────────────────────────────────────────────────────

  /** @param {Follower} member */
  join(member) {
    this.members.add(member);
    member.lineIs(this.state, this.transport);
    this.joined(member);
    if (!this.#isRunning) {
      this.#isRunning = true;
      this.#run();
    }
  }

  /** @param {Follower} member */
  leave(member) {
    if (!this.members.delete(member)) return;
    this.left(member);
    if (!this.isWanted) this.#closeUnwanted();
  }

  /** Whether there is somebody to connect for. */
  get isWanted() {
    return this.members.size > 0;
  }

  get #lingerMs() {
    return this.transport === "websocket" && this.state.phase === "open" ? this.tuning.lingerMs : 0;
  }

  #closeUnwanted() {
    const close = () => {
      if (!this.isWanted) this.drop(new Cut("nobody is left"));
    };
    if (this.#lingerMs) setTimeout(close, this.#lingerMs);
    else close();
  }

  /**
   * A member has come; the line may be open.
   * @param {Follower} member
   */
  joined(member) {}

  /**
   * A member has gone.
   * @param {Follower} member
   */
  left(member) {}

  // ── connecting ───────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Connect and carry frames, until the connection is over. Throws what `Cut.of` understands. For subclasses.
   * @param {string|null} token
   * @param {Deadline} attempt aborted: let go at once
   * @returns {Promise<void>}
   */
  async connect(token, attempt) {
    throw new Error("a line of no kind");
  }

  /**
   * Whether the connection is alive, now that the page has woken up. For subclasses.
   * @param {Deadline} attempt
   */
  check(attempt) {
    if (Date.now() - this.#heardAt > 1.2 * this.#heartbeatMs) this.drop(new Cut("the page was asleep", { isAtOnce: true }));
  }

  async #run() {
    await Promise.resolve(); // so that no callback is called before `follow` has returned
    const ends = [onWake((wake) => this.#wake(wake)), this.credentials.onChange((_, cause) => this.#changed(cause))];
    while (this.isWanted) {
      const cut = await this.#connectOnce();
      if (this.isWanted) await this.#recover(cut);
    }
    this.#poller.stop();
    ends.forEach((end) => end());
    this.#isRunning = false;
    this.onIdle();
  }

  /** @returns {Promise<Cut>} */
  async #connectOnce() {
    const attempt = (this.#attempt = new Deadline());
    attempt.set(this.tuning.answerMs, "there was no answer in time");
    const slow = setTimeout(() => this.#ungreeted && this.#poller.start(), this.tuning.slowMs);
    this.#patienceMs = this.tuning.answerMs;
    this.#ungreeted += 1;
    this.set({ phase: "connecting", retryAt: null });
    try {
      this.#token = await this.credentials.current();
      if (!attempt.signal.aborted) await this.connect(this.#token, attempt);
      return Cut.of(attempt.signal.aborted ? attempt.signal.reason : new Cut("the connection was closed"));
    } catch (error) {
      return Cut.of(attempt.signal.aborted ? attempt.signal.reason : error);
    } finally {
      clearTimeout(slow);
      this.#attempt = null;
      attempt.abort(new Cut("the connection was closed"));
      attempt.clear();
    }
  }

  /** @param {Cut} cut */
  async #recover(cut) {
    this.#pause = new AbortController();
    this.state = { ...this.state, phase: "pausing", why: cut.message }; // shown with what follows
    if (this.#isSuspended) return await aborted(this.#pause.signal);
    if (cut.isUnauthorized && (await this.#renew())) return;
    if (cut.isAtOnce) return;
    this.#failures += 1;
    if (cut.isAnswered || this.#ungreeted >= 2) this.#poller.start();
    const { firstMs, capMs } = this.tuning;
    const asked = cut.askedMs ?? (this.#ungreeted ? 0 : this.#retryMs);
    const wait = this.pauseMs() ?? pauseMs(this.#failures, Math.random(), asked, { firstMs, capMs });
    this.set({ retryAt: Date.now() + wait });
    await sleep(wait, this.#pause.signal);
  }

  /** A pause of the line's own, in place of the usual one. @returns {number|null} */
  pauseMs() {
    return null;
  }

  /** Whether to go on at once: with another token, or after a sign-in. */
  async #renew() {
    this.#renewals += 1;
    const token = await this.credentials.renew(this.#token).catch(() => undefined);
    if (token === undefined) return false; // the source has failed; it is asked again after a pause
    if (token !== null) return this.#renewals === 1; // one that is refused as well must not be asked for without pause
    this.#poller.stop();
    this.set({ phase: "signed_out", why: "the server wants a token that it takes" });
    if (this.credentials.state === "signed_out") await aborted(this.#pause.signal);
    return true;
  }

  // ── what becomes of the connection ───────────────────────────────────────────────────────────────────────────

  /** Something has come. */
  heard() {
    this.#heardAt = Date.now();
    this.#attempt?.set(this.#patienceMs, "nothing was heard for too long");
  }

  /**
   * A member was greeted: streaming works.
   * @param {Hello} hello
   */
  greeted(hello) {
    this.#heartbeatMs = 1000 * hello.heartbeat_seconds;
    this.#patienceMs = Math.max(this.tuning.silentHeartbeats * this.#heartbeatMs, 1000);
    this.#ungreeted = this.#renewals = 0;
    this.state = { ...this.state, phase: "open", why: "", retryAt: null }; // members show what they are greeted with
    this.#poller.stop();
    this.heard();
  }

  /** What comes is of use: the next failure is the first one. */
  worked() {
    this.#failures = 0;
  }

  /** @param {Cut} cut */
  drop(cut) {
    this.#attempt?.abort(cut);
    this.#pause.abort();
  }

  /** Do not wait for the next attempt. */
  retryNow() {
    this.#pause.abort();
  }

  /** @param {Wake} wake */
  #wake(wake) {
    this.#isSuspended = wake === "left";
    if (wake === "left") this.drop(new Cut("the page was left", { isAtOnce: true }));
    else if (!this.#attempt) this.#pause.abort();
    else if (wake === "network") this.drop(new Cut("the network has changed", { isAtOnce: true }));
    else if (this.state.phase === "open") this.check(this.#attempt);
  }

  /** @param {import("./credentials.js").Cause} cause */
  #changed(cause) {
    if (cause === "replaced") this.drop(new Cut("somebody else has signed in", { isAtOnce: true }));
    else if (cause === "renewed") this.renewed(this.credentials.token);
    if (this.state.phase === "signed_out" && cause !== "refused") this.#pause.abort();
  }

  /**
   * There is a newer token; the connection began with an older one. For subclasses.
   * @param {string|null} token
   */
  renewed(token) {}

  /** @param {Partial<LineState>} changes */
  set(changes) {
    this.state = { ...this.state, ...changes };
    for (const member of [...this.members]) member.lineIs(this.state, this.transport);
  }

  // ── server-sent events ───────────────────────────────────────────────────────────────────────────────────────

  /**
   * Read an event stream to its end. `take` is handed what each chunk brings, and returns the end if it was said. True:
   * there is nothing more to come (204).
   * @param {string} url
   * @param {{lastEventId: string|null, token: string|null, attempt: Deadline}} how
   * @param {(frames: RawFrame[]) => StreamEnd|null} take
   */
  async readStream(url, { lastEventId, token, attempt }, take) {
    const chunks = readSse(url, token, { lastEventId, signal: attempt.signal });
    for (let next = await chunks.next(); ; next = await chunks.next()) {
      if (next.done) return next.value;
      this.heard();
      this.#retryMs = next.value.retry ?? this.#retryMs;
      const end = take(next.value.messages.map(({ id, data }) => ({ id, event: readEvent(data) })));
      if (end) throw Cut.by(end);
      if (attempt.signal.aborted) throw attempt.signal.reason;
    }
  }
}

/** @param {string} data */
function readEvent(data) {
  try {
    const event = JSON.parse(data);
    if (typeof event?.type === "string") return event;
  } catch {
    // as below
  }
  throw new Cut("what comes is no event stream of Tailrace");
}

/**
 * @param {AbortSignal} signal
 * @returns {Promise<void>}
 */
function aborted(signal) {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
