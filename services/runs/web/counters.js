// What the workers of a run have counted: cumulative per worker and attempt, as `node_update` tells them.

/**
 * @typedef {object} Counter one worker's tokens in its current attempt, and those of its earlier ones
 * @property {number} attempt
 * @property {number} tokensIn
 * @property {number} tokensOut
 * @property {number} beforeIn
 * @property {number} beforeOut
 * @property {boolean} estimated a guess, which the next count replaces whatever it is; a real one only grows
 */

/** The same sums as the service keeps (services/runs/summary.py): a page must not disagree with the list. */
export class Counters {
  /** @type {Map<string, Counter>} */
  #workers = new Map();

  /** Count a `node_update`. @param {any} event @param {number} attempt the run's, for an event that names none */
  count(event, attempt) {
    const name = event.worker_id ?? "";
    const known = this.#begin(name, event.attempt ?? attempt);
    known.tokensIn = grown(known.tokensIn, event.tokens_in, known.estimated);
    known.tokensOut = grown(known.tokensOut, event.tokens_out, known.estimated);
    known.estimated = event.estimated ?? false;
  }

  get tokensIn() {
    let sum = 0;
    for (const one of this.#workers.values()) sum += one.tokensIn + one.beforeIn;
    return sum;
  }

  get tokensOut() {
    let sum = 0;
    for (const one of this.#workers.values()) sum += one.tokensOut + one.beforeOut;
    return sum;
  }

  get estimated() {
    for (const one of this.#workers.values()) if (one.estimated) return true;
    return false;
  }

  /** @param {string} name @param {number} attempt @returns {Counter} */
  #begin(name, attempt) {
    const known = this.#workers.get(name);
    if (known?.attempt === attempt) return known;
    const begun = {
      attempt,
      tokensIn: 0,
      tokensOut: 0,
      beforeIn: known ? known.beforeIn + known.tokensIn : 0,
      beforeOut: known ? known.beforeOut + known.tokensOut : 0,
      estimated: false,
    };
    this.#workers.set(name, begun);
    return begun;
  }
}

/** @param {number} known @param {number | undefined} told @param {boolean} wasGuessed */
function grown(known, told, wasGuessed) {
  if (told === undefined) return known;
  return wasGuessed ? told : Math.max(known, told);
}
