// All lines of a page: which of them carries what.

import { credentials as pageCredentials } from "./credentials.js";
import { TUNING } from "./line.js";
import { RunsLine } from "./runs-line.js";
import { SocketLine } from "./socket-line.js";
import { SseLine } from "./sse-line.js";

/** @typedef {import("./credentials.js").Credentials} Credentials */
/** @typedef {import("./follower.js").Follower} Follower */
/** @typedef {import("./line.js").Line} Line */
/** @typedef {import("./line.js").Tuning} Tuning */

const MEMBERS_PER_SOCKET = 150; // the server takes 200 streams, and 200 messages in 10 s
const RUNS_PER_LINE = 50; // their ids are in the URL

export class Lines {
  /** @type {Map<string, SocketLine|RunsLine>} */
  #shared = new Map();

  /**
   * @param {{credentials?: Credentials, tuning?: Partial<Tuning>, WebSocket?: typeof globalThis.WebSocket|null}} [options]
   */
  constructor({ credentials = pageCredentials, tuning = {}, WebSocket = globalThis.WebSocket } = {}) {
    this.credentials = credentials;
    this.tuning = { ...TUNING, ...tuning };
    this.WebSocket = WebSocket;
  }

  /**
   * @param {Follower} member
   * @returns {Line}
   */
  lineFor(member) {
    const { target, options } = member;
    const wanted = options.transport ?? "auto";
    if (wanted !== "sse" && target.socketUrl !== null && this.WebSocket) {
      const line = this.#socketLine(target.socketUrl);
      if (wanted === "websocket" || !line.isUnusable) return line;
      line.exiles.add(member);
    }
    return this.#sseLine(member);
  }

  /** @param {Follower} member */
  #sseLine({ target: { base, runId } }) {
    if (base === null || runId === null) return new SseLine(this.credentials, this.tuning);
    return this.#sharedLine(`${base} runs`, RUNS_PER_LINE, () => new RunsLine(base, this.credentials, this.tuning));
  }

  /** @param {string} url */
  #socketLine(url) {
    const make = () => new SocketLine(url, this);
    return /** @type {SocketLine} */ (this.#sharedLine(url, MEMBERS_PER_SOCKET, make));
  }

  /**
   * The first that has room.
   * @template {SocketLine|RunsLine} L
   * @param {string} key
   * @param {number} room
   * @param {() => L} make
   */
  #sharedLine(key, room, make) {
    for (let number = 0; ; number += 1) {
      const name = `${key} ${number}`;
      const known = this.#shared.get(name);
      if (known && known.members.size < room) return known;
      if (known) continue;
      const line = make();
      line.onIdle = () => this.#shared.get(name) === line && this.#shared.delete(name);
      this.#shared.set(name, line);
      return line;
    }
  }

  /**
   * WebSockets do not get through: what may go over something else does, until the line says that they do.
   * @param {SocketLine} line
   */
  evacuate(line) {
    for (const member of [...line.members]) {
      if (member.options.transport === "websocket") continue;
      line.exiles.add(member);
      member.moveTo(this.#sseLine(member));
    }
  }

  /**
   * A follower is over.
   * @param {Follower} member
   */
  forget(member) {
    for (const line of this.#shared.values()) if (line instanceof SocketLine) line.disown(member);
  }
}

/** @type {WeakMap<Credentials, Lines>} */
const known = new WeakMap();

/**
 * The lines of the page that use these credentials.
 * @param {Credentials} [credentials]
 */
export function linesOf(credentials = pageCredentials) {
  const lines = known.get(credentials) ?? new Lines({ credentials });
  known.set(credentials, lines);
  return lines;
}
