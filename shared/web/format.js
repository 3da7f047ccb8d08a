// Numbers and times in words. Pure.
//
//   duration(ms)        "840 ms", "4.2 s", "3 min 20 s", "2 h 5 min", "3 d 4 h"
//   relative(then, now) "just now", "12 s ago", "5 min ago", "3 h ago", "2 d ago"; "in 3 s" for what is to come
//   clock(time)         "14:03:09" as the reader's country writes it
//   full(time)          date and time with the zone, for titles
//   number(n)           "12,345", at most one decimal
//   bytes(n)            "640 B", "1.4 kB", "3.0 MB"
//   plural(n, "run")    "1 run", "2 runs"; plural(n, "try", "tries") where an s will not do
//   words(name)         "waiting input" for waiting_input
//   shortId(id)         "run_…mqyk9v": enough to tell two apart

const NUMBER = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const CLOCK = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const FULL = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });

/** @typedef {string | number | Date} Moment */

/** @param {number} milliseconds */
export function duration(milliseconds) {
  const ms = Math.max(0, milliseconds);
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  const seconds = ms / 1_000;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3_600) return pair(whole, 60, "min", 1, "s");
  if (whole < 86_400) return pair(whole, 3_600, "h", 60, "min");
  return pair(whole, 86_400, "d", 3_600, "h");
}

/** @param {number} seconds @param {number} large @param {string} one @param {number} small @param {string} other */
function pair(seconds, large, one, small, other) {
  const rest = Math.floor((seconds % large) / small);
  return `${Math.floor(seconds / large)} ${one}${rest ? ` ${rest} ${other}` : ""}`;
}

/** @param {Moment} then @param {Moment} [now] */
export function relative(then, now = Date.now()) {
  const seconds = (Number(new Date(now)) - Number(new Date(then))) / 1_000;
  const size = Math.abs(seconds);
  if (size < 2) return "just now";
  const text = size < 60 ? `${Math.floor(size)} s` : coarse(size);
  return seconds < 0 ? `in ${text}` : `${text} ago`;
}

/** @param {number} seconds */
function coarse(seconds) {
  if (seconds < 3_600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3_600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}

/** @param {Moment} time */
export const clock = (time) => CLOCK.format(new Date(time));

/** @param {Moment} time */
export const full = (time) => FULL.format(new Date(time));

/** @param {number} value */
export const number = (value) => NUMBER.format(value);

/** @param {number} value */
export function bytes(value) {
  if (value < 1_000) return `${value} B`;
  for (const [unit, size] of /** @type {const} */ ([["kB", 1e3], ["MB", 1e6]])) {
    if (value < size * 999.95) return `${(value / size).toFixed(1)} ${unit}`;
  }
  return `${(value / 1e9).toFixed(1)} GB`;
}

/** @param {number} count @param {string} one @param {string} [many] */
export const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

/** @param {string} name */
export const words = (name) => name.replaceAll("_", " ");

/** @param {string} id */
export const shortId = (id) => id.replace(/^([a-z]+_).*(.{6})$/, "$1…$2");
