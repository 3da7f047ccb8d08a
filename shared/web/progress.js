// How far something is: a bar, with its value for those who hear it.
//
//   progressBar(label)                       a new one
//   setProgress(node, {done, total, tone})   total null: nobody knows how much there is, and the bar says so
//   share(done, total)                       0 to 1, or null

import { el, setAttributes } from "./dom.js";
import { number } from "./format.js";

/** @param {string} label @returns {HTMLElement} */
export function progressBar(label) {
  const fill = el("span", { class: "progress-fill" });
  return el("div", { class: "progress", role: "progressbar", "aria-label": label, "aria-valuemin": 0 }, fill);
}

/**
 * @param {HTMLElement} node
 * @param {{done: number, total: number | null, tone?: string, unit?: string | null}} progress
 */
export function setProgress(node, { done, total, tone = "busy", unit = null }) {
  const part = share(done, total);
  const of = total === null ? "" : ` of ${number(total)}`;
  setAttributes(node, {
    "data-tone": tone,
    "data-known": String(part !== null),
    "aria-valuemax": total === null ? null : total,
    "aria-valuenow": total === null ? null : Math.min(done, total),
    "aria-valuetext": `${number(done)}${of}${unit ? ` ${unit}` : ""}`,
  });
  const fill = /** @type {HTMLElement} */ (node.firstElementChild);
  const place = part === null ? "" : `translateX(${((part - 1) * 100).toFixed(2)}%)`; // scaling would flatten its round end
  if (fill.style.transform !== place) fill.style.transform = place;
}

/** @param {number} done @param {number | null} total @returns {number | null} */
export function share(done, total) {
  if (total === null) return null;
  return total <= 0 ? 0 : Math.min(1, Math.max(0, done / total));
}
