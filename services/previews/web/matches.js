// Which lines a filter or a search lets through: their numbers, as far as they are known. Pure.

import { plainOf } from "./ansi.js";
import { LEVELS } from "./lines.js";

/**
 * `level`: the lowest that is shown; `stream`: "stdout", "stderr" or ""; `text`: in whatever case.
 * @typedef {{ level: string, stream: string, text: string }} Filter
 */

/** @type {Filter} */
export const EVERYTHING = { level: "", stream: "", text: "" };

/** @param {Filter} filter */
export function isOpen(filter) {
  return !filter.level && !filter.stream && !filter.text;
}

/**
 * As the service decides it for a stored piece.
 * @param {Filter} filter
 * @param {{ level: string, stream?: string | null, message: string }} piece
 */
export function lets(filter, piece) {
  if (filter.level && LEVELS.indexOf(piece.level) < LEVELS.indexOf(filter.level)) return false;
  if (filter.stream && piece.stream !== filter.stream) return false;
  return !filter.text || plainOf(piece.message).toLowerCase().includes(filter.text.toLowerCase());
}

/**
 * The parameters of a request for stored lines.
 * @param {Filter} filter
 * @param {Record<string, string | number>} more
 */
export function queryOf(filter, more) {
  const query = new URLSearchParams();
  if (filter.level) query.set("level", filter.level);
  if (filter.stream) query.set("stream", filter.stream);
  if (filter.text) query.set("q", filter.text);
  for (const [name, value] of Object.entries(more)) query.set(name, String(value));
  return query.toString();
}

/**
 * Ascending numbers of matching lines. All that match between the first and the last of them are there; `moreBefore`
 * and `moreAfter` say whether others may match beyond.
 */
export class Matches {
  constructor() {
    /** @type {number[]} */
    this.numbers = [];
    this.moreBefore = true;
    this.moreAfter = false;
  }

  /**
   * Where the first number that is `number` or above stands.
   * @param {number} number
   */
  place(number) {
    let [low, high] = [0, this.numbers.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.numbers[middle] < number) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /**
   * Numbers that match, in whatever order.
   * @param {number[]} found
   * @returns {{ at: number, count: number, isOneRun: boolean }} where the first new one stands, how many there are, and
   *   whether they stand together
   */
  add(found) {
    const last = this.numbers[this.numbers.length - 1] ?? 0;
    const added = [...new Set(found)].filter((number) => number > last || this.numbers[this.place(number)] !== number);
    if (!added.length) return { at: this.numbers.length, count: 0, isOneRun: true };
    added.sort((one, other) => one - other);
    if (added[0] > last) this.numbers.push(...added);
    else this.numbers = [...this.numbers, ...added].sort((one, other) => one - other);
    const at = this.place(added[0]);
    return { at, count: added.length, isOneRun: this.place(added[added.length - 1]) === at + added.length - 1 };
  }
}
