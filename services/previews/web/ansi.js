// Colours of a program's output: text with `ESC [ … m` in it becomes spans of text and style. Never HTML. Pure.
//
// The capture has dropped every other escape already. A line begins without colours, whatever the one before it ended
// with: only so does a line look the same wherever one begins to read.

/**
 * `classes` names the style; `ink` and `paper` are colours beyond the sixteen, as `#rrggbb`.
 * @typedef {{ text: string, classes: string, ink: string, paper: string }} Span
 * @typedef {{ bold: boolean, faint: boolean, italic: boolean, underline: boolean, struck: boolean, overlined: boolean,
 *   inverse: boolean, ink: string, paper: string }} Style
 */

const COLOUR = /\x1b\[([0-9;:]*)m/g;
/** Characters that turn the direction of what follows: they could make a line read as what it is not. */
const TURNING = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/;
const STEPS = [0, 95, 135, 175, 215, 255]; // of the 6 × 6 × 6 colours

/** @type {Style} */
const PLAIN = {
  bold: false, faint: false, italic: false, underline: false, struck: false, overlined: false, inverse: false,
  ink: "", paper: "",
};

/**
 * The text without its colours: what a person copies, and what offsets count.
 * @param {string} text
 */
export function plainOf(text) {
  return text.includes("\x1b") ? text.replace(COLOUR, "") : text;
}

/**
 * Spans that are `plainOf(text)` when put together. A character that turns directions is a span of its own, `turning`.
 * @param {string} text
 * @returns {Span[]}
 */
export function spansOf(text) {
  if (!text.includes("\x1b")) return split(text, PLAIN);
  const spans = /** @type {Span[]} */ ([]);
  let style = PLAIN;
  let from = 0;
  for (const found of text.matchAll(COLOUR)) {
    spans.push(...split(text.slice(from, found.index), style));
    style = styled(style, found[1]);
    from = found.index + found[0].length;
  }
  spans.push(...split(text.slice(from), style));
  return spans;
}

/**
 * @param {string} text
 * @param {Style} style
 * @returns {Span[]}
 */
function split(text, style) {
  if (text === "") return [];
  const classes = classesOf(style);
  const { ink, paper } = custom(style);
  if (!TURNING.test(text)) return [{ text, classes, ink, paper }];
  return text
    .split(/([\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069])/)
    .filter((part) => part !== "")
    .map((part) => ({ text: part, classes: TURNING.test(part) ? `${classes} turning`.trim() : classes, ink, paper }));
}

/** @param {Style} style */
function classesOf(style) {
  const names = [];
  for (const name of /** @type {const} */ (["bold", "faint", "italic", "underline", "struck", "overlined", "inverse"])) {
    if (style[name]) names.push(name);
  }
  if (style.ink) names.push(style.ink.startsWith("#") ? "ink" : `ink-${style.ink}`);
  if (style.paper) names.push(style.paper.startsWith("#") ? "paper" : `paper-${style.paper}`);
  return names.join(" ");
}

/** @param {Style} style */
function custom(style) {
  return { ink: style.ink.startsWith("#") ? style.ink : "", paper: style.paper.startsWith("#") ? style.paper : "" };
}

/**
 * The style after one escape.
 * @param {Style} before
 * @param {string} parameters
 * @returns {Style}
 */
function styled(before, parameters) {
  let style = { ...before };
  const groups = parameters.split(";");
  for (let at = 0; at < groups.length; at += 1) {
    const [code, ...sub] = groups[at].split(":");
    const number = Number(code); // an empty one is 0
    if (number === 38 || number === 48) {
      const [colour, used] = sub.length ? [extended(sub), 0] : follows(groups, at + 1);
      if (number === 38) style.ink = colour;
      else style.paper = colour;
      at += used;
    } else if (number === 58 && !sub.length) {
      at += follows(groups, at + 1)[1]; // the colour of an underline
    } else {
      style = simple(style, number, sub);
    }
  }
  return style;
}

/**
 * @param {Style} style
 * @param {number} code
 * @param {string[]} sub
 * @returns {Style}
 */
function simple(style, code, sub) {
  switch (code) {
    case 0: return { ...PLAIN };
    case 1: return { ...style, bold: true };
    case 2: return { ...style, faint: true };
    case 3: return { ...style, italic: true };
    case 4: return { ...style, underline: sub[0] !== "0" };
    case 7: return { ...style, inverse: true };
    case 9: return { ...style, struck: true };
    case 21: return { ...style, underline: true };
    case 22: return { ...style, bold: false, faint: false };
    case 23: return { ...style, italic: false };
    case 24: return { ...style, underline: false };
    case 27: return { ...style, inverse: false };
    case 29: return { ...style, struck: false };
    case 39: return { ...style, ink: "" };
    case 49: return { ...style, paper: "" };
    case 53: return { ...style, overlined: true };
    case 55: return { ...style, overlined: false };
  }
  if (code >= 30 && code <= 37) return { ...style, ink: String(code - 30) };
  if (code >= 90 && code <= 97) return { ...style, ink: String(code - 82) };
  if (code >= 40 && code <= 47) return { ...style, paper: String(code - 40) };
  if (code >= 100 && code <= 107) return { ...style, paper: String(code - 92) };
  return style; // blinking, hidden, fonts: text stays text
}

/**
 * `5;n` or `2;r;g;b` from `at` on: the colour, and how many parameters it took.
 * @param {string[]} groups
 * @param {number} at
 * @returns {[string, number]}
 */
function follows(groups, at) {
  if (groups[at] === "5") return [indexed(Number(groups[at + 1])), 2];
  if (groups[at] === "2") return [mixed(groups.slice(at + 1, at + 4)), 4];
  return ["", 0];
}

/**
 * `5:n`, `2:r:g:b`, or `2:space:r:g:b`.
 * @param {string[]} sub
 */
function extended(sub) {
  if (sub[0] === "5") return indexed(Number(sub[1]));
  if (sub[0] === "2") return mixed(sub.slice(-3));
  return "";
}

/** @param {number} index */
function indexed(index) {
  if (!(index >= 0 && index <= 255)) return "";
  if (index < 16) return String(index);
  if (index >= 232) return mixed(Array(3).fill(String(8 + 10 * (index - 232))));
  const cube = index - 16;
  return mixed([Math.floor(cube / 36), Math.floor(cube / 6) % 6, cube % 6].map((step) => String(STEPS[step])));
}

/** @param {string[]} parts */
function mixed(parts) {
  if (parts.length !== 3 || parts.some((part) => !(Number(part) >= 0 && Number(part) <= 255))) return "";
  return `#${parts.map((part) => Number(part).toString(16).padStart(2, "0")).join("")}`;
}
