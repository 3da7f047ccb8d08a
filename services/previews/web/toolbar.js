// What stands above a terminal: levels, streams, searching, and how it looks.

import { el, setAttributes } from "/web/shared/dom.js";
import { icon } from "/web/shared/icons.js";

/** @typedef {import("./terminal.js").Terminal} Terminal */

const LEVELS = /** @type {const} */ ([
  ["", "All", "All levels"],
  ["INFO", "Info", "Info and above"],
  ["WARN", "Warn", "Warnings and errors"],
  ["ERROR", "Error", "Errors only"],
]);
const STREAMS = /** @type {const} */ ([["", "All sources"], ["stdout", "stdout"], ["stderr", "stderr"]]);

export class Toolbar {
  /** @param {Terminal} terminal */
  constructor(terminal) {
    this.terminal = terminal;
    this.levels = el("div", { class: "tabs levels", role: "group", "aria-label": "Level" });
    this.levels.append(
      ...LEVELS.map(([level, name, label]) =>
        el("button", { type: "button", "aria-pressed": String(!level), "aria-label": label, title: label, "data-level": level, onclick: () => this.chooseLevel(level) }, name),
      ),
    );
    this.streams = el("select", { class: "streams", "aria-label": "Source", onchange: () => terminal.filter({ stream: this.streams.value }) });
    this.streams.append(...STREAMS.map(([value, name]) => el("option", { value }, name)));
    this.input = el("input", {
      type: "search",
      placeholder: "Search all lines",
      "aria-label": "Search all lines",
      autocomplete: "off",
      spellcheck: "false",
      maxlength: 500,
      oninput: () => terminal.typed(this.input.value),
      onkeydown: (/** @type {KeyboardEvent} */ event) => this.onKey(event),
    });
    this.found = el("span", { class: "found small nums", "aria-hidden": "true" });
    this.only = tool("filter", "Show only lines that have it", () => this.chooseOnly(), "only");
    this.buttons = {
      wrap: tool("wrap", "Wrap long lines", () => terminal.wrap(!this.isPressed("wrap")), "wrap"),
      times: tool("clock", "Show times", () => terminal.times(!this.isPressed("times")), "times"),
    };
    this.element = el(
      "div",
      { class: "terminal-tools", role: "group", "aria-label": "Terminal" },
      this.levels,
      this.streams,
      el(
        "div",
        { class: "find", role: "search" },
        icon("search"),
        this.input,
        this.found,
        this.only,
        tool("up", "Previous hit (Shift+Enter)", () => terminal.step(-1)),
        tool("down", "Next hit (Enter)", () => terminal.step(1)),
      ),
      el(
        "div",
        { class: "tool-group" },
        this.buttons.wrap,
        this.buttons.times,
        tool("copy", "Copy all shown", () => terminal.copyAll()),
        tool("download", "Download", () => terminal.download()),
      ),
    );
  }

  get text() {
    return this.input.value;
  }

  /** As at the beginning, for another output. */
  reset() {
    this.input.value = "";
    this.streams.value = "";
    this.showLevel("");
    setAttributes(this.only, { "aria-pressed": "false" });
  }

  focusSearch() {
    this.input.focus();
    this.input.select();
  }

  /** @param {"wrap" | "times"} name @param {boolean} isOn */
  pressed(name, isOn) {
    setAttributes(this.buttons[name], { "aria-pressed": String(isOn) });
  }

  /** @param {"wrap" | "times"} name */
  isPressed(name) {
    return this.buttons[name].getAttribute("aria-pressed") === "true";
  }

  /** @param {string} level */
  chooseLevel(level) {
    this.showLevel(level);
    this.terminal.filter({ level });
  }

  /** @param {string} level */
  showLevel(level) {
    for (const button of this.levels.children) {
      setAttributes(button, { "aria-pressed": String(/** @type {HTMLElement} */ (button).dataset.level === level) });
    }
  }

  chooseOnly() {
    const isOn = this.only.getAttribute("aria-pressed") !== "true";
    setAttributes(this.only, { "aria-pressed": String(isOn) });
    this.terminal.filter({ text: isOn ? this.text : "" });
  }

  /** @param {KeyboardEvent} event */
  onKey(event) {
    if (event.key === "Enter") this.terminal.step(event.shiftKey ? -1 : 1);
    else if (event.key === "Escape" && this.text) {
      this.input.value = "";
      if (this.only.getAttribute("aria-pressed") === "true") this.chooseOnly();
      this.terminal.find("");
    } else if (event.key === "Escape") this.terminal.scroller.focus({ preventScroll: true });
    else return;
    event.preventDefault();
  }
}

/**
 * @param {string} picture
 * @param {string} label
 * @param {() => void} action
 * @param {string} [id]
 */
function tool(picture, label, action, id = "") {
  const button = el("button", { type: "button", class: "plain tool", "aria-label": label, title: label, onclick: action });
  if (id) setAttributes(button, { "aria-pressed": "false", "data-tool": id });
  button.append(icon(picture));
  return button;
}
