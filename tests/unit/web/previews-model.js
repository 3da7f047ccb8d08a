// What the tests of the terminal share: a service with stored lines, and chance that can be repeated.

/** Numbers from 0 to 1 that are the same for the same seed (mulberry32). @param {number} seed */
export function chance(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** @template T @param {T[]} items @param {() => number} random @returns {T[]} */
export function shuffled(items, random) {
  const left = [...items];
  return items.map(() => left.splice(Math.floor(random() * left.length), 1)[0]);
}

/** @param {number} line @param {Partial<import("../../../services/previews/web/lines.js").Piece>} [more] */
export function piece(line, more = {}) {
  return {
    line, part: 0, last: true, partial: false, message: `line ${line}`, level: "INFO", source: "preview", stream: "stdout",
    timestamp: `2026-11-28T10:00:${String(line % 60).padStart(2, "0")}.000000Z`, attempt: 1, ...more,
  };
}

const LEVELS = ["DEBUG", "INFO", "WARN", "ERROR"];

/** Stored lines, answered for as docs/previews.md has it. */
export class Service {
  /** @param {ReturnType<typeof piece>[]} pieces in the order of the log */
  constructor(pieces) {
    this.pieces = pieces;
    this.asked = /** @type {string[]} */ ([]);
    this.away = 0; // so many requests fail
  }

  /** @param {string} query */
  async read(query) {
    this.asked.push(query);
    await new Promise((resolve) => setImmediate(resolve));
    if (this.away > 0) {
      this.away -= 1;
      throw new Error("the database is away");
    }
    const asked = Object.fromEntries(new URLSearchParams(query));
    const { after = "0", before = "9007199254740991", level = "DEBUG", stream, q } = asked;
    const matching = this.pieces.filter(
      (each) =>
        each.line > Number(after) && each.line < Number(before) && LEVELS.indexOf(each.level) >= LEVELS.indexOf(level) &&
        (!stream || each.stream === stream) && (!q || each.message.toLowerCase().includes(q.toLowerCase())),
    );
    const limit = Number(asked.tail ?? asked.limit ?? 500);
    const isTail = "tail" in asked;
    let data = isTail ? matching.slice(-limit) : matching.slice(0, limit);
    const lines = new Set(data.map((each) => each.line));
    data = matching.filter((each) => lines.has(each.line)); // the pieces of a line are never on two pages
    const numbers = this.pieces.map((each) => each.line);
    return {
      data,
      more: matching.length > data.length,
      first_line: numbers.length ? Math.min(...numbers) : 0,
      last_line: numbers.length ? Math.max(...numbers) : 0,
    };
  }
}

export class Listener {
  constructor() {
    this.told = /** @type {string[]} */ ([]);
    for (const name of ["inserted", "grown", "changed", "redone", "folded", "troubled"]) {
      this[name] = (...args) => this.told.push([name, ...args].join(" "));
    }
  }
}

/** Wait until it is so: what is asked for comes a moment later. @param {() => boolean} condition */
export async function until(condition) {
  for (let round = 0; !condition(); round += 1) {
    if (round > 10_000) throw new Error("it did not come to pass");
    await new Promise((resolve) => setImmediate(resolve));
  }
}
