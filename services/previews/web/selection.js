// Selecting and copying over rows of which only some are in the document.
//
// The selection is the browser's own. The two elements that it begins and ends in are kept, wherever the reader scrolls
// to; what is copied is put together from the lines, not from the document.

import { plainOf } from "./ansi.js";
import { textNodes } from "./rows.js";

/** @typedef {import("./viewport.js").Viewport} Viewport */
/** @typedef {{ number: number, offset: number }} Point */

export class Selection {
  /**
   * @param {Viewport} viewport
   * @param {{ onCopy(count: number, isLater: boolean): void, onFail(why: string): void }} owner
   */
  constructor(viewport, owner) {
    this.viewport = viewport;
    this.owner = owner;
    document.addEventListener("selectionchange", () => this.pin());
    viewport.scroller.addEventListener("copy", (event) => this.copy(event));
    viewport.scroller.addEventListener("pointerdown", () => (this.isAll = false));
    this.isAll = false; // more than the document has
  }

  /** Where it begins and ends, in the order of the lines; null when nothing here is selected. */
  get points() {
    const { output } = this.viewport;
    if (this.isAll && output?.count) {
      const [first, last] = [output.numberAt(0), output.numberAt(output.count - 1)];
      return { from: { number: first, offset: 0 }, to: { number: last, offset: Infinity } };
    }
    const selection = getSelection();
    if (!selection || selection.isCollapsed) return null;
    const ends = [
      this.point(selection.anchorNode, selection.anchorOffset),
      this.point(selection.focusNode, selection.focusOffset),
    ];
    if (!ends[0] || !ends[1]) return null;
    const [one, other] = /** @type {Point[]} */ (ends);
    const isForward = one.number < other.number || (one.number === other.number && one.offset <= other.offset);
    return isForward ? { from: one, to: other } : { from: other, to: one };
  }

  pin() {
    const { viewport } = this;
    if (this.isAll) return;
    const points = this.points;
    viewport.pinned = new Set(points ? [points.from.number, points.to.number] : []);
    if (viewport.output) viewport.output.kept = points ? { from: points.from.number, to: points.to.number } : null;
    if (points) viewport.leaveEnd();
  }

  /**
   * A place in the document as a line and a character of it.
   * @param {Node | null} node
   * @param {number} offset
   * @returns {Point | null}
   */
  point(node, offset) {
    if (!node || !this.viewport.layer.contains(node)) return null;
    if (node === this.viewport.layer) {
      const rows = [...this.viewport.layer.children];
      const row = /** @type {HTMLElement | undefined} */ (rows[Math.min(offset, rows.length - 1)]);
      return row ? { number: Number(row.dataset.line), offset: offset < rows.length ? 0 : Infinity } : null;
    }
    const within = node instanceof Element ? node : node.parentElement;
    const row = /** @type {HTMLElement | null} */ (within?.closest("[data-line]") ?? null);
    const text = row?.querySelector(".text");
    if (!row || !text) return row ? { number: Number(row.dataset.line), offset: 0 } : null;
    const range = document.createRange();
    range.selectNodeContents(text);
    if (range.comparePoint(node, offset) < 0) return { number: Number(row.dataset.line), offset: 0 };
    if (range.comparePoint(node, offset) > 0) return { number: Number(row.dataset.line), offset: Infinity };
    range.setEnd(node, offset);
    const before = range.cloneContents();
    return { number: Number(row.dataset.line), offset: textNodes(before).reduce((sum, each) => sum + each.data.length, 0) };
  }

  /** Everything that is shown, and would be if one scrolled. */
  all() {
    const { layer, output } = this.viewport;
    if (!output?.count) return;
    this.viewport.leaveEnd();
    getSelection()?.selectAllChildren(layer);
    this.isAll = true;
  }

  clear() {
    this.isAll = false;
    getSelection()?.removeAllRanges();
  }

  /** @param {ClipboardEvent} event */
  copy(event) {
    const points = this.points;
    const { output } = this.viewport;
    if (!points || !output) return;
    event.preventDefault();
    const [from, to] = [output.rowOf(points.from.number), output.rowOf(points.to.number)];
    const here = output.linesBetween(from, to);
    if (here) {
      event.clipboardData?.setData("text/plain", textOf(here, points));
      this.owner.onCopy(here.length, false);
      return;
    }
    const later = output.allBetween(from, to).then((lines) => textOf(lines, points));
    this.put(later, to - from + 1);
  }

  /**
   * Put text on the clipboard that is not here yet.
   * @param {Promise<string>} text
   * @param {number} count
   */
  async put(text, count) {
    try {
      if (!navigator.clipboard) throw new Error("the browser keeps the clipboard from pages without HTTPS; download it");
      const blob = text.then((whole) => new Blob([whole], { type: "text/plain" }));
      await navigator.clipboard.write([new ClipboardItem({ "text/plain": blob })]);
      this.owner.onCopy(count, true);
    } catch (error) {
      this.owner.onFail(error instanceof Error ? error.message : String(error));
    }
  }
}

/**
 * @param {import("./lines.js").Line[]} lines
 * @param {{ from: Point, to: Point }} points
 */
export function textOf(lines, points) {
  const texts = lines.map((line) => plainOf(line.text));
  const last = texts.length - 1;
  if (lines[last]?.number === points.to.number) texts[last] = texts[last].slice(0, points.to.offset);
  if (lines[0]?.number === points.from.number) texts[0] = texts[0].slice(points.from.offset);
  return texts.join("\n");
}
