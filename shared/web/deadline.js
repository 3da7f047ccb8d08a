// An end to waiting that can be put off, and that comes early when somebody else gives up.

import { Unavailable } from "./problems.js";

/** A signal that is aborted when the time is over, or `outer` is. Clear it, or its timer outlives what it is for. */
export class Deadline {
  #controller = new AbortController();
  /** @type {ReturnType<typeof setTimeout>|undefined} */
  #timer = undefined;
  #follow = () => this.#controller.abort(this.outer?.reason);

  /** @param {AbortSignal} [outer] */
  constructor(outer) {
    this.outer = outer;
    if (outer?.aborted) this.#follow();
    else outer?.addEventListener("abort", this.#follow);
  }

  get signal() {
    return this.#controller.signal;
  }

  /**
   * The time is over after so many milliseconds from now, whatever was set before.
   * @param {number} milliseconds
   * @param {string} why
   */
  set(milliseconds, why) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.abort(new Unavailable(why)), milliseconds);
  }

  /** @param {unknown} reason */
  abort(reason) {
    this.#controller.abort(reason);
  }

  clear() {
    clearTimeout(this.#timer);
    this.outer?.removeEventListener("abort", this.#follow);
  }
}

/**
 * Wait; less when `signal` is aborted.
 * @param {number} milliseconds
 * @param {AbortSignal} signal
 * @returns {Promise<void>}
 */
export function sleep(milliseconds, signal) {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const wake = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", wake);
      resolve();
    };
    const timer = setTimeout(wake, milliseconds);
    signal.addEventListener("abort", wake);
  });
}
