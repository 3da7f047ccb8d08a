// Searching an output: the service looks through all that is stored, whatever of it is here. No document.

import { Matches, lets } from "./matches.js";

/** @typedef {import("./output.js").Output} Output */
/** @typedef {import("./lines.js").Piece} Piece */

const PAGE = 200;

export class Search {
  /** @param {Output} output */
  constructor(output) {
    this.output = output;
    this.text = "";
    this.current = 0; // the line of the hit that was gone to; 0 for none
    this.hits = new Matches();
    this.round = 0; // counts what was asked for, so that a late answer is known as such
  }

  /**
   * Look for `text`, upwards from line `near`, else downwards. Resolves to the line of a hit, 0 if there is none, and
   * null if something else is searched for by now.
   * @param {string} text
   * @param {number} near
   */
  async begin(text, near) {
    this.round += 1;
    const { round } = this;
    this.text = text;
    this.current = 0;
    this.hits = new Matches();
    this.hits.moreAfter = true;
    if (!text) return 0;
    const above = await this.page({ before: near + 1, tail: PAGE });
    if (round !== this.round) return null;
    this.hits.moreBefore = above.more;
    this.add(above.data);
    const below = await this.page({ after: near, limit: PAGE });
    if (round !== this.round) return null;
    this.hits.moreAfter = below.more;
    this.add(below.data);
    const { numbers } = this.hits;
    const place = this.hits.place(near + 1);
    this.current = numbers[place - 1] ?? numbers[place] ?? 0;
    return this.current;
  }

  end() {
    this.begin("", 0);
  }

  /**
   * The next hit below (1) or above (-1); around at the ends. 0 if there is none.
   * @param {1 | -1} direction
   */
  async step(direction) {
    if (!this.text) return 0;
    const { round } = this;
    const numbers = () => this.hits.numbers;
    const at = () => (this.current ? this.hits.place(this.current) : direction > 0 ? -1 : numbers().length);
    if (direction > 0 && at() >= numbers().length - 1 && this.hits.moreAfter) await this.more(1);
    if (direction < 0 && at() <= 0 && this.hits.moreBefore) await this.more(-1);
    if (round !== this.round || !numbers().length) return 0;
    const next = (at() + direction + numbers().length) % numbers().length;
    this.current = numbers()[next];
    return this.current;
  }

  /** @param {1 | -1} direction */
  async more(direction) {
    const { hits, round } = this;
    const last = hits.numbers[hits.numbers.length - 1] ?? 0;
    const first = hits.numbers[0] ?? Number.MAX_SAFE_INTEGER;
    const page = await this.page(direction > 0 ? { after: last, limit: PAGE } : { before: first, tail: PAGE });
    if (round !== this.round) return;
    if (direction > 0) hits.moreAfter = page.more;
    else hits.moreBefore = page.more;
    this.add(page.data);
  }

  /**
   * What has just come may be a hit as well.
   * @param {Piece[]} pieces
   */
  take(pieces) {
    if (!this.text || this.hits.moreAfter) return;
    const { filter } = this;
    for (const piece of pieces) if (!piece.partial && lets(filter, piece)) this.add([piece]);
  }

  get filter() {
    return { ...this.output.filter, text: this.text };
  }

  /** @param {Record<string, string | number>} where */
  page(where) {
    return this.output.page(where, this.filter);
  }

  /** @param {Piece[]} pieces */
  add(pieces) {
    this.hits.add(pieces.map((piece) => piece.line));
  }

  /** Where we are, in words. */
  get words() {
    const { numbers, moreBefore, moreAfter } = this.hits;
    if (!this.text) return "";
    if (!numbers.length) return moreBefore || moreAfter ? "Searching …" : "No line has it";
    const many = moreBefore || moreAfter ? `${numbers.length.toLocaleString("en")}+` : numbers.length.toLocaleString("en");
    if (!this.current) return `${many} lines`;
    const place = this.hits.place(this.current) + 1;
    return moreBefore ? `line ${this.current.toLocaleString("en")} · ${many} lines` : `${place.toLocaleString("en")} of ${many}`;
  }
}
