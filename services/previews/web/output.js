// One preview's output as a list of rows: every line, or those that a filter lets through. It knows what it holds,
// reads what is missing when it is looked at, and tells `listener` what has changed. No document: see terminal.js.
//
// Rows are addressed by their place in the list, lines by their number.

import { Line, LineStore } from "./lines.js";
import { EVERYTHING, Matches, isOpen, lets, queryOf } from "./matches.js";

/** @typedef {import("./lines.js").Piece} Piece */
/** @typedef {import("./lines.js").Gap} Gap */
/** @typedef {import("./matches.js").Filter} Filter */
/** @typedef {{ data: Piece[], more: boolean, first_line: number, last_line: number }} LogPage */
/**
 * `inserted(at, count)`: rows came in before row `at`; `grown()`: at the end; `changed(line)`: one line did; `redone()`:
 * all of it is another list; `folded()`: gaps came or went; `troubled(why)`: stored lines cannot be read, "" when they
 * can again.
 * @typedef {{ inserted(at: number, count: number): void, grown(): void, changed(line: number): void, redone(): void,
 *   folded(): void, troubled(why: string): void }} Listener
 */

const PAGE = 1000; // pieces asked for at once
const MARGIN = 200; // rows beyond those in sight that are read with them
const NEWEST = 200; // lines that are read after the stream has skipped some
const PAUSE_MILLISECONDS = 1500; // after a request that failed

export class Output {
  /**
   * @param {(query: string, signal: AbortSignal) => Promise<LogPage>} read a page of stored lines
   * @param {Listener} listener
   * @param {number} [bound] of what is held, in bytes
   */
  constructor(read, listener, bound) {
    this.read = read;
    this.listener = listener;
    this.store = new LineStore(bound);
    this.filter = EVERYTHING;
    /** @type {Matches | null} */
    this.matches = null;
    /** @type {{ from: number, to: number }} rows that are in sight */
    this.sight = { from: 0, to: 0 };
    /** @type {{ from: number, to: number } | null} lines that somebody has selected */
    this.kept = null;
    this.isReading = false;
    this.leaving = new AbortController();
    this.hasSkipped = false; // the stream has, since the last line
    this.isReadingNewest = false;
  }

  close() {
    this.leaving.abort();
  }

  // ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────

  get count() {
    return this.matches ? this.matches.numbers.length : this.store.count;
  }

  /**
   * The number of the line in a row.
   * @param {number} row
   */
  numberAt(row) {
    return this.matches ? this.matches.numbers[row] : this.store.first + row;
  }

  /**
   * The row of a line; of the next one below if the line is in none.
   * @param {number} number
   */
  rowOf(number) {
    const row = this.matches ? this.matches.place(number) : number - this.store.first;
    return Math.max(0, Math.min(row, this.count - 1));
  }

  // ── from the stream ──────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Pieces in the order of the stream.
   * @param {Piece[]} pieces
   */
  take(pieces) {
    const rows = this.count;
    const gaps = this.store.gaps.length;
    let hasReleased = false;
    for (const piece of pieces) hasReleased = this.takeOne(piece) || hasReleased;
    if (this.count > rows) this.listener.grown();
    if (hasReleased || this.store.gaps.length !== gaps) this.listener.folded();
    const { from, to } = this.sight;
    if (this.count) this.store.forget(this.numberAt(from), this.numberAt(Math.min(to, this.count - 1)), this.kept);
  }

  /**
   * @param {Piece} piece
   * @returns {boolean} whether it was thought to be skipped
   */
  takeOne(piece) {
    const { store } = this;
    const previous = store.last;
    const wasFolded = store.release(piece.line);
    const line = store.take(piece);
    if (this.hasSkipped && piece.line > previous) this.fold(previous + 1, piece.line - 1);
    if (line && piece.line <= previous) this.listener.changed(piece.line);
    if (line && this.matches && !this.matches.moreAfter && lets(this.filter, piece)) this.matches.add([piece.line]);
    return wasFolded;
  }

  /**
   * The stream has skipped some events, as this reader was too slow. Which lines they were, the next line shows; and
   * since there may be none for long, the newest are read.
   */
  skip() {
    this.hasSkipped = true;
    this.readNewest();
  }

  async readNewest() {
    if (this.isReadingNewest) return;
    this.isReadingNewest = true;
    while (this.hasSkipped && !this.leaving.signal.aborted) {
      await this.patiently(async () => {
        const page = await this.read(queryOf(EVERYTHING, { tail: NEWEST }), this.leaving.signal);
        if (!this.hasSkipped) return; // the next line was sooner
        this.fold(this.store.last + 1, Math.min(...page.data.map((piece) => piece.line)) - 1);
        this.take(page.data);
        this.listener.folded();
      });
    }
    this.isReadingNewest = false;
  }

  /**
   * @param {number} from
   * @param {number} to
   */
  fold(from, to) {
    this.hasSkipped = false;
    if (to < from || from === 1 || to === Infinity) return; // what is above the first line is read when it is looked at
    this.store.fold(from, to);
    if (this.matches) this.catchUp(from - 1, to + 1);
  }

  /** Forget everything: the log has begun anew. */
  clear() {
    this.store = new LineStore(this.store.bound);
    if (this.matches) this.matches = new Matches();
    this.hasSkipped = false;
    this.listener.redone();
  }

  // ── what is looked at ────────────────────────────────────────────────────────────────────────────────────────

  /**
   * These rows are in sight: read what is missing of them.
   * @param {number} from
   * @param {number} to
   */
  look(from, to) {
    this.sight = { from, to };
    this.readOn();
  }

  /** Read until nothing is missing of what is in sight. */
  async readOn() {
    if (this.isReading) return;
    this.isReading = true;
    try {
      for (let next = this.next(); next && !this.leaving.signal.aborted; next = this.next()) {
        const was = this.matches;
        await this.patiently(next);
        if (this.matches !== was) continue;
      }
    } finally {
      this.isReading = false;
    }
  }

  /** What is to be read next. @returns {(() => Promise<unknown>) | null} */
  next() {
    const { matches, store, sight } = this;
    if (matches?.moreBefore && sight.from < MARGIN) return () => this.readBefore();
    if (matches?.moreAfter && sight.to > this.count - MARGIN) return () => this.readAfter();
    if (this.count === 0) return null;
    const [top, bottom] = [Math.min(sight.from, this.count - 1), Math.min(sight.to, this.count - 1)];
    if (!matches) {
      const from = this.numberAt(top);
      const missing = store.missing(from, this.numberAt(bottom)) ?? null;
      if (!missing) return null;
      const around = store.missing(Math.max(store.first, missing.from - MARGIN), missing.to);
      return () => this.readLines((around ?? missing).from - 1, missing.to + MARGIN);
    }
    for (let row = top; row <= bottom; row += 1) {
      const number = this.numberAt(row);
      if (!store.has(number)) return () => this.readLines(number - 1, number + 50);
    }
    return null;
  }

  /** @param {() => Promise<unknown>} work */
  async patiently(work) {
    try {
      await work();
      this.listener.troubled("");
    } catch (error) {
      if (this.leaving.signal.aborted) return;
      this.listener.troubled(error instanceof Error ? error.message : String(error));
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MILLISECONDS));
    }
  }

  /** @param {Record<string, string | number>} where @param {Filter} [filter] */
  async page(where, filter = EVERYTHING) {
    const page = await this.read(queryOf(filter, where), this.leaving.signal);
    this.bound(page);
    return page;
  }

  /** @param {LogPage} page */
  bound(page) {
    const { store } = this;
    const [first, rows] = [store.first, store.count];
    store.bounds(page.first_line, page.last_line);
    if (this.matches) return;
    if (rows && store.first < first) this.listener.inserted(0, first - store.first);
    if (store.count > rows) this.listener.grown();
  }

  /** @param {Piece[]} pieces */
  fill(pieces) {
    for (const piece of pieces) {
      const line = this.store.take(piece);
      if (line) this.listener.changed(line.number);
    }
  }

  /**
   * Lines above `after`, up to `upto` at most.
   * @param {number} after
   * @param {number} upto
   */
  async readLines(after, upto) {
    const limit = Math.min(PAGE, Math.max(1, upto - after));
    const page = await this.page({ after, limit });
    this.fill(page.data);
    const reached = page.data.reduce((most, piece) => Math.max(most, piece.line), after);
    const end = page.more ? reached : Math.max(reached, Math.min(upto, this.store.last));
    this.store.settle(after + 1, Math.max(end, after + 1));
    return end;
  }

  /**
   * All lines of a range, as many pages as it takes.
   * @param {number} from
   * @param {number} to
   */
  async readRange(from, to) {
    for (let range = this.store.missing(from, to); range; range = this.store.missing(from, to)) {
      await this.readLines(range.from - 1, range.to);
    }
  }

  // ── gaps ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /** @param {Gap} gap */
  async fillGap(gap) {
    this.store.unfold(gap);
    this.listener.folded();
    this.look(this.sight.from, this.sight.to);
  }

  // ── filters ──────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Show only what the filter lets through; around line `near` if it is given, else the newest.
   * @param {Filter} filter
   * @param {number | null} near
   */
  async show(filter, near) {
    this.filter = filter;
    this.matches = isOpen(filter) ? null : new Matches();
    this.sight = { from: 0, to: 0 };
    const { matches } = this;
    if (matches) {
      matches.moreBefore = false; // not before the first page is here
      this.listener.redone();
      await this.patiently(() => this.begin(matches, near));
    }
    if (this.matches === matches) this.listener.redone();
  }

  /**
   * @param {Matches} matches
   * @param {number | null} near
   */
  async begin(matches, near) {
    if (near !== null) {
      const later = await this.page({ after: near - 1, limit: PAGE / 2 }, this.filter);
      if (this.matches !== matches) return;
      this.fill(later.data);
      matches.add(later.data.map((piece) => piece.line));
      matches.moreAfter = later.more;
    }
    const before = near ?? Number.MAX_SAFE_INTEGER;
    const page = await this.page({ before, tail: PAGE / 2 }, this.filter);
    if (this.matches !== matches) return;
    this.fill(page.data);
    matches.add(page.data.map((piece) => piece.line));
    matches.moreBefore = page.more;
  }

  async readBefore() {
    const { matches } = this;
    if (!matches) return;
    const before = matches.numbers[0] ?? Number.MAX_SAFE_INTEGER;
    const page = await this.page({ before, tail: PAGE / 2 }, this.filter);
    if (this.matches !== matches) return;
    matches.moreBefore = page.more;
    this.fill(page.data);
    this.match(page.data.map((piece) => piece.line));
  }

  async readAfter() {
    const { matches } = this;
    if (!matches) return;
    const after = matches.numbers[matches.numbers.length - 1] ?? 0;
    const page = await this.page({ after, limit: PAGE / 2 }, this.filter);
    if (this.matches !== matches) return;
    matches.moreAfter = page.more;
    this.fill(page.data);
    this.match(page.data.map((piece) => piece.line));
    if (!page.more) await this.catchUp(after, Number.MAX_SAFE_INTEGER);
  }

  /**
   * What matches between two lines, which the stream has not told.
   * @param {number} after
   * @param {number} before
   */
  async catchUp(after, before) {
    const { matches } = this;
    let from = after;
    for (let more = true; more && this.matches === matches && !this.leaving.signal.aborted; ) {
      await this.patiently(async () => {
        const page = await this.page({ after: from, before, limit: PAGE }, this.filter);
        if (this.matches !== matches) return;
        this.fill(page.data);
        this.match(page.data.map((piece) => piece.line));
        more = page.more;
        from = page.data.reduce((most, piece) => Math.max(most, piece.line), from);
      });
    }
  }

  /** @param {number[]} numbers */
  match(numbers) {
    if (!this.matches) return;
    const rows = this.matches.numbers.length;
    const { at, count, isOneRun } = this.matches.add(numbers);
    if (!count) return;
    if (at === rows) this.listener.grown();
    else if (isOneRun) this.listener.inserted(at, count);
    else this.listener.redone();
  }

  /** Go on with the newest: what lies between is not read. */
  async toEnd() {
    if (this.matches?.moreAfter) await this.show(this.filter, null);
  }

  // ── text ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * The lines of two rows and those between them, or null when not all of them are here.
   * @param {number} from
   * @param {number} to
   * @returns {Line[] | null}
   */
  linesBetween(from, to) {
    const lines = [];
    for (let row = from; row <= to; row += 1) {
      const number = this.numberAt(row);
      const line = this.store.at(number);
      if (!line || !this.store.has(number)) return null;
      lines.push(line);
    }
    return lines;
  }

  /**
   * The same, read if need be. They are kept while that goes on.
   * @param {number} from
   * @param {number} to
   */
  async allBetween(from, to) {
    const [first, last] = [this.numberAt(from), this.numberAt(to)];
    const kept = this.kept;
    this.kept = { from: first, to: last };
    try {
      for (const gap of this.store.gaps.filter((each) => each.from <= last && each.to >= first)) this.store.unfold(gap);
      await this.readRange(first, last);
      return this.linesBetween(from, to) ?? [];
    } finally {
      this.kept = kept;
      this.listener.folded();
    }
  }
}
