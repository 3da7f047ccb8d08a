// The files of a preview that is there: read, edited, written back, and the program started again with them.

import { toast } from "/web/shared/announce.js";
import { el, setAttributes, setShown, setText } from "/web/shared/dom.js";
import { plural } from "/web/shared/format.js";
import { icon } from "/web/shared/icons.js";
import { changeFiles, filesOf, restart } from "./api.js";
import { Editor } from "./editor.js";

/** @typedef {import("./words.js").Preview} Preview */

export class Files {
  /** @param {string} generation */
  constructor(generation) {
    this.generation = generation;
    this.isStale = true;
    this.editor = new Editor(() => this.paint());
    this.problem = el("p", { class: "notice", "data-tone": "bad", role: "alert" });
    this.save = el("button", { type: "button", class: "quiet", onclick: () => this.write(false) }, "Save");
    this.saveAndStart = el("button", { type: "button", onclick: () => this.write(true) }, icon("again"), "Save and restart");
    this.changed = el("span", { class: "small dim" });
    this.element = el(
      "div",
      { class: "files" },
      this.editor.element,
      this.problem,
      el("div", { class: "files-foot" }, this.changed, this.save, this.saveAndStart),
    );
    this.complain("");
    this.paint();
  }

  /** @param {Preview} preview */
  show(preview) {
    setAttributes(this.saveAndStart, { title: preview.status === "stopping" ? "It is being stopped" : "" });
  }

  /** Read them, unless they are here. */
  async load() {
    if (!this.isStale) return;
    this.isStale = false;
    try {
      const files = await filesOf(this.generation);
      const { draft, open } = this.editor;
      if (draft.hasChanges) return; // somebody has begun to write
      this.editor.load(files, open);
      this.complain("");
    } catch (error) {
      this.isStale = true;
      this.complain(`The files cannot be read: ${error instanceof Error ? error.message : error}`);
    }
    this.paint();
  }

  paint() {
    const count = Object.keys(this.editor.draft.changes).length;
    setText(this.changed, count ? `${plural(count, "file")} changed` : "Nothing changed");
    for (const button of [this.save, this.saveAndStart]) button.disabled = count === 0;
  }

  /** @param {boolean} isToStart */
  async write(isToStart) {
    const { draft } = this.editor;
    const sent = { ...draft.files };
    for (const button of [this.save, this.saveAndStart]) button.disabled = true;
    try {
      await changeFiles(this.generation, draft.changes);
      draft.saved(sent);
      this.editor.paint();
      if (isToStart) await restart(this.generation);
      toast(isToStart ? "Saved; the program starts again with them." : "Saved where the program runs, and for its next start.");
      this.complain("");
    } catch (error) {
      this.complain(`They were not saved: ${error instanceof Error ? error.message : error}`);
    }
    this.paint();
  }

  /** @param {string} why */
  complain(why) {
    setText(this.problem, why);
    setShown(this.problem, Boolean(why));
  }
}
