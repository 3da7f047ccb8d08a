// Polling in place of a stream that does not work: for all members of a line, one after the other.

import { sleep } from "./deadline.js";

/** @typedef {import("./follower.js").Follower} Follower */

export class Poller {
  /** @type {AbortController|null} */
  #running = null;

  /**
   * @param {() => Iterable<Follower>} members
   * @param {number} pauseMs between two rounds, about
   * @param {(works: boolean) => void} tell whether news comes this way now
   */
  constructor(members, pauseMs, tell) {
    this.members = members;
    this.pauseMs = pauseMs;
    this.tell = tell;
  }

  /** Begin, unless it has. */
  start() {
    if (this.#running) return;
    this.#running = new AbortController();
    this.#poll(this.#running.signal);
  }

  stop() {
    if (!this.#running) return;
    this.#running.abort();
    this.#running = null;
    this.tell(false);
  }

  /** @param {AbortSignal} signal */
  async #poll(signal) {
    while (!signal.aborted) {
      const members = [...this.members()];
      let works = members.length > 0;
      for (const member of members) {
        if (!signal.aborted && !(await member.poll(signal))) works = false;
      }
      if (!signal.aborted) this.tell(works);
      await sleep(this.pauseMs * (0.75 + Math.random() / 2), signal);
    }
  }
}
