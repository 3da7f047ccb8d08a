// A worker card: one live run at a glance. Only what has changed is touched.

import { badge, setBadge } from "/web/shared/badge.js";
import { el, setAttributes, setShown, setText } from "/web/shared/dom.js";
import { duration, number } from "/web/shared/format.js";
import { icon } from "/web/shared/icons.js";

import { cancel } from "./actions.js";
import { isOver } from "./statuses.js";
import { QuestionView } from "./question_view.js";
import { SparkView } from "./spark_view.js";
import { placeOf, rateOf, silenceOf } from "./words.js";

const SECONDS_SHOWN = 30;

/** @typedef {import("./card.js").Card} Card */

export class CardView {
  #changes = -1;
  #badge = badge("queued");
  #stalled = el("span", { class: "pill", "data-tone": "warn", hidden: true }, icon("warning"), "stalled");
  #age = el("span", { class: "card-age nums" });
  #title = el("h3", { class: "card-title" });
  #place = el("p", { class: "card-place cut" });
  #words = el("p", { class: "card-words-text" });
  #trouble = el("p", { class: "card-trouble cut", "data-tone": "warn", hidden: true });
  #rate = el("b", { class: "nums" });
  #tokens = el("span", { class: "cut nums card-tokens" });
  #spark = new SparkView();
  #runner = el("span", { class: "cut nums" });
  #expand = el("a", { class: "button quiet small-button", "data-open": true }, "Expand");
  #cancel = el("button", { type: "button", class: "quiet small-button icon-button", title: "Cancel" }, icon("stop"));
  #question;

  /** @param {string} id */
  constructor(id) {
    this.id = id;
    this.#question = new QuestionView(id);
    this.#cancel.addEventListener("click", () => cancel(id));
    setAttributes(this.#expand, { href: `/runs/${id}` });
    this.element = el(
      "li",
      { class: "card", "data-run": id },
      el("div", { class: "card-top" }, this.#badge, this.#stalled, el("span", { class: "card-id mono", title: id }, `#${id.slice(-6)}`), this.#age),
      this.#title,
      this.#place,
      el("div", { class: "card-words" }, this.#words),
      this.#trouble,
      this.#question.element,
      el("div", { class: "card-meter" }, el("p", { class: "card-rate" }, this.#rate, el("span", {}, "tokens/s")), this.#spark.element),
      el(
        "div",
        { class: "card-foot" },
        el("p", { class: "card-facts" }, this.#tokens, this.#runner),
        el("div", { class: "card-actions" }, this.#cancel, this.#expand),
      ),
    );
  }

  /** Its run stands beside it in full. @param {boolean} isOpen */
  setOpen(isOpen) {
    this.element.classList.toggle("is-open", isOpen);
    setAttributes(this.#expand, { "aria-current": isOpen && "true" });
  }

  /** What events have changed. @param {Card} card @param {number} now by the server's clock @param {boolean} isLive */
  update(card, now, isLive) {
    if (card.changes !== this.#changes) {
      this.#changes = card.changes;
      this.#show(card);
      this.tick(card, now, isLive);
    }
  }

  /** What the time changes. @param {Card} card @param {number} now by the server's clock @param {boolean} isLive */
  tick(card, now, isLive) {
    setText(this.#age, silenceOf(card, now, isLive));
    const isStalled = isLive && card.isStalled(now); // while the connection is cut, nobody knows
    setShown(this.#stalled, isStalled);
    this.element.classList.toggle("is-stalled", isStalled);
    const took = card.duration(now);
    setText(this.#runner, [card.run.runner, took !== null && duration(took)].filter(Boolean).join(" · "));
    setText(this.#rate, rateOf(card, now));
    this.#spark.draw(card.rates.series(card.finishedAt === null ? now : card.finishedAt + 1_000, SECONDS_SHOWN));
  }

  /** @param {Card} card */
  #show(card) {
    const { run } = card;
    setBadge(this.#badge, card.status);
    this.element.dataset.status = card.status;
    setAttributes(this.element, { "data-over": card.isOver });
    this.element.dataset.tone = this.#badge.dataset.tone ?? "";
    setText(this.#title, run.task ?? "…");
    setText(this.#place, placeOf(card));
    setText(this.#words, card.error ?? card.output ?? card.snippet);
    this.#words.classList.toggle("is-bad", card.error !== null);
    setText(this.#trouble, card.trouble ? `${card.trouble.code}: ${card.trouble.message}` : "");
    setShown(this.#trouble, card.trouble !== null);
    const guess = card.isEstimated ? "≈ " : "";
    setText(this.#tokens, `${guess}${number(card.tokensIn)} in · ${number(card.tokensOut)} out`);
    setShown(this.#cancel, !isOver(card.status));
    this.#cancel.disabled = card.status === "cancelling";
    setAttributes(this.#cancel, { "aria-label": `Cancel: ${run.task ?? card.id}` });
    setAttributes(this.#expand, { "aria-label": `Expand: ${run.task ?? card.id}` });
    this.#question.update(card);
  }
}
