// An editor of a few small files: tabs and a plain text field, which undoes, finds and speaks as every text field does.

import { el, reconcile, setAttributes, setShown, setText } from "/web/shared/dom.js";
import { openDialog } from "/web/shared/dialog.js";
import { icon } from "/web/shared/icons.js";
import { Draft } from "./draft.js";

let count = 0;

export class Editor {
  /** @param {() => void} onEdit */
  constructor(onEdit) {
    count += 1;
    this.onEdit = onEdit;
    this.draft = new Draft();
    this.open = "";
    this.panelId = `file-panel-${count}`;
    this.tabs = el("div", { class: "file-tabs", role: "tablist", "aria-label": "Files", onkeydown: (/** @type {KeyboardEvent} */ event) => this.onTabKey(event) });
    this.text = el("textarea", {
      class: "file-text",
      spellcheck: "false",
      autocapitalize: "off",
      autocomplete: "off",
      wrap: "off",
      rows: 16,
      oninput: () => this.edited(),
      onkeydown: (/** @type {KeyboardEvent} */ event) => this.onKey(event),
    });
    this.numbers = el("pre", { class: "file-numbers", "aria-hidden": "true" });
    this.text.addEventListener("scroll", () => (this.numbers.scrollTop = this.text.scrollTop), { passive: true });
    this.hint = el("p", { class: "hint small dim" }, "Tab indents; Escape, then Tab leaves the field.");
    this.element = el(
      "div",
      { class: "editor" },
      el("div", { class: "file-bar" }, this.tabs, el("div", { class: "file-actions" }, this.action("plus", "Add a file", () => this.add()), this.action("file", "Rename this file", () => this.rename()), this.action("bin", "Remove this file", () => this.remove()))),
      el("div", { class: "file-body", id: this.panelId, role: "tabpanel", "aria-label": "The file" }, this.numbers, this.text),
      this.hint,
    );
  }

  /** @param {string} picture @param {string} label @param {() => void} act */
  action(picture, label, act) {
    const button = el("button", { type: "button", class: "plain tool", "aria-label": label, title: label, onclick: act });
    button.append(icon(picture));
    return button;
  }

  /** @param {Record<string, string>} files @param {string} [first] */
  load(files, first = "") {
    this.draft = new Draft(files);
    this.show(first in files ? first : (this.draft.names[0] ?? ""));
  }

  /** @param {string} name */
  show(name) {
    this.open = name;
    this.text.value = this.draft.files[name] ?? "";
    this.text.disabled = !name;
    setAttributes(this.text, { "aria-label": name || "No file" });
    this.text.scrollTop = 0;
    this.paint();
  }

  paint() {
    reconcile(this.tabs, this.draft.names, {
      key: (name) => name,
      make: (name) => el("button", { type: "button", role: "tab", "aria-controls": this.panelId, onclick: () => this.show(name) }, el("span", {}, name), el("span", { class: "changed", title: "Changed" }, "•")),
      update: (tab, name) => {
        setAttributes(tab, { "aria-selected": String(name === this.open), tabindex: name === this.open ? 0 : -1 });
        setShown(/** @type {HTMLElement} */ (tab.children[1]), this.draft.isChanged(name));
      },
    });
    const lines = this.text.value.split("\n").length;
    setText(this.numbers, Array.from({ length: lines }, (_, line) => line + 1).join("\n"));
    this.numbers.scrollTop = this.text.scrollTop;
  }

  edited() {
    if (this.open) this.draft.files[this.open] = this.text.value;
    this.paint();
    this.onEdit();
  }

  /** Tab is a key of programs, and Escape gives it back to the page. @param {KeyboardEvent} event */
  onKey(event) {
    if (event.key === "Escape") this.isLeaving = true;
    else if (event.key === "Tab" && !event.shiftKey && !this.isLeaving && !event.ctrlKey && !event.altKey) {
      event.preventDefault();
      document.execCommand("insertText", false, this.open.endsWith(".py") ? "    " : "  "); // so that it can be undone
    } else if (event.key !== "Shift") this.isLeaving = false;
  }

  /** @param {KeyboardEvent} event */
  onTabKey(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const { names } = this.draft;
    if (!step || !names.length) return;
    event.preventDefault();
    this.show(names[(names.indexOf(this.open) + step + names.length) % names.length]);
    /** @type {HTMLElement | null} */ (this.tabs.querySelector("[aria-selected=true]"))?.focus();
  }

  async add() {
    const name = await this.askName("Add a file", "", "Add");
    if (!name) return;
    this.draft.files[name] = "";
    this.show(name);
    this.text.focus();
    this.onEdit();
  }

  async rename() {
    const from = this.open;
    const name = from && (await this.askName(`Rename ${from}`, from, "Rename"));
    if (!name || name === from) return;
    this.draft.rename(from, name);
    this.show(name);
    this.onEdit();
  }

  remove() {
    if (!this.open) return;
    const at = this.draft.names.indexOf(this.open);
    this.draft.remove(this.open);
    this.show(this.draft.names[Math.max(0, at - 1)] ?? "");
    this.onEdit();
  }

  /**
   * @param {string} title
   * @param {string} value
   * @param {string} action
   * @returns {Promise<string>} empty when nothing was chosen
   */
  async askName(title, value, action) {
    const fault = el("p", { class: "fault", role: "alert" });
    const input = el("input", { value, "aria-label": "Path of the file", autocomplete: "off", spellcheck: "false", placeholder: "static/style.css" });
    const go = el("button", { value: "go" }, action);
    go.addEventListener("click", (event) => {
      const why = input.value.trim() === value && value ? "" : this.draft.fault(input.value.trim());
      setText(fault, why);
      if (why) event.preventDefault();
    });
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault(); // it would choose the first button
      go.click();
    });
    const stay = el("button", { class: "quiet", value: "stay", formnovalidate: true }, "Cancel");
    const body = el("div", { class: "field" }, input, fault);
    const chosen = await openDialog({ title, body, actions: [stay, go] });
    return chosen === "go" ? input.value.trim() : "";
  }
}
