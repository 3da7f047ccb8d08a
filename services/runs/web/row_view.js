// One row of the event chain. A text that grows is only added to: what is selected in it stays selected.

import { toast } from "/web/shared/announce.js";
import { toneOf } from "/web/shared/badge.js";
import { el, setAttributes, setShown, setText } from "/web/shared/dom.js";
import { clock, full, number, plural, words } from "/web/shared/format.js";
import { icon } from "/web/shared/icons.js";

const MOST_CHARACTERS = 20_000; // laid out anew with each piece: more takes longer than a frame
const KEPT_CHARACTERS = 10_000;

/** @typedef {import("./chain.js").Row} Row */
/** @typedef {import("./chain.js").Frame} Frame */

export class RowView {
  #changes = -1;
  #text = el("span", { class: "ev-text" });
  #known = 0; // how much of the row's text has been dealt with
  #length = 0; // how much of it stands in the page
  #facts = el("span", { class: "ev-facts nums", hidden: true });
  #count = el("span", { class: "pill nums", hidden: true });
  #raw = el("button", { type: "button", class: "plain ev-raw", "aria-expanded": "false" }, "{ }");
  /** @type {JsonView | null} */
  #json = null;

  /** @param {Row} row @param {(gaps: Frame[]) => void} onFill */
  constructor(row, onFill) {
    this.row = row;
    const { event } = row.first;
    this.#raw.addEventListener("click", () => this.#toggle());
    setAttributes(this.#raw, { "aria-label": `Raw JSON of ${row.title}`, title: "Raw JSON" });
    const title = el("span", { class: "ev-title" }, row.title);
    if (event.type === "status") title.dataset.tone = toneOf(event.status);
    this.element = el(
      "li",
      { class: "ev", "data-kind": row.kind, "data-type": row.type, "data-fatal": event.fatal === true },
      event.ts ? el("time", { class: "nums", datetime: event.ts, title: full(event.ts) }, clock(event.ts)) : el("span"),
      title,
      el("div", { class: "ev-body" }, this.#text, row.kind === "gap" && fillButton(row, onFill), this.#facts),
      el("span", { class: "ev-end" }, this.#count, this.#raw),
    );
    if (row.isOpen) this.#showJson();
  }

  update() {
    const { row } = this;
    if (row.changes === this.#changes) return;
    this.#changes = row.changes;
    this.#setText(row.kind === "gap" ? gapWords(row.frames) : row.text);
    setText(this.#facts, row.facts);
    setShown(this.#facts, row.facts !== "");
    setText(this.#count, `× ${number(row.frames.length)}`);
    setShown(this.#count, row.frames.length > 1);
    if (row.frames.length > 1) setAttributes(this.#count, { title: plural(row.frames.length, "event") });
    setAttributes(this.element, { "data-first": row.first.id, "data-last": row.last.id, "data-events": row.frames.length });
    this.#json?.update();
  }

  /** A text of pieces only grows, and is only added to; of a very long one the end is shown. @param {string} text */
  #setText(text) {
    if (this.row.kind !== "pieces") {
      setText(this.#text, text);
      return;
    }
    this.#length += text.length - this.#known;
    if (this.#length > MOST_CHARACTERS) {
      const end = text.slice(-KEPT_CHARACTERS);
      setText(this.#text, `… ${end}`);
      this.#length = end.length;
    } else if (text.length > this.#known) {
      this.#text.append(text.slice(this.#known));
    }
    this.#known = text.length;
  }

  #toggle() {
    this.row.isOpen = !this.row.isOpen;
    if (this.row.isOpen) this.#showJson();
    else {
      this.#json?.element.remove();
      this.#json = null;
      setAttributes(this.#raw, { "aria-expanded": "false" });
    }
  }

  #showJson() {
    this.#json = new JsonView(this.row);
    this.element.append(this.#json.element);
    setAttributes(this.#raw, { "aria-expanded": "true" });
  }
}

/** An event as it came; of a row that is several, one after the other. */
class JsonView {
  #place = el("span", { class: "nums dim" });
  #pre = el("pre", { class: "code", tabindex: "0", "aria-label": "Raw JSON" });
  #older;
  #newer;

  /** @param {Row} row */
  constructor(row) {
    this.row = row;
    const step = (/** @type {number} */ by) => () => this.#step(by);
    this.#older = el("button", { type: "button", class: "plain", "aria-label": "The event before", onclick: step(1) }, icon("back"));
    this.#newer = el("button", { type: "button", class: "plain ev-newer", "aria-label": "The event after", onclick: step(-1) }, icon("back"));
    const copy = el("button", { type: "button", class: "plain", "aria-label": "Copy the JSON", onclick: () => this.#copy() }, icon("copy"));
    this.element = el("div", { class: "ev-json" }, el("div", { class: "ev-steps" }, this.#older, this.#place, this.#newer, copy), this.#pre);
    this.update();
  }

  update() {
    const { frames, back } = this.row;
    const place = Math.max(1, frames.length - back);
    setText(this.#place, frames.length > 1 ? `${number(place)} of ${number(frames.length)} · ${this.row.shown.id}` : this.row.shown.id);
    setShown(this.#older, frames.length > 1);
    setShown(this.#newer, frames.length > 1);
    this.#older.disabled = place <= 1;
    this.#newer.disabled = back === 0;
    setText(this.#pre, JSON.stringify(this.row.shown.event, null, 2));
  }

  /** @param {number} by */
  #step(by) {
    this.row.back = Math.min(Math.max(0, this.row.back + by), this.row.frames.length - 1);
    this.update();
  }

  async #copy() {
    try {
      await navigator.clipboard.writeText(this.#pre.textContent ?? "");
      toast("The JSON is copied.");
    } catch {
      getSelection()?.selectAllChildren(this.#pre); // no clipboard over plain HTTP: what is selected can be copied
    }
  }
}

/** @param {Row} row @param {(gaps: Frame[]) => void} onFill */
function fillButton(row, onFill) {
  return el("button", { type: "button", class: "quiet small-button", onclick: () => onFill(row.frames) }, icon("download"), "Load them");
}

/** @param {Frame[]} gaps one after the other */
function gapWords(gaps) {
  /** @type {Map<string, number>} */
  const byType = new Map();
  let dropped = 0;
  for (const { event } of gaps) {
    dropped += event.dropped;
    for (const [type, count] of Object.entries(event.by_type)) byType.set(type, (byType.get(type) ?? 0) + count);
  }
  const types = [...byType].map(([type, count]) => `${number(count)} ${words(type)}`);
  return `${plural(dropped, "event")} skipped, since this page fell behind (${types.join(", ")}).`;
}
