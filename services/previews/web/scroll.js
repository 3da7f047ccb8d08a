// Between rows and a scroll bar: browsers end an element at some 17 to 33 million pixels, and half a million wrapped
// lines may be higher. Beyond MOST pixels the bar stands for more than it moves. Pure.

const MOST = 12_000_000;

export class Scroll {
  /** @param {import("./heights.js").Heights} heights */
  constructor(heights) {
    this.heights = heights;
    this.view = 0; // pixels that are in sight
  }

  /** How high the element is that is scrolled. */
  get height() {
    return Math.min(this.heights.total, MOST);
  }

  get scale() {
    const [real, shown] = [this.heights.total - this.view, this.height - this.view];
    return shown <= 0 || real <= shown ? 1 : real / shown;
  }

  /** The scroll position at which the end is in sight. */
  get end() {
    return Math.max(0, this.height - this.view);
  }

  /**
   * Which pixel of the rows is at the top.
   * @param {number} scrolled
   */
  pixel(scrolled) {
    return scrolled * this.scale;
  }

  /**
   * The scroll position that brings this pixel to the top.
   * @param {number} pixel
   */
  to(pixel) {
    return Math.max(0, Math.min(pixel / this.scale, this.end));
  }

  /**
   * The rows in sight, with so many more on either side, and where the first of them belongs in the scrolled element.
   * @param {number} scrolled
   * @param {number} more
   */
  rows(scrolled, more) {
    const { heights } = this;
    if (!heights.count) return { from: 0, to: -1, top: 0 };
    const pixel = this.pixel(scrolled);
    const from = Math.max(0, heights.at(pixel) - more);
    const to = Math.min(heights.count - 1, heights.at(pixel + this.view) + more);
    return { from, to, top: scrolled + heights.offset(from) - pixel };
  }

  /**
   * What is at the top: a row, and how much of it is above.
   * @param {number} scrolled
   */
  anchor(scrolled) {
    const pixel = this.pixel(scrolled);
    const row = this.heights.at(pixel);
    return { row, within: pixel - this.heights.offset(row) };
  }
}
