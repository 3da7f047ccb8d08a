// The server's clock, as well as it can be known from here: for the lag of what is live.

const HEADER_MS = 2_000; // `Date` is whole seconds, and servers make it anew once a second

/**
 * How much the server's clock is ahead of this one, as an interval that each answer narrows. Within it we take what is
 * nearest to zero: most clocks are right, and nothing says that these are not.
 */
export class ServerClock {
  #least = -Infinity;
  #most = Infinity;

  /** Whether anything is known of it. */
  get isKnown() {
    return this.#most < Infinity;
  }

  /** How much it is ahead, in milliseconds. */
  get aheadMs() {
    return Math.min(Math.max(0, this.#least), this.#most);
  }

  /**
   * An answer's `Date`, with when it was asked for and when it came.
   * @param {string|null} date
   * @param {number} askedAt
   * @param {number} cameAt
   */
  sawAnswer(date, askedAt, cameAt) {
    const time = date ? Date.parse(date) : NaN;
    if (!Number.isNaN(time)) this.#narrow(time - cameAt, time + HEADER_MS - askedAt);
  }

  /**
   * Milliseconds from the publishing of an event to now; null when the clock is not known. An event from the future
   * tells that the server's clock is ahead.
   * @param {string} ts
   * @param {number} now
   */
  lagMs(ts, now) {
    const time = Date.parse(ts);
    if (Number.isNaN(time) || !this.isKnown) return null;
    this.#narrow(time - now, Infinity);
    return Math.max(0, Math.round(now + this.aheadMs - time));
  }

  /**
   * @param {number} least
   * @param {number} most
   */
  #narrow(least, most) {
    this.#least = Math.max(this.#least, least);
    this.#most = Math.min(this.#most, most);
    if (this.#least > this.#most) [this.#least, this.#most] = [least, most]; // a clock was set: believe the newest
  }
}

/** @type {Map<string, ServerClock>} */
const clocks = new Map();

/**
 * The clock of the server that this URL is at.
 * @param {string} url
 */
export function clockOf(url) {
  const { origin } = new URL(url, globalThis.document?.baseURI);
  const clock = clocks.get(origin) ?? new ServerClock();
  clocks.set(origin, clock);
  return clock;
}
