// The part of an output that is in sight. Only these rows are in the document, whatever the number of lines; it draws
// at most once a frame, and keeps its place: at the end while it follows, else where the reader has scrolled to.

import { Heights } from "./heights.js";
import { SHOWN, STEP, gapRow, lineRow, missingRow, widthOf } from "./rows.js";
import { Scroll } from "./scroll.js";

/** @typedef {import("./output.js").Output} Output */
/** @typedef {import("./rows.js").Look} Look */

const LINE_PIXELS = 20; // as page.css has it
const GAP_PIXELS = 40;
const MORE = 8; // rows beyond those in sight
const GLIDE_MILLISECONDS = 1_000; // a browser may still be on its way to where the last key has sent it
const ROUNDS = 3; // drawing measures what it has drawn, and heights that differ may bring other rows into sight

export class Viewport {
  /**
   * @param {HTMLElement} scroller
   * @param {{ onFollow(isFollowing: boolean): void, onDraw(): void }} owner
   */
  constructor(scroller, owner) {
    this.scroller = scroller;
    this.owner = owner;
    this.sizer = scroller.appendChild(document.createElement("div"));
    this.sizer.className = "sizer";
    this.layer = this.sizer.appendChild(document.createElement("div"));
    this.layer.className = "lines";
    this.heights = new Heights(LINE_PIXELS);
    this.scroll = new Scroll(this.heights);
    /** @type {Output | null} */
    this.output = null;
    this.isFollowing = true;
    /** @type {{ number: number, within: number }} the line at the top, and how much of it is above */
    this.anchor = { number: 1, within: 0 };
    /** @type {Map<number, HTMLElement>} */
    this.elements = new Map();
    /** @type {Map<number, number>} characters shown of lines that are longer than usual */
    this.expanded = new Map();
    /** @type {Set<number>} lines that a selection begins and ends in: their elements stay */
    this.pinned = new Set();
    this.look = { times: true, numbers: true, needle: "", current: 0 };
    this.scrolled = 0; // as it was set here last
    this.widest = 0;
    this.followedAt = -Infinity;
    this.isHeld = false; // by a finger, or at the scroll bar
    this.isAsked = false;
    scroller.addEventListener("scroll", () => this.onScroll(), { passive: true });
    scroller.addEventListener("wheel", (event) => event.deltaY < 0 && this.leaveEnd(), { passive: true });
    for (const [name, isHeld] of /** @type {const} */ ([["pointerdown", true], ["pointerup", false], ["pointercancel", false]])) {
      (isHeld ? scroller : window).addEventListener(name, () => (this.isHeld = isHeld), { passive: true });
    }
    new ResizeObserver(() => this.remeasure()).observe(scroller);
  }

  /** @param {Output} output */
  use(output) {
    this.output = output;
    this.expanded.clear();
    this.redone();
    this.follow();
  }

  // ── what the output tells ────────────────────────────────────────────────────────────────────────────────────

  grown() {
    this.draw();
  }

  changed() {
    this.draw();
  }

  /**
   * @param {number} at
   * @param {number} count
   */
  inserted(at, count) {
    this.heights.resize(Math.max(at, (this.output?.count ?? count) - count)); // with what has come since it was drawn
    this.heights.insert(at, count);
    this.draw();
  }

  redone() {
    this.heights.reset();
    this.heights.resize(this.output?.count ?? 0);
    this.widest = 0;
    this.folded();
  }

  /** Of lines that are folded into a gap the first stands for all. */
  folded() {
    const { output, heights } = this;
    if (!output) return;
    heights.reset();
    heights.resize(output.count);
    for (const gap of output.matches ? [] : output.store.gaps) {
      heights.fill(output.rowOf(gap.from), output.rowOf(gap.to) + 1, 0);
      heights.set(output.rowOf(gap.from), GAP_PIXELS);
    }
    this.draw();
  }

  // ── moving ───────────────────────────────────────────────────────────────────────────────────────────────────

  follow() {
    this.followedAt = performance.now();
    this.setFollowing(true);
    this.draw();
  }

  leaveEnd() {
    if (!this.isFollowing || this.scroll.end === 0) return;
    this.keepPlace();
    this.setFollowing(false);
  }

  /** @param {boolean} isFollowing */
  setFollowing(isFollowing) {
    if (this.isFollowing === isFollowing) return;
    this.isFollowing = isFollowing;
    this.owner.onFollow(isFollowing);
  }

  keepPlace() {
    if (!this.output?.count) return;
    const { row, within } = this.scroll.anchor(this.scroller.scrollTop);
    this.anchor = { number: this.output.numberAt(row), within };
  }

  /**
   * Bring a line into sight, with some of what is before it.
   * @param {number} number
   */
  reveal(number) {
    this.setFollowing(false);
    this.anchor = { number, within: -Math.round(this.scroller.clientHeight / 3) };
    this.draw();
  }

  toStart() {
    this.setFollowing(false);
    this.anchor = { number: this.output?.count ? this.output.numberAt(0) : 1, within: 0 };
    this.draw();
  }

  onScroll() {
    const { scrollTop } = this.scroller;
    if (Math.abs(scrollTop - this.scrolled) < 1.5) return; // our own
    if (this.isFollowing && !this.isHeld && performance.now() - this.followedAt < GLIDE_MILLISECONDS) {
      this.draw();
      return;
    }
    const isDown = scrollTop > this.scrolled;
    this.scrolled = scrollTop;
    this.keepPlace();
    this.setFollowing(isDown && scrollTop >= this.scroll.end - 2 && !this.output?.matches?.moreAfter);
    this.draw();
  }

  /** Sizes have changed: what was measured does not count any more. */
  remeasure() {
    this.folded();
  }

  // ── drawing ──────────────────────────────────────────────────────────────────────────────────────────────────

  /** Draw with the next frame. */
  draw() {
    if (this.isAsked) return;
    this.isAsked = true;
    requestAnimationFrame(() => {
      this.isAsked = false;
      this.drawNow();
    });
  }

  drawNow() {
    const { output, scroll, heights } = this;
    if (!output || !this.scroller.clientHeight) return;
    heights.resize(output.count);
    scroll.view = this.scroller.clientHeight;
    let rows = { from: 0, to: -1, top: 0 };
    for (let round = 0; round < ROUNDS; round += 1) {
      rows = scroll.rows(this.place(), MORE);
      this.fill(rows.from, rows.to);
      if (!this.measure()) break;
    }
    const scrolled = this.place();
    rows.top = scroll.rows(scrolled, MORE).from === rows.from ? scroll.rows(scrolled, MORE).top : rows.top;
    this.sizer.style.height = `${scroll.height}px`;
    this.layer.style.transform = `translateY(${rows.top}px)`;
    this.layer.style.setProperty("--widest", `${this.widest + 30}ch`);
    if (Math.abs(this.scroller.scrollTop - scrolled) > 0.5) this.scroller.scrollTop = scrolled;
    this.scrolled = this.scroller.scrollTop;
    output.look(rows.from, Math.max(rows.from, rows.to));
    this.owner.onDraw();
  }

  /** The scroll position that is wanted. */
  place() {
    const { output, scroll, heights } = this;
    if (this.isFollowing || !output?.count) return scroll.end;
    return scroll.to(heights.offset(output.rowOf(this.anchor.number)) + this.anchor.within);
  }

  /**
   * Put the elements of these rows in place, and no others but those that are pinned.
   * @param {number} from
   * @param {number} to
   */
  fill(from, to) {
    const wanted = this.elementsOf(from, to);
    const [first, last] = [wanted.keys().next().value ?? 0, [...wanted.keys()].at(-1) ?? 0];
    for (const [number, element] of this.elements) {
      if (wanted.has(number)) continue;
      const isPinned = this.pinned.has(number) && !(first <= number && number <= last);
      element.classList.toggle("pinned", isPinned);
      if (isPinned) wanted.set(number, element);
      else element.remove();
    }
    this.elements = wanted;
    let place = this.layer.firstElementChild;
    for (const [number, element] of [...wanted].sort(([one], [other]) => one - other)) {
      if (first <= number && number <= last) element.classList.remove("pinned");
      if (element === place) place = place.nextElementSibling;
      else this.layer.insertBefore(element, place);
    }
  }

  /**
   * @param {number} from
   * @param {number} to
   */
  elementsOf(from, to) {
    const output = /** @type {Output} */ (this.output);
    const wanted = /** @type {Map<number, HTMLElement>} */ (new Map());
    const digits = this.look.numbers ? String(output.store.last).length : 0;
    for (let row = from; row <= to; row += 1) {
      const number = output.numberAt(row);
      const gap = output.matches ? undefined : output.store.gapAt(number);
      if (gap) {
        if (number === gap.from) wanted.set(number, this.element(number, `gap ${gap.to}`, () => gapRow(gap)));
        row = output.rowOf(gap.to);
      } else {
        wanted.set(number, this.lineElement(row, number, digits));
      }
    }
    return wanted;
  }

  /**
   * @param {number} row
   * @param {number} number
   * @param {number} digits
   */
  lineElement(row, number, digits) {
    const output = /** @type {Output} */ (this.output);
    const line = output.store.at(number);
    const look = {
      digits,
      times: this.look.times,
      needle: this.look.needle,
      shown: this.expanded.get(number) ?? SHOWN,
      isCurrent: number === this.look.current,
      heading: "",
    };
    if (!line) return this.element(number, `missing ${digits}`, () => missingRow(number, look));
    const before = row > 0 ? output.store.at(output.numberAt(row - 1)) : undefined;
    if ((before ? before.attempt : line.attempt) < line.attempt || (row === 0 && line.attempt > 1)) {
      look.heading = `Attempt ${line.attempt}`;
    }
    this.widest = Math.max(this.widest, widthOf(line));
    const key = `${line.revision} ${digits} ${look.times} ${look.shown} ${look.isCurrent} ${look.heading} ${look.needle}`;
    return this.element(number, key, () => lineRow(line, look));
  }

  /**
   * The element that is there if it looks as it should, else a new one in its place.
   * @param {number} number
   * @param {string} key
   * @param {() => HTMLElement} make
   */
  element(number, key, make) {
    const known = this.elements.get(number);
    if (known?.dataset.key === key) return known;
    const made = make();
    made.dataset.key = key;
    known?.replaceWith(made);
    return made;
  }

  /** @returns {boolean} whether a height was not as it was thought to be */
  measure() {
    const output = /** @type {Output} */ (this.output);
    let hasChanged = false;
    for (const [number, element] of this.elements) {
      if (element.classList.contains("pinned")) continue;
      if (this.heights.set(output.rowOf(number), element.offsetHeight)) hasChanged = true;
    }
    return hasChanged;
  }

  /**
   * Show more of a long line.
   * @param {number} number
   */
  expand(number) {
    this.leaveEnd();
    this.expanded.set(number, (this.expanded.get(number) ?? SHOWN) + STEP);
    this.draw();
  }
}
