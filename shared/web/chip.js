// The connection chip: how what this page follows is connected, as it is. Press it to see each of them.
//
//   const connection = new ConnectionChip()          `element` goes into the page; `startPage` does that
//   const line = connection.track("Tasks", resource) one thing that is followed; resource.retryNow() is used if given
//   line.set(status)                                 a status of stream.js: hand it over as `onStatus`
//   line.remove()                                    it is followed no more

import { announce } from "./announce.js";
import { el, onChange, reconcile, setShown, setText } from "./dom.js";
import { duration } from "./format.js";
import { combineStatuses, describeStatus } from "./status.js";
import { everySecond } from "./time.js";

/** @typedef {import("./status.js").Status} Status */
/** @typedef {import("./status.js").Phase} Phase */
/** @typedef {{name: string, status: Status | null, retryNow: (() => void) | null}} Entry */
/** @typedef {{set: (status: Status) => void, remove: () => void}} Line */

/** @type {Readonly<Record<Phase, string>>} */
const TONES = Object.freeze({
  connecting: "idle",
  catching_up: "busy",
  live: "good",
  reconnecting: "warn",
  polling: "warn",
  ended: "over",
  refused: "bad",
  signed_out: "bad",
  stopped: "over",
});
const TRANSPORTS = Object.freeze({ websocket: "over a WebSocket", sse: "over server-sent events", polling: "by polling" });
const WORTH_SAYING_MILLISECONDS = 250; // a lag below is nobody's concern, and the clocks agree no better

export class ConnectionChip {
  /** @type {Set<Entry>} */
  #entries = new Set();
  /** @type {Phase | null} */
  #said = null;
  #paint = onChange(() => this.#show());
  #list = el("ul", { class: "connections" });
  #again = el("button", { type: "button", class: "quiet", onclick: () => this.#retry() }, "Try now");
  #words = el("span", {}, "Connecting");
  #lag = el("span", { class: "lag" });

  constructor() {
    const id = "connections";
    this.popover = el("div", { id, class: "popover", popover: true }, el("h2", {}, "Connections"), this.#list, this.#again);
    this.element = el(
      "button",
      { type: "button", class: "chip", id: "connection", popovertarget: id, "data-tone": "idle", "data-phase": "connecting" },
      el("span", { class: "unseen" }, "Connection: "),
      this.#words,
      this.#lag,
    );
    this.popover.addEventListener("toggle", () => this.#showEach());
    everySecond(() => this.#show());
    this.#show();
  }

  /** @param {string} name @param {{retryNow?: () => void}} [source] @returns {Line} */
  track(name, source) {
    /** @type {Entry} */
    const entry = { name, status: null, retryNow: source?.retryNow?.bind(source) ?? null };
    this.#entries.add(entry);
    this.#paint();
    return {
      set: (status) => {
        entry.status = status;
        this.#paint();
      },
      remove: () => {
        this.#entries.delete(entry);
        this.#paint();
      },
    };
  }

  #retry() {
    for (const entry of this.#entries) entry.retryNow?.();
  }

  #show() {
    const known = [...this.#entries].flatMap((entry) => entry.status ?? []);
    const status = combineStatuses(known);
    setShown(this.element, this.#entries.size > 0);
    setText(this.#words, describeStatus(status));
    const { lagMilliseconds: lag } = status;
    setText(this.#lag, lag !== null && lag >= WORTH_SAYING_MILLISECONDS ? `${duration(lag)} behind` : "");
    this.element.dataset.tone = TONES[status.phase];
    this.element.dataset.phase = status.phase;
    this.element.title = status.why;
    setShown(this.#again, known.some((one) => one.retryAt !== null));
    this.#say(status);
    if (this.popover.matches(":popover-open")) this.#showEach();
  }

  #showEach() {
    reconcile(this.#list, this.#entries, {
      key: (entry) => entry.name,
      make: (entry) => el("li", {}, el("b", {}, entry.name), el("span", { class: "dim" }), el("span", { class: "dim small" })),
      update: (node, { status }) => {
        if (!status) return;
        const { transport, lagMilliseconds: lag } = status;
        node.dataset.tone = TONES[status.phase];
        setText(node.children[1], describeStatus(status));
        const how = transport && status.phase !== "polling" ? TRANSPORTS[transport] : "";
        const late = lag === null ? "" : lag < WORTH_SAYING_MILLISECONDS ? "no lag" : `${duration(lag)} behind`;
        setText(node.children[2], [how, late, status.why].filter(Boolean).join(", "));
      },
    });
  }

  /** Said aloud is only that it is cut off or refused, and that it is live again: what was begun with is expected. @param {Status} status */
  #say(status) {
    if (status.phase === "connecting" || status.phase === "catching_up" || status.phase === this.#said) return;
    if (this.#said !== null && this.#entries.size) announce(`Connection: ${describeStatus({ ...status, retryAt: null })}.`);
    this.#said = status.phase;
  }
}
