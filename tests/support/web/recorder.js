// What a follower hands over, in order, with a way to wait for it.

import { Credentials, Lines, LiveResource, follow } from "../../../shared/web/stream.js";

/** Impatient, so that no test waits; but never so that a busy machine would look like a fault. */
export const FAST = { firstMs: 2, capMs: 20, pollMs: 5, lingerMs: 20, probeMs: 50, answerMs: 20_000, slowMs: 20_000, openMs: 20_000 };

export function linesFor({ token = null, tuning = {}, ...more } = {}) {
  return new Lines({ credentials: new Credentials(token), tuning: { ...FAST, ...tuning }, ...more });
}

export class Recorder {
  log = []; // ["frames", [ids]], ["gap", gap] …
  frames = [];
  statuses = [];
  #waiting = [];

  /** Options for `follow` or `LiveResource`. */
  get options() {
    const note = (kind) => (what) => this.note(kind, what);
    return {
      onFrames: (frames) => {
        this.frames.push(...frames);
        this.note("frames", frames.map(({ id }) => id));
      },
      onStatus: (status) => {
        this.statuses.push(status);
        this.note("status", status.phase);
      },
      ...{ onLive: note("live"), onGap: note("gap"), onReset: note("reset"), onEnd: note("end") },
    };
  }

  follow(url, options = {}) {
    this.following = follow(url, { transport: "sse", lines: linesFor(), ...this.options, ...options });
    return this;
  }

  resource(options) {
    const { onFrames, ...noted } = this.options;
    const onChange = (state, frames) => {
      this.frames.push(...frames);
      this.note("change", state);
    };
    this.following = new LiveResource({ transport: "sse", lines: linesFor(), ...noted, onChange, ...options }).start();
    return this;
  }

  note(kind, what) {
    this.log.push([kind, what]);
    this.#waiting.splice(0).forEach((wake) => wake());
  }

  /** Wait until something is so. */
  async until(wanted) {
    while (!wanted(this)) await new Promise((resolve) => this.#waiting.push(resolve));
    return this;
  }

  /** Wait for a phase, from the beginning or after what was noted so far. */
  async phase(name, since = 0) {
    await this.until(() => this.log.slice(since).some(([kind, what]) => kind === "status" && what === name));
    return this.statuses.findLast(({ phase }) => phase === name);
  }

  get ids() {
    return this.frames.map(({ id }) => id);
  }

  /** The phases it went through; one that only changed its words or its time is one. */
  get phases() {
    const all = this.statuses.map(({ phase }) => phase);
    return all.filter((phase, index) => phase !== all[index - 1]);
  }

  kinds(...wanted) {
    return this.log.filter(([kind]) => wanted.includes(kind));
  }
}
