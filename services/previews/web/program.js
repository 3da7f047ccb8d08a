// The running program beside its terminal: at its own origin, in a frame that it cannot break out of.

import { toast } from "/web/shared/announce.js";
import { el, setAttributes, setShown, setText } from "/web/shared/dom.js";
import { icon } from "/web/shared/icons.js";
import { entryTo } from "./api.js";
import { plainOf } from "./ansi.js";
import { SERVING, endOf, progressOf } from "./words.js";

/** @typedef {import("./words.js").Preview} Preview */

// It may run, ask and keep what it likes at its own origin; it may not take this page's place.
const SANDBOX = "allow-scripts allow-same-origin allow-forms allow-modals allow-popups allow-downloads";

export class Program {
  constructor() {
    this.address = el("code", { class: "address cut" });
    this.again = tool("again", "Load it again", () => this.enter());
    this.tab = tool("out", "Open in a tab", () => this.openTab());
    this.frame = el("iframe", { title: "The running program", sandbox: SANDBOX, referrerpolicy: "no-referrer" });
    this.state = el("div", { class: "program-state", role: "status" });
    this.element = el(
      "div",
      { class: "program" },
      el("div", { class: "program-bar" }, icon("preview"), this.address, this.again, this.tab),
      el("div", { class: "program-body" }, this.frame, this.state),
    );
    /** @type {Preview | null} */
    this.preview = null;
    this.entered = ""; // which attempt is in the frame
    this.shown = ""; // what is told in its place
  }

  /** @param {Preview} preview */
  show(preview) {
    this.preview = preview;
    const isServing = SERVING.has(preview.status) && Boolean(preview.url && preview.passage);
    setText(this.address, preview.url ?? "");
    for (const button of [this.again, this.tab]) setAttributes(button, { disabled: !isServing });
    const attempt = `${preview.id} ${preview.attempt}`;
    if (isServing && this.entered !== attempt) this.enter();
    if (!isServing) this.leave();
    setShown(this.frame, isServing);
    setShown(this.state, !isServing);
    const shown = JSON.stringify([preview.status, preview.exit, preview.message, preview.tail]);
    if (isServing || shown === this.shown) return;
    this.shown = shown;
    this.state.replaceChildren(...stateOf(preview));
    const tail = this.state.querySelector(".tail");
    if (tail) tail.scrollTop = tail.scrollHeight; // the cause stands at its end
  }

  async enter() {
    const { preview } = this;
    if (!preview) return;
    const attempt = `${preview.id} ${preview.attempt}`;
    this.entered = attempt;
    try {
      const address = await entryTo(preview);
      if (this.entered === attempt) this.frame.src = address;
    } catch (error) {
      if (this.entered === attempt) this.entered = "";
      toast(`The program cannot be entered: ${error instanceof Error ? error.message : error}`, { tone: "bad" });
    }
  }

  /** What is no more is not shown as if it were. */
  leave() {
    if (!this.entered) return;
    this.entered = "";
    this.frame.removeAttribute("src");
  }

  /** A tab can be opened only at once, and its ticket comes a moment later. */
  async openTab() {
    if (!this.preview) return;
    const tab = window.open("about:blank");
    if (!tab) {
      toast("The browser did not open a tab: allow it to for this page.", { tone: "bad" });
      return;
    }
    tab.opener = null;
    try {
      tab.location.href = await entryTo(this.preview);
    } catch (error) {
      tab.close();
      toast(`The program cannot be opened: ${error instanceof Error ? error.message : error}`, { tone: "bad" });
    }
  }
}

/** @param {Preview} preview */
function stateOf(preview) {
  const end = endOf(preview);
  if (!end) return [el("p", { class: "state-title loading" }, preview.status === "stopping" ? "Stopping" : "Starting"), el("p", { class: "state-text" }, progressOf(preview))];
  const parts = /** @type {HTMLElement[]} */ ([]);
  parts.push(el("p", { class: "state-title", "data-tone": end.tone }, end.title), el("p", { class: "state-text" }, end.text));
  if (preview.tail?.length) {
    parts.push(el("p", { class: "small dim" }, "Its last lines:"), el("pre", { class: "code tail" }, preview.tail.map(plainOf).join("\n")));
  }
  return parts;
}

/** @param {string} picture @param {string} label @param {() => void} action */
function tool(picture, label, action) {
  const button = el("button", { type: "button", class: "plain tool", "aria-label": label, title: label, onclick: action });
  button.append(icon(picture));
  return button;
}
