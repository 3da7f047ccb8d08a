// What stands where there is nothing to show: nothing yet, not yet, or no more.
//
//   emptyState({title, text, sign, action})   nothing there, and what to do about it; `action` is an element. With
//                                             `isPage` it stands for a whole page, and its title is that page's
//   errorState({title, text, again})          what went wrong; `again` tries once more
//   loadingState(text)                        is being fetched
//   waitingState(status, what, again)         while `what` ("the tasks") is not known: one of these, by how the
//                                             connection (a status of stream.js) is

import { el } from "./dom.js";
import { icon } from "./icons.js";

/**
 * @param {{title: string, text?: string, sign?: string, action?: Node | null, isPage?: boolean}} what
 * @returns {HTMLElement}
 */
export function emptyState({ title, text = "", sign = "", action = null, isPage = false }) {
  return el(
    "div",
    { class: "state" },
    sign && icon(sign, "state-sign"),
    el(isPage ? "h1" : "p", { class: "state-title" }, title),
    text && el("p", { class: "state-text" }, text),
    action,
  );
}

/**
 * @param {{title: string, text?: string, again?: (() => void) | null, isPage?: boolean}} what
 * @returns {HTMLElement}
 */
export function errorState({ title, text = "", again = null, isPage = false }) {
  const button = again && el("button", { type: "button", class: "quiet", onclick: again }, icon("again"), "Try again");
  const state = emptyState({ title, text, sign: "warning", action: button, isPage });
  state.dataset.tone = "bad";
  state.setAttribute("role", "alert");
  return state;
}

/** @param {string} [text] @returns {HTMLElement} */
export function loadingState(text = "Loading") {
  return el("div", { class: "state", "aria-busy": "true" }, el("p", { class: "state-text loading" }, text));
}

/**
 * @param {import("./status.js").Status} status
 * @param {string} what
 * @param {(() => void) | null} [again]
 * @param {boolean} [isPage]
 * @returns {HTMLElement}
 */
export function waitingState({ phase, why, problem }, what, again = null, isPage = false) {
  if (phase === "refused") return errorState({ title: problem?.title ?? "Refused", text: problem?.detail ?? why, isPage });
  if (phase === "signed_out") return emptyState({ title: "Signed out", text: `Sign in to see ${what}.`, sign: "person", isPage });
  if (phase === "reconnecting" || phase === "polling") {
    const text = `${why || "Nothing answers"}. It is tried again.`.replace("..", ".");
    return errorState({ title: `Cannot fetch ${what} now`, text, again, isPage });
  }
  return loadingState(`Loading ${what}`);
}
