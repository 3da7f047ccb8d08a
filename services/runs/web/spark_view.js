// A sparkline in the page.

import { setAttributes } from "/web/shared/dom.js";

import { sparkline } from "./sparkline.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 120;
const HEIGHT = 28;

export class SparkView {
  #line = document.createElementNS(SVG, "path");
  #area = document.createElementNS(SVG, "path");
  #drawn = "";

  /** @param {string} [className] */
  constructor(className = "") {
    this.element = document.createElementNS(SVG, "svg");
    setAttributes(this.element, {
      class: `spark ${className}`.trim(),
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      preserveAspectRatio: "none",
      "aria-hidden": "true", // the number beside it says it
    });
    this.#area.setAttribute("class", "spark-area");
    this.#line.setAttribute("class", "spark-line");
    this.element.append(this.#area, this.#line);
  }

  /** @param {number[]} values */
  draw(values) {
    const { line, area } = sparkline(values, { width: WIDTH, height: HEIGHT, least: 5 });
    if (line === this.#drawn) return;
    this.#drawn = line;
    this.#line.setAttribute("d", line);
    this.#area.setAttribute("d", area);
  }
}
