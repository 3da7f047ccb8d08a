// Tokens per second, from counters that only ever say how many there are by now.

const SLICE_MILLISECONDS = 250;
const SLICES = 256; // 64 s; a power of two has no say in it, it only has to be longer than the longest series
const WINDOW_MILLISECONDS = 5_000;

/**
 * What a counter grew by, slice by slice, over the last minute. Times are the server's, in milliseconds; they may come
 * out of order within the minute, since a run has several workers.
 */
export class Rates {
  #tokens = new Float64Array(SLICES);
  #newest = -Infinity; // the newest slice there is
  #first = Infinity; // when the first tokens were counted: before that there is no rate to speak of

  /** @param {number} at @param {number} tokens how many more there are than before */
  add(at, tokens) {
    const slice = Math.floor(at / SLICE_MILLISECONDS);
    if (!Number.isFinite(slice) || slice <= this.#newest - SLICES) return;
    this.#forget(slice);
    this.#first = Math.min(this.#first, at);
    if (tokens > 0) this.#tokens[slice % SLICES] += tokens;
  }

  /** Tokens per second over the last five seconds, or over as many as there have been. @param {number} now */
  perSecond(now) {
    const seconds = Math.min(WINDOW_MILLISECONDS, Math.max(now - this.#first, 1_000)) / 1_000;
    return Number.isFinite(seconds) ? this.#sum(now - WINDOW_MILLISECONDS, now) / seconds : 0;
  }

  /** Tokens in each of the last `count` whole seconds, oldest first: the one under way would always look like a fall.
   * @param {number} now @param {number} count */
  series(now, count) {
    const end = Math.floor(now / 1_000) * 1_000 - 1_000;
    return Array.from({ length: count }, (_, place) => {
      const from = end - (count - 1 - place) * 1_000;
      return this.#sum(from, from + 1_000);
    });
  }

  /** Of the slices that begin at `from` or later and before `to`. */
  #sum(/** @type {number} */ from, /** @type {number} */ to) {
    const last = Math.min(Math.ceil(to / SLICE_MILLISECONDS) - 1, this.#newest);
    let sum = 0;
    for (let slice = Math.ceil(from / SLICE_MILLISECONDS); slice <= last; slice += 1) {
      if (slice > this.#newest - SLICES) sum += this.#tokens[slice % SLICES];
    }
    return sum;
  }

  #forget(/** @type {number} */ slice) {
    if (slice <= this.#newest) return;
    const oldest = Math.max(this.#newest + 1, slice - SLICES + 1);
    for (let passed = oldest; passed <= slice; passed += 1) this.#tokens[passed % SLICES] = 0;
    this.#newest = slice;
  }
}
