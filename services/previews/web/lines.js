// The lines of a preview's output that the page holds: bounded, and aware of what it has and what it has not. Pure.
//
// Lines are numbered 1, 2, 3 … without a hole, so a number says where a line belongs, whether it came by the stream or
// by a page of stored lines, and whichever came first. Taking the same piece twice changes nothing.

/**
 * @typedef {{ line: number, part: number, last: boolean, partial: boolean, message: string, level: string,
 *   source: string, stream?: string | null, timestamp: string, attempt: number, dropped?: number | null }} Piece
 */

const CHUNK = 256; // lines; what is kept or forgotten together
const LINE_OVERHEAD = 200; // bytes that a line takes beside its text, roughly

/** One line: its pieces, put together. */
export class Line {
  /** @param {Piece} piece */
  constructor(piece) {
    this.number = piece.line;
    this.level = piece.level;
    this.source = piece.source;
    this.stream = piece.stream ?? null;
    this.timestamp = piece.timestamp;
    this.attempt = piece.attempt;
    this.dropped = piece.dropped ?? 0;
    /** @type {string | null} */
    this.joined = null;
    this.isWhole = false; // all of it is here
    this.isGrowing = false; // more of it is to come
    this.length = 0;
    this.revision = 0; // changes when anything of it does
    /** @type {Piece[]} */
    this.pieces = [];
    this.take(piece);
  }

  /**
   * Put a piece in its place: a final one stays, a partial one gives way to what was captured after it.
   * @param {Piece} piece
   * @returns {boolean} whether the line has changed
   */
  take(piece) {
    const at = this.pieces.findIndex((each) => each.part >= piece.part);
    const known = at >= 0 && this.pieces[at].part === piece.part ? this.pieces[at] : null;
    if (known && !supersedes(piece, known)) return false;
    this.pieces.splice(at < 0 ? this.pieces.length : at, known ? 1 : 0, piece);
    this.level = severest(this.pieces);
    this.joined = null;
    this.length = this.pieces.reduce((sum, each) => sum + each.message.length, 0);
    const end = this.pieces[this.pieces.length - 1];
    const isGapless = end.part === this.pieces.length - 1;
    this.isWhole = isGapless && end.last && !end.partial;
    this.isGrowing = isGapless && !this.isWhole;
    this.revision += 1;
    return true;
  }

  /** All of its text that is here, with its colours. A line of a megabyte comes in many parts: joined when asked for. */
  get text() {
    this.joined ??= this.pieces.length === 1 ? this.pieces[0].message : this.pieces.map((each) => each.message).join("");
    return this.joined;
  }

  get size() {
    return LINE_OVERHEAD + 2 * this.length;
  }
}

/**
 * @param {Piece} piece
 * @param {Piece} known
 */
function supersedes(piece, known) {
  if (!known.partial) return false;
  return !piece.partial || piece.timestamp > known.timestamp
    || (piece.timestamp === known.timestamp && piece.message.length > known.message.length);
}

export const LEVELS = ["DEBUG", "INFO", "WARN", "ERROR"];

/** @param {Piece[]} pieces */
function severest(pieces) {
  return pieces.reduce((most, each) => (LEVELS.indexOf(each.level) > LEVELS.indexOf(most) ? each.level : most), "DEBUG");
}

/** @param {Gap[]} gaps ascending */
function joined(gaps) {
  return gaps.reduce((all, gap) => {
    const before = all[all.length - 1];
    if (before?.to === gap.from - 1) all.splice(-1, 1, { from: before.from, to: gap.to });
    else all.push(gap);
    return all;
  }, /** @type {Gap[]} */ ([]));
}

/** What a reader was not sent, folded into one row until it is asked for. @typedef {{ from: number, to: number }} Gap */

export class LineStore {
  /** @param {number} bound bytes, roughly, beyond which what is far from the reader is forgotten */
  constructor(bound = 24 * 1024 * 1024) {
    this.bound = bound;
    this.first = 1; // the first and the last line that there are, here or at the service
    this.last = 0;
    this.size = 0;
    /** @type {Map<number, { lines: (Line | undefined)[], size: number }>} */
    this.chunks = new Map();
    /** @type {Gap[]} */
    this.gaps = [];
    /** @type {Set<number>} numbers that were asked for and do not come whole: parts of them were dropped */
    this.settled = new Set();
  }

  /** How many lines there are. */
  get count() {
    return Math.max(0, this.last - this.first + 1);
  }

  /**
   * @param {Piece} piece
   * @returns {Line | null} the line if it has changed
   */
  take(piece) {
    const key = Math.floor(piece.line / CHUNK);
    let chunk = this.chunks.get(key);
    if (!chunk) this.chunks.set(key, (chunk = { lines: new Array(CHUNK), size: 0 }));
    const known = chunk.lines[piece.line % CHUNK];
    const before = known ? known.size : 0;
    if (known && !known.take(piece)) return null;
    const line = known ?? new Line(piece);
    chunk.lines[piece.line % CHUNK] = line;
    chunk.size += line.size - before;
    this.size += line.size - before;
    if (this.last === 0) this.first = piece.line;
    this.first = Math.min(this.first, piece.line);
    this.last = Math.max(this.last, piece.line);
    return line;
  }

  /**
   * What the service says that it has.
   * @param {number} first
   * @param {number} last
   */
  bounds(first, last) {
    if (last === 0) return;
    this.first = this.last === 0 ? first : Math.min(first, this.first);
    this.last = Math.max(last, this.last);
  }

  /** @param {number} number */
  at(number) {
    return this.chunks.get(Math.floor(number / CHUNK))?.lines[number % CHUNK];
  }

  /**
   * Whether there is nothing to ask the service for: the line is here, still coming, or as whole as it gets.
   * @param {number} number
   */
  has(number) {
    const line = this.at(number);
    return this.settled.has(number) || (line !== undefined && (line.isWhole || line.isGrowing));
  }

  /**
   * The first run of lines from `from` to `to` that are not here, gaps apart.
   * @param {number} from
   * @param {number} to
   * @returns {{ from: number, to: number } | null}
   */
  missing(from, to) {
    let number = Math.max(from, this.first);
    const end = Math.min(to, this.last);
    while (number <= end && (this.has(number) || this.gapAt(number))) number = (this.gapAt(number)?.to ?? number) + 1;
    if (number > end) return null;
    const start = number;
    while (number < end && !this.has(number + 1) && !this.gapAt(number + 1)) number += 1;
    return { from: start, to: number };
  }

  /**
   * The service was asked for all of these: what has not come whole will not.
   * @param {number} from
   * @param {number} to
   */
  settle(from, to) {
    for (let number = from; number <= to; number += 1) {
      const line = this.at(number);
      if (!line?.isWhole && !(line?.isGrowing && number > this.last - CHUNK)) this.settled.add(number);
    }
  }

  // ── gaps ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Fold lines that the stream has skipped, but for those that are here.
   * @param {number} from
   * @param {number} to
   * @returns {Gap[]} what was added
   */
  fold(from, to) {
    const added = [];
    for (let number = from; number <= to; number += 1) {
      if (this.at(number) || this.gapAt(number)) continue;
      const start = number;
      while (number < to && !this.at(number + 1) && !this.gapAt(number + 1)) number += 1;
      added.push({ from: start, to: number });
    }
    if (added.length) this.gaps = joined([...this.gaps, ...added].sort((one, other) => one.from - other.from));
    return added;
  }

  /**
   * A line has come after all: it is in no gap any more.
   * @param {number} number
   * @returns {boolean} whether it was in one
   */
  release(number) {
    const gap = this.gapAt(number);
    if (!gap) return false;
    const rest = [{ from: gap.from, to: number - 1 }, { from: number + 1, to: gap.to }].filter((each) => each.from <= each.to);
    this.gaps.splice(this.gaps.indexOf(gap), 1, ...rest);
    return true;
  }

  /** @param {Gap} gap */
  unfold(gap) {
    this.gaps = this.gaps.filter((each) => each !== gap);
  }

  /**
   * The gap that a line is folded into.
   * @param {number} number
   */
  gapAt(number) {
    if (this.gaps.length === 0) return undefined;
    return this.gaps.find((gap) => gap.from <= number && number <= gap.to);
  }

  // ── forgetting ───────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Forget what is farthest from the lines `from` to `to`, until the rest is within the bound. Nothing of these lines,
   * of those that `keeps` holds, or of the newest goes. The service has it all: it is read again when it is looked at.
   * @param {number} from
   * @param {number} to
   * @param {{ from: number, to: number } | null} [keeps]
   */
  forget(from, to, keeps = null) {
    if (this.size <= this.bound) return;
    const near = [Math.floor(from / CHUNK) - 1, Math.floor(to / CHUNK) + 1];
    const kept = keeps ? [Math.floor(keeps.from / CHUNK), Math.floor(keeps.to / CHUNK)] : [1, 0];
    const newest = Math.floor(this.last / CHUNK) - 1;
    const distance = (/** @type {number} */ key) => Math.max(near[0] - key, key - near[1], 0);
    const candidates = [...this.chunks.keys()]
      .filter((key) => distance(key) > 0 && key < newest && !(kept[0] <= key && key <= kept[1]))
      .sort((one, other) => distance(other) - distance(one));
    for (const key of candidates) {
      if (this.size <= 0.75 * this.bound) break; // with some room, so that not every line that comes has to forget one
      this.size -= this.chunks.get(key)?.size ?? 0;
      this.chunks.delete(key);
    }
  }
}
