// Times that keep themselves right while somebody looks.
//
//   ago(time)                a <time> that says how long ago, and in its title when
//   setAgo(node, time)       another moment for it
//   everySecond(task)        runs it each second while the tab is visible, and at once when it is again;
//                            returns what stops it

import { el, setAttributes, setText } from "./dom.js";
import { full, relative } from "./format.js";

/** @type {Set<() => void>} */
const tasks = new Set();
let timer = 0;

/** @param {string} [time] @param {string} [className] @returns {HTMLTimeElement} */
export function ago(time, className = "ago") {
  const node = el("time", { class: className, "data-ago": true });
  if (time) setAgo(node, time);
  return node;
}

/** @param {HTMLTimeElement} node @param {string} time */
export function setAgo(node, time) {
  if (node.dateTime === time) return;
  setAttributes(node, { datetime: time, title: full(time) });
  setText(node, relative(time));
  start();
}

/** @param {() => void} task @returns {() => void} */
export function everySecond(task) {
  tasks.add(task);
  start();
  return () => void tasks.delete(task);
}

function tick() {
  for (const node of document.querySelectorAll("time[data-ago]")) {
    const { dateTime } = /** @type {HTMLTimeElement} */ (node);
    if (dateTime) setText(node, relative(dateTime));
  }
  for (const task of tasks) task();
}

function start() {
  if (timer || document.visibilityState !== "visible") return;
  timer = setInterval(tick, 1_000);
}

document.addEventListener("visibilitychange", () => {
  clearInterval(timer);
  timer = 0;
  if (document.visibilityState !== "visible") return;
  tick();
  start();
});
