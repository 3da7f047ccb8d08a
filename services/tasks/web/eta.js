// How long a task may still take, from how fast it has been lately. Pure. Says nothing where nobody can know.
//
//   new Pace()                   add(time, done) for each news of its progress, in order
//   pace.join(later)             what another pace knows beyond it
//   pace.remaining(total, now)   milliseconds, or null
//   inWords(milliseconds)        "about 3 min left"

/** How much of the past counts: the newest steps, since work changes its speed. */
const STEPS = 12;
const FEWEST_STEPS = 2;
const SHORTEST_MILLISECONDS = 2_000; // less is no rate, only a burst
const PATIENCE_STEPS = 4; // without a step for so many times the usual: nobody knows any more
const PATIENCE_MILLISECONDS = 5_000;

/** @typedef {{time: number, done: number}} Step */

export class Pace {
  /** @type {Step[]} */
  #steps = [];

  /** @param {number} time in milliseconds @param {number} done */
  add(time, done) {
    const last = this.#steps.at(-1);
    if (last && (done < last.done || time < last.time)) this.#steps = []; // begun again
    else if (last && done === last.done) return;
    this.#steps.push({ time, done });
    if (this.#steps.length > STEPS + 1) this.#steps.shift();
  }

  /** What another pace knows beyond it. @param {Pace} later */
  join(later) {
    for (const { time, done } of later.#steps) if (time > (this.#steps.at(-1)?.time ?? 0)) this.add(time, done);
  }

  /** @param {number | null} total @param {number} now @returns {number | null} */
  remaining(total, now) {
    const first = this.#steps[0];
    const last = this.#steps.at(-1);
    if (total === null || !first || !last || this.#steps.length <= FEWEST_STEPS) return null;
    const took = last.time - first.time;
    const quiet = Math.max(0, now - last.time);
    const usual = took / (this.#steps.length - 1);
    if (took < SHORTEST_MILLISECONDS || quiet > usual * PATIENCE_STEPS + PATIENCE_MILLISECONDS) return null;
    const rate = (last.done - first.done) / took;
    return last.done >= total ? null : Math.max(0, (total - last.done) / rate - quiet);
  }
}

/** @param {number | null} milliseconds */
export function inWords(milliseconds) {
  if (milliseconds === null || !Number.isFinite(milliseconds)) return "";
  const seconds = milliseconds / 1_000;
  if (seconds < 10) return "a few seconds left";
  if (seconds < 50) return "less than a minute left";
  const minutes = Math.round(seconds / 60);
  if (minutes <= 1) return "about a minute left";
  if (minutes < 90) return `about ${minutes} min left`;
  const hours = Math.round(minutes / 60);
  return hours < 48 ? `about ${hours} h left` : `about ${Math.round(hours / 24)} d left`;
}
