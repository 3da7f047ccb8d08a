// A badge says how a task, a run or a preview is: a sign of its tone, and the word.
//
//   badge(status)             a new one
//   setBadge(node, status)    changes it, if the status is another
//   toneOf(status)            its tone: idle, busy, wait, good, bad, over, warn; base.css knows them by [data-tone]

import { el } from "./dom.js";
import { words } from "./format.js";
import { icon } from "./icons.js";

/** Of all three services, so that one word has one look. @type {Readonly<Record<string, string>>} */
const TONES = Object.freeze({
  queued: "idle",
  preparing: "idle",
  pending: "idle",
  running: "busy",
  starting: "busy",
  waiting_input: "wait",
  cancelling: "warn",
  stopping: "warn",
  unhealthy: "warn",
  succeeded: "good",
  completed: "good",
  done: "good",
  ready: "good",
  not_ready: "bad",
  failed: "bad",
  timed_out: "bad",
  lost: "bad",
  exited: "over",
  stopped: "over",
  cancelled: "over",
  skipped: "over",
});

/** @type {Readonly<Record<string, string>>} */
const SIGNS = Object.freeze({ good: "check", bad: "cross", over: "dash", wait: "question", warn: "warning" });

/** @param {string} status */
export const toneOf = (status) => TONES[status] ?? "idle";

/** @param {string} status @returns {HTMLElement} */
export function badge(status) {
  const node = el("span", { class: "badge" });
  setBadge(node, status);
  return node;
}

/** @param {HTMLElement} node @param {string} status */
export function setBadge(node, status) {
  if (node.dataset.status === status) return;
  const tone = toneOf(status);
  Object.assign(node.dataset, { status, tone });
  const sign = el("span", { class: "sign" });
  if (tone in SIGNS) sign.append(icon(SIGNS[tone]));
  node.replaceChildren(sign, el("span", { class: "word" }, words(status)));
}
