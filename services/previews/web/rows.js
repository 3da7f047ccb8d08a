// A line as an element. What a program has printed goes in as text and as nothing else.

import { plainOf, spansOf } from "./ansi.js";

/** @typedef {import("./lines.js").Line} Line */
/**
 * How rows look: with times; `digits` of the number in front, 0 for none; with what is searched for marked; so many
 * characters of a long line; `heading` above it.
 * @typedef {{ times: boolean, digits: number, needle: string, shown: number, isCurrent: boolean, heading: string }} Look
 */

export const SHOWN = 2_000; // characters of a line that are in the page unless more is asked for
export const STEP = 16_000; // and how many more each time
const LETTERS = /** @type {Record<string, string>} */ ({ DEBUG: "D", INFO: "I", WARN: "W", ERROR: "E" });

/**
 * @param {Line} line
 * @param {Look} look
 * @returns {HTMLElement}
 */
export function lineRow(line, look) {
  const row = make("div", "line");
  row.dataset.line = String(line.number);
  row.dataset.level = line.level;
  row.dataset.source = line.source === "system" ? "system" : (line.stream ?? "");
  row.dataset.gutter = gutter(line, look);
  if (line.isGrowing) row.dataset.growing = "";
  if (look.isCurrent) row.dataset.current = "";
  if (look.heading) row.dataset.heading = look.heading;
  if (line.dropped) row.dataset.dropped = "";
  const text = make("span", "text");
  row.append(text);
  fillText(text, line, look);
  return row;
}

/**
 * @param {HTMLElement} element
 * @param {Line} line
 * @param {Look} look
 */
function fillText(element, line, look) {
  if (line.dropped) {
    element.textContent = line.text;
    return;
  }
  const isCut = line.length > look.shown;
  const shown = isCut ? cut(line.text, look.shown) : line.text;
  const spans = spansOf(shown);
  for (const span of spans) {
    const { text, classes, ink, paper } = span;
    if (!classes) {
      element.append(text);
      continue;
    }
    const part = make("span", classes);
    part.textContent = text;
    if (ink) part.style.setProperty("--own-ink", ink);
    if (paper) part.style.setProperty("--own-paper", paper);
    if (classes.includes("turning")) part.dataset.code = `U+${text.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
    element.append(part);
  }
  if (look.needle) mark(element, look.needle);
  if (isCut) element.parentElement?.append(more(line.length - shown.length));
}

/**
 * The first `size` characters, not cut inside a colour or a pair.
 * @param {string} text
 * @param {number} size
 */
function cut(text, size) {
  const escape = text.lastIndexOf("\x1b", size);
  if (escape >= 0 && size - escape < 64 && text.indexOf("m", escape) >= size) return text.slice(0, escape);
  const unit = text.charCodeAt(size - 1);
  return text.slice(0, unit >= 0xd800 && unit <= 0xdbff ? size - 1 : size);
}

/** @param {number} left */
function more(left) {
  const button = make("button", "more quiet");
  button.setAttribute("type", "button");
  button.dataset.action = "more";
  button.textContent = `… ${left.toLocaleString("en")} more characters`;
  return button;
}

/**
 * A line that is not here yet.
 * @param {number} number
 * @param {Look} look
 */
export function missingRow(number, look) {
  const row = make("div", "line missing");
  row.dataset.line = String(number);
  row.dataset.gutter = look.digits ? String(number).padStart(look.digits) : " ";
  const text = make("span", "text");
  text.textContent = "…";
  row.append(text);
  return row;
}

/**
 * Lines that the stream has skipped.
 * @param {{ from: number, to: number }} gap
 */
export function gapRow(gap) {
  const count = gap.to - gap.from + 1;
  const row = make("div", "line gap");
  row.dataset.line = String(gap.from);
  row.dataset.gap = `${gap.from}-${gap.to}`;
  const text = make("span", "words");
  const lines = count === 1 ? "1 line was" : `${count.toLocaleString("en")} lines were`;
  text.textContent = `${lines} skipped to keep up with the program. Nothing is lost.`;
  const button = make("button", "quiet");
  button.setAttribute("type", "button");
  button.dataset.action = "fill";
  button.textContent = count === 1 ? "Load it" : "Load them";
  row.append(text, button);
  return row;
}

/**
 * What stands before a line: it is drawn, and neither selected nor copied.
 * @param {Line} line
 * @param {Look} look
 */
function gutter(line, look) {
  const parts = look.digits ? [String(line.number).padStart(look.digits)] : [];
  if (look.times) parts.push(clock(line.timestamp));
  return [...parts, LETTERS[line.level] ?? " "].join("  ");
}

/** @param {string} timestamp */
export function clock(timestamp) {
  const time = new Date(timestamp);
  const two = (/** @type {number} */ value) => String(value).padStart(2, "0");
  const milliseconds = String(time.getMilliseconds()).padStart(3, "0");
  return `${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}.${milliseconds}`;
}

/**
 * Mark where the text has the needle; it may go through several spans.
 * @param {HTMLElement} element
 * @param {string} needle
 */
function mark(element, needle) {
  const nodes = textNodes(element);
  const whole = nodes.map((node) => node.data).join("").toLowerCase();
  const wanted = needle.toLowerCase();
  const hits = [];
  for (let at = whole.indexOf(wanted); at >= 0 && hits.length < 200; at = whole.indexOf(wanted, at + wanted.length)) {
    hits.push([at, at + wanted.length]);
  }
  let start = 0;
  for (const node of nodes) {
    const end = start + node.data.length;
    const inside = hits.filter(([from, to]) => from < end && to > start);
    if (inside.length) node.replaceWith(...marked(node.data, inside.map(([from, to]) => [from - start, to - start])));
    start = end;
  }
}

/**
 * @param {string} text
 * @param {number[][]} hits
 */
function marked(text, hits) {
  const parts = [];
  let at = 0;
  for (const [from, to] of hits) {
    const hit = make("mark", "");
    hit.textContent = text.slice(Math.max(0, from), to);
    parts.push(text.slice(at, Math.max(0, from)), hit);
    at = Math.min(to, text.length);
  }
  return [...parts, text.slice(at)].filter((part) => part !== "");
}

/**
 * @param {Node} root
 * @returns {Text[]}
 */
export function textNodes(root) {
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  const nodes = [];
  while (walker.nextNode()) nodes.push(/** @type {Text} */ (walker.currentNode));
  return nodes;
}

/**
 * @param {string} tag
 * @param {string} className
 * @returns {HTMLElement}
 */
function make(tag, className) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  return element;
}

/** How many characters of a line without colours would be shown: for the width of what scrolls sideways. @param {Line} line */
export function widthOf(line) {
  return plainOf(line.length > SHOWN ? line.text.slice(0, SHOWN) : line.text).length;
}
