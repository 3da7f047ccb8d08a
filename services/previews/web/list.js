// The previews there are, newest first, with what becomes of them as it happens.

import { badge, setBadge } from "/web/shared/badge.js";
import { el, reconcile, setShown, setText } from "/web/shared/dom.js";
import { emptyState } from "/web/shared/states.js";
import { LiveResource } from "/web/shared/stream.js";
import { ago, setAgo } from "/web/shared/time.js";
import { PREVIEWS, pageUrl } from "./api.js";
import { ISOLATION, after, endOf, fromEvent, progressOf } from "./words.js";

/** @typedef {import("./words.js").Preview} Preview */

const ROWS = 100;

export class List {
  /** @param {{ track(name: string, source: object): { set(status: any): void } }} connection */
  constructor(connection) {
    this.rows = el("ol", { class: "list", "aria-label": "Previews" });
    this.none = emptyState({ title: "No previews yet", text: "Launch one of the starters: it takes a second, and you can watch it here.", sign: "preview" });
    this.element = el("section", { class: "preview-list", "aria-labelledby": "list-title" }, el("h2", { id: "list-title" }, "Previews"), this.rows, this.none);
    setShown(this.rows, false);
    setShown(this.none, false);
    this.resource = new LiveResource({
      url: `${PREVIEWS}?limit=${ROWS}`,
      streamUrl: `${PREVIEWS}/stream`,
      types: ["preview_status", "deleted"],
      readState: (body) => new Map(body.data.map((/** @type {Preview} */ each) => [each.id, each])),
      applyEvent: (previews, event) => apply(previews, event),
      onChange: (previews) => this.show(previews),
      onStatus: (status) => line.set(status),
    });
    const line = connection.track("Previews", this.resource);
    this.resource.start();
  }

  /** @param {Map<string, Preview>} previews */
  show(previews) {
    const shown = [...previews.values()].sort((one, other) => (one.id < other.id ? 1 : -1)).slice(0, ROWS);
    setShown(this.rows, shown.length > 0);
    setShown(this.none, shown.length === 0);
    reconcile(this.rows, shown, { key: (preview) => preview.id, make: makeRow, update: updateRow });
  }
}

/**
 * @param {Map<string, Preview>} previews
 * @param {Record<string, any>} event
 */
function apply(previews, event) {
  const changed = new Map(previews);
  const known = changed.get(event.preview_id);
  if (event.type === "deleted") changed.delete(event.preview_id);
  else if (event.type === "preview_status") changed.set(event.preview_id, known ? after(known, event) : fromEvent(event));
  return changed;
}

/** @param {Preview} preview */
function makeRow(preview) {
  const link = el(
    "a",
    { class: "row preview-row", href: pageUrl(preview.generation_id) },
    el("span", { class: "row-title cut" }, preview.generation_id),
    badge(preview.status),
    el("span", { class: "small dim cut words" }),
    el("span", { class: "small dim facts-line" }, el("span", {}), ago(preview.created_at)),
  );
  return el("li", {}, link);
}

/** @param {HTMLElement} row @param {Preview} preview */
function updateRow(row, preview) {
  const [, sign, words, facts] = /** @type {HTMLElement[]} */ ([.../** @type {Element} */ (row.firstElementChild).children]);
  setBadge(sign, preview.status);
  const end = endOf(preview);
  setText(words, end ? [end.title === "Stopped" ? "" : end.title, end.text].filter(Boolean).join(". ") : progressOf(preview));
  const how = [preview.kind, preview.isolation, preview.attempt > 1 && `attempt ${preview.attempt}`];
  setText(/** @type {HTMLElement} */ (facts.firstElementChild), how.filter(Boolean).join(" · "));
  facts.title = ISOLATION[preview.isolation ?? ""] ?? "";
  facts.dataset.tone = preview.isolation === "process" ? "warn" : "";
  if (preview.created_at) setAgo(/** @type {HTMLTimeElement} */ (facts.lastElementChild), preview.created_at);
}
