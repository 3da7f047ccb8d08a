// A line that carries many streams of one service over one WebSocket.

import { Cut } from "./cut.js";
import { ask } from "./http.js";
import { Line } from "./line.js";
import { Refused } from "./problems.js";
import { pauseMs } from "./backoff.js";
import { Sender } from "./sender.js";

/** @typedef {import("./deadline.js").Deadline} Deadline */
/** @typedef {import("./follower.js").Follower} Follower */
/** @typedef {import("./follower.js").RawFrame} RawFrame */
/** @typedef {import("./lines.js").Lines} Lines */
/** @typedef {import("./wire.js").Problem} Problem */
/** @typedef {import("./wire.js").StreamEnd} StreamEnd */

const SUBPROTOCOL = "tailrace.v1";
const TOKEN_EXPIRED = 4401;
const CLOSE_WORDS = /** @type {Record<number, string>} */ ({
  1012: "the server is leaving",
  4400: "the server did not understand this page",
  4401: "the token has expired",
  4403: "the token is somebody else's",
  4408: "this page did not read",
  4429: "this page sent too much",
});

export class SocketLine extends Line {
  transport = /** @type {const} */ ("websocket");
  /** Members that go over something else as long as this does not work. @type {Set<Follower>} */
  exiles = new Set();
  /** Whether WebSockets do not get through to this server. */
  isUnusable = false;

  #isProven = false; // something has come over this connection
  #unproven = 0; // attempts in a row over which nothing has come, though the server answers
  /** @type {ReturnType<typeof setTimeout>|undefined} */
  #proving = undefined;
  #lastRef = 0;
  /** @type {Sender|null} */
  #sender = null;
  /** @type {Map<string, Follower>} */
  #byRef = new Map();
  /** @type {Map<Follower, {failures: number, timer: ReturnType<typeof setTimeout>|undefined, polling: AbortController}>} */
  #waiting = new Map();

  /**
   * @param {string} url
   * @param {Lines} lines
   */
  constructor(url, lines) {
    super(lines.credentials, lines.tuning);
    this.url = url;
    this.lines = lines;
  }

  get isWanted() {
    return this.members.size > 0 || this.exiles.size > 0;
  }

  pauseMs() {
    return this.isUnusable ? this.tuning.probeMs * (0.75 + Math.random() / 2) : null;
  }

  /** @param {Follower} exile */
  disown(exile) {
    if (this.exiles.delete(exile) && !this.isWanted) this.drop(new Cut("nobody is left"));
  }

  // ── one connection ───────────────────────────────────────────────────────────────────────────────────────────

  /**
   * @param {string|null} token
   * @param {Deadline} attempt
   */
  async connect(token, attempt) {
    const protocols = token === null ? [SUBPROTOCOL] : [SUBPROTOCOL, `bearer.${token}`];
    const { WebSocket } = this.lines;
    if (!WebSocket) throw new Cut("this browser has no WebSockets");
    const socket = new WebSocket(this.url, protocols);
    this.#isProven = false;
    try {
      await this.#carry(socket, attempt);
    } catch (error) {
      if (this.#isProven || attempt.signal.aborted) throw error;
      await this.#askWhy(attempt);
    } finally {
      this.#letGo(socket);
    }
  }

  /**
   * Until it is closed, by whomever. Throws why.
   * @param {WebSocket} socket
   * @param {Deadline} attempt
   * @returns {Promise<never>}
   */
  #carry(socket, attempt) {
    return new Promise((_, reject) => {
      const attend = (/** @type {() => void} */ act) => () => {
        try {
          act();
        } catch (error) {
          reject(error);
        }
      };
      socket.onopen = attend(() => this.#opened(socket));
      socket.onmessage = ({ data }) => attend(() => this.#take(data))();
      socket.onclose = ({ code }) => {
        this.#isProven ||= code in CLOSE_WORDS; // the server has spoken
        reject(closed(code));
      };
      this.#proving = setTimeout(() => this.#isProven || reject(new Cut("nothing came")), this.tuning.openMs);
      attempt.signal.addEventListener("abort", () => reject(attempt.signal.reason), { once: true });
    });
  }

  /** @param {WebSocket} socket */
  #opened(socket) {
    this.#sender = new Sender(socket);
    this.#sender.send({ op: "ping" });
    for (const member of this.members) this.#follow(member);
  }

  /** Something has come over it: a proxy in between that only lets it be opened is none the better for that. */
  #proven() {
    this.#isProven = true;
    this.#unproven = 0;
    this.isUnusable = false;
    for (const exile of this.exiles) exile.moveTo(this);
    this.exiles.clear();
  }

  /** @param {WebSocket} socket */
  #letGo(socket) {
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
    clearTimeout(this.#proving);
    this.#sender?.close();
    this.#sender = null;
    this.#byRef.clear();
    for (const member of [...this.#waiting.keys()]) this.#stopWaiting(member);
  }

  /**
   * A browser does not say why an upgrade was refused: the polling twin does. Always throws.
   * @param {Deadline} attempt
   */
  async #askWhy(attempt) {
    const [member] = this.members.size ? this.members : this.exiles;
    if (!member) throw new Cut("nobody is left");
    try {
      await ask(member.target.pollUrl(null, 1), { credentials: this.credentials, signal: attempt.signal });
    } catch (error) {
      if (error instanceof Refused && !error.mayPass && error.status !== 401) member.refuse(error.problem);
      throw error;
    }
    this.#unproven += 1;
    if (this.#unproven > 1) {
      this.isUnusable = true;
      this.lines.evacuate(this);
    }
    // Once may be chance: the server was started between the two questions.
    throw new Cut("WebSockets do not get through", { isAnswered: true, isAtOnce: this.#unproven === 1 });
  }

  // ── streams on it ────────────────────────────────────────────────────────────────────────────────────────────

  /** @param {Follower} member */
  joined(member) {
    this.exiles.delete(member);
    if (this.#sender) this.#follow(member);
  }

  /** @param {Follower} member */
  left(member) {
    this.#stopWaiting(member);
    for (const [ref, follower] of this.#byRef) {
      if (follower !== member) continue;
      this.#byRef.delete(ref);
      this.#sender?.send({ op: "unfollow", ref });
    }
  }

  /** @param {Follower} member */
  #follow(member) {
    const { channel, types, lossless, after } = member.target;
    const ref = String((this.#lastRef += 1)); // never used twice: what comes late of an old one is nobody's
    this.#byRef.set(ref, member);
    this.#sender?.send({
      ...{ op: "follow", ref, channel },
      ...((member.position ?? after) !== null && { after: member.position ?? after }),
      ...(types && { types }),
      ...(lossless && { lossless }),
    });
  }

  /** @param {unknown} data */
  #take(data) {
    this.heard();
    const frames = readFrames(data);
    if (!this.#isProven) this.#proven();
    for (let from = 0, to; from < frames.length; from = to) {
      const { ref } = frames[from];
      for (to = from + 1; to < frames.length && frames[to].ref === ref; ) to += 1;
      const member = ref === undefined ? undefined : this.#byRef.get(ref);
      if (member) this.#hand(member, String(ref), frames.slice(from, to));
    }
  }

  /**
   * @param {Follower} member
   * @param {string} ref
   * @param {RawFrame[]} frames
   */
  #hand(member, ref, frames) {
    if (frames[0].event.type === "refused") {
      this.#byRef.delete(ref);
      this.#refused(member, frames[0].event.problem);
      return;
    }
    if (frames.some(({ event }) => event.type === "live")) this.#stopWaiting(member);
    const end = member.take(frames, this);
    if (!end) return;
    this.#byRef.delete(ref);
    const cut = Cut.by(end);
    if (end.reason === "server_shutdown" || cut.isUnauthorized) throw cut; // they concern the whole connection
    this.#comesBack(member, cut);
  }

  /**
   * @param {Follower} member
   * @param {Problem} problem
   */
  #refused(member, problem) {
    const refusal = new Refused(problem);
    if (refusal.status === 401) throw refusal; // the token is the connection's
    if (refusal.mayPass) this.#comesBack(member, Cut.of(refusal));
    else member.refuse(problem);
  }

  /**
   * It alone was cut; its neighbours go on. Meanwhile it polls.
   * @param {Follower} member
   * @param {Cut} cut
   */
  async #comesBack(member, cut) {
    const failures = (this.#waiting.get(member)?.failures ?? 0) + 1;
    this.#stopWaiting(member);
    const wait = pauseMs(failures, Math.random(), cut.askedMs, this.tuning);
    const polling = new AbortController();
    const retryAt = Date.now() + wait;
    const timer = setTimeout(() => {
      polling.abort(cut);
      if (this.#sender) this.#follow(member);
    }, wait);
    this.#waiting.set(member, { failures, timer, polling });
    member.waits(cut.message, retryAt, false);
    if (await member.poll(polling.signal)) {
      if (!polling.signal.aborted) member.waits(cut.message, retryAt, true);
    }
  }

  /** @param {Follower} member */
  #stopWaiting(member) {
    const waiting = this.#waiting.get(member);
    if (!waiting) return;
    clearTimeout(waiting.timer);
    waiting.polling.abort(new Cut("it goes on"));
    this.#waiting.delete(member);
  }

  // ── asking whether it is alive; another token ────────────────────────────────────────────────────────────────

  /** @param {Deadline} attempt */
  check(attempt) {
    this.#sender?.send({ op: "ping" });
    attempt.set(this.tuning.awakeMs, "there was no answer after waking up");
  }

  /** @param {string|null} token */
  renewed(token) {
    if (token !== null) this.#sender?.send({ op: "auth", token });
  }
}

/** @param {number} code */
function closed(code) {
  return new Cut(CLOSE_WORDS[code] ?? "the connection was closed", {
    isUnauthorized: code === TOKEN_EXPIRED,
  });
}

/**
 * @param {unknown} data
 * @returns {(RawFrame & {ref?: string})[]}
 */
function readFrames(data) {
  try {
    const frames = JSON.parse(String(data));
    if (frames.every((/** @type {any} */ frame) => typeof frame.event.type === "string")) return frames;
  } catch {
    // as below
  }
  throw new Cut("what comes is no stream of Tailrace");
}
