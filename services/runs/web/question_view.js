// What a run waits for: its question, the answers it offers, and a field for any other.

import { el, reconcile, setShown, setText } from "/web/shared/dom.js";

import { answer } from "./actions.js";

/** @typedef {import("./card.js").Card} Card */

let count = 0;

export class QuestionView {
  #prompt = el("p", { class: "question-prompt" });
  #options = el("div", { class: "question-options" });
  #field;
  #send = el("button", {}, "Send");
  #isSending = false;

  /** @param {string} runId */
  constructor(runId) {
    this.runId = runId;
    const id = `answer-${++count}`;
    this.#field = el("input", { id, autocomplete: "off", placeholder: "Your answer" });
    const line = el("div", { class: "question-line" }, el("label", { class: "unseen", for: id }, "Your answer"), this.#field, this.#send);
    this.element = el(
      "form",
      { class: "question", "data-tone": "wait", hidden: true, onsubmit: (/** @type {Event} */ event) => this.#submit(event) },
      this.#prompt,
      this.#options,
      line,
    );
  }

  /** @param {Card} card */
  update(card) {
    const isAsked = card.status === "waiting_input";
    setShown(this.element, isAsked);
    if (!isAsked) return;
    setText(this.#prompt, card.question?.prompt || "This run waits for an answer.");
    const options = (card.question?.options ?? []).map((value) => ({ value, words: wordsOf(value) }));
    setShown(this.#options, options.length > 0);
    reconcile(this.#options, options, {
      key: ({ words }) => words,
      make: ({ value, words }) =>
        el("button", { type: "button", class: "quiet", onclick: () => this.#give(value) }, words),
    });
  }

  /** @param {Event} event */
  #submit(event) {
    event.preventDefault();
    const text = this.#field.value.trim();
    if (text) this.#give(text);
    else this.#field.focus();
  }

  /** @param {unknown} value */
  async #give(value) {
    if (this.#isSending) return;
    this.#isSending = true;
    this.element.setAttribute("aria-busy", "true");
    if (await answer(this.runId, value)) this.#field.value = "";
    this.#isSending = false;
    this.element.removeAttribute("aria-busy");
  }
}

/** @param {unknown} value */
function wordsOf(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}
