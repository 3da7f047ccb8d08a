// The feed of runs that have ended: one row each, the newest first.

import { badge, setBadge } from "/web/shared/badge.js";
import { byId, el, reconcile, setAttributes, setShown, setText } from "/web/shared/dom.js";
import { emptyState } from "/web/shared/states.js";
import { ago, setAgo } from "/web/shared/time.js";
import { toast } from "/web/shared/announce.js";

import { OVER } from "./statuses.js";
import { factsOf } from "./words.js";

/** @typedef {import("./board.js").Board} Board */
/** @typedef {import("./runs_feed.js").RunsFeed} RunsFeed */
/** @typedef {import("./card.js").Card} Card */

export class EndedView {
  /** @type {string | null} of which status; null: of all */
  #status = null;
  #list = byId("ended");
  #more = /** @type {HTMLButtonElement} */ (byId("more"));
  #none = byId("none");
  /** @type {WeakMap<HTMLElement, RowView>} */
  #rows = new WeakMap();
  #signature = "";

  /** @param {Board} board @param {RunsFeed} feed */
  constructor(board, feed) {
    this.board = board;
    this.feed = feed;
    this.#more.addEventListener("click", () => this.#loadMore());
    for (const button of this.#filters) {
      button.addEventListener("click", () => this.#choose(button.dataset.status || null));
    }
  }

  /** @param {string | null} open the run that is open */
  update(open) {
    const oldest = this.feed.oldest(this.#status);
    const signature = `${open} ${this.#status} ${oldest} ${this.board.changes}`;
    if (signature === this.#signature) return; // nothing but live cards has changed
    this.#signature = signature;
    const cards = this.board.ended(this.#status, oldest);
    this.#show(cards, open);
    setShown(this.#more, this.feed.hasMore(this.#status));
    setShown(this.#none, cards.length === 0 && !this.feed.hasMore(this.#status));
  }

  /** @param {Card[]} cards @param {string | null} open */
  #show(cards, open) {
    reconcile(this.#list, cards, {
      key: (card) => card.id,
      make: (card) => {
        const row = new RowView(card.id);
        this.#rows.set(row.element, row);
        return row.element;
      },
      update: (node, card) => this.#rows.get(node)?.update(card, card.id === open),
    });
    this.#none.replaceChildren(this.#emptiness());
  }

  #emptiness() {
    if (this.#status) return emptyState({ title: `No run is ${this.#status.replaceAll("_", " ")}`, sign: "run" });
    const text = "Launch one above: the runner “sample” needs no model, and you can watch it here.";
    return emptyState({ title: "No run has ended yet", text, sign: "run" });
  }

  get #filters() {
    return /** @type {NodeListOf<HTMLButtonElement>} */ (document.querySelectorAll("#filters button"));
  }

  /** @param {string | null} status */
  async #choose(status) {
    if (status !== null && !OVER.includes(status)) return;
    this.#status = status;
    for (const button of this.#filters) setAttributes(button, { "aria-pressed": String((button.dataset.status || null) === status) });
    this.feed.onChange([]);
    if (!this.feed.knows(status)) await this.#loadMore();
  }

  async #loadMore() {
    this.#more.disabled = true;
    try {
      await this.feed.more(this.#status);
    } catch (error) {
      toast(`Older runs could not be read: ${/** @type {Error} */ (error).message}`, { tone: "bad" });
    }
    this.#more.disabled = false;
  }
}

class RowView {
  #changes = -1;
  #badge = badge("completed");
  #title = el("span", { class: "row-title cut" });
  #text = el("span", { class: "ended-text" });
  #facts = el("span", { class: "ended-facts nums" });
  #when = ago(undefined, "ended-when");
  #link;

  /** @param {string} id */
  constructor(id) {
    this.#link = el(
      "a",
      { class: "row ended-row", href: `/runs/${id}`, "data-open": true },
      this.#badge,
      el("span", { class: "ended-what" }, this.#title, this.#text),
      el("span", { class: "ended-side" }, this.#facts, this.#when),
    );
    this.element = el("li", { "data-run": id }, this.#link);
  }

  /** @param {Card} card @param {boolean} isOpen */
  update(card, isOpen) {
    setAttributes(this.#link, { "aria-current": isOpen && "true" });
    if (card.changes === this.#changes) return;
    this.#changes = card.changes;
    setBadge(this.#badge, card.status);
    setText(this.#title, card.run.task);
    setText(this.#text, card.error ?? card.snippet);
    this.#text.classList.toggle("is-bad", card.error !== null);
    setText(this.#facts, factsOf(card));
    if (card.finishedAt) setAgo(this.#when, new Date(card.finishedAt).toISOString());
  }
}
