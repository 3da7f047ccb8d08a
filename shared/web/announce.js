// What is said aloud, and the short notes at the edge of the page.
//
//   announce(text)                    for screen readers only: a change of state, never each event
//   toast(text, {tone, seconds})      a note that goes by itself; said aloud too. An error stays until it is closed

import { el, setText } from "./dom.js";
import { icon } from "./icons.js";

const QUIET_MILLISECONDS = 500; // changes within it are said as one

/** @type {string[]} */
let waiting = [];
let timer = 0;
// there before anything is said in it: a region that comes with its text is not read everywhere
const region = document.body.appendChild(el("div", { class: "unseen", "aria-live": "polite", id: "announcements" }));
/** @type {HTMLElement | null} */
let shelf = null;

/** @param {string} text */
export function announce(text) {
  if (waiting.at(-1) !== text) waiting.push(text);
  if (waiting.length > 4) waiting = [`${waiting.length} changes.`, text];
  timer ||= setTimeout(say, QUIET_MILLISECONDS);
}

function say() {
  timer = 0;
  setText(region, waiting.join(" "));
  waiting = [];
}

/** @param {string} text @param {{tone?: "good" | "bad" | "busy", seconds?: number}} [options] */
export function toast(text, { tone = "good", seconds = tone === "bad" ? 0 : 6 } = {}) {
  shelf ??= document.body.appendChild(el("section", { class: "toasts", "aria-label": "Notes" }));
  const close = el("button", { class: "plain", type: "button", "aria-label": "Close this note" }, icon("cross"));
  const role = tone === "bad" ? "alert" : "status";
  const note = el("div", { class: "toast", "data-tone": tone, role }, el("p", {}, text), close);
  close.addEventListener("click", () => note.remove());
  shelf.append(note);
  while (shelf.children.length > 4) shelf.firstElementChild?.remove();
  if (seconds) setTimeout(() => note.remove(), seconds * 1_000);
}
