// One preview: its terminal, the program beside it, and its files.

import { announce, toast } from "/web/shared/announce.js";
import { badge, setBadge } from "/web/shared/badge.js";
import { confirmed } from "/web/shared/dialog.js";
import { el, reconcile, setAttributes, setShown, setText } from "/web/shared/dom.js";
import { duration, words } from "/web/shared/format.js";
import { icon } from "/web/shared/icons.js";
import { emptyState, errorState } from "/web/shared/states.js";
import { LiveResource } from "/web/shared/stream.js";
import { everySecond } from "/web/shared/time.js";
import { PREVIEWS, pagesOf, previewUrl, remove, restart, textOf } from "./api.js";
import { Files } from "./files.js";
import { LogFollower } from "./log-follower.js";
import { Program } from "./program.js";
import { Terminal } from "./terminal.js";
import { ISOLATION, after, endOf, isOver } from "./words.js";

/** @typedef {import("./words.js").Preview} Preview */
/** @typedef {import("/web/shared/chip.js").ConnectionChip} ConnectionChip */

const PANES = /** @type {const} */ ([["output", "Output"], ["program", "Program"], ["files", "Files"]]);

export class Workspace {
  /**
   * @param {string} generation
   * @param {ConnectionChip} connection
   */
  constructor(generation, connection) {
    this.generation = generation;
    /** @type {Preview | null} */
    this.preview = null;
    this.terminal = new Terminal();
    this.program = new Program();
    this.files = new Files(generation);
    this.badge = badge("preparing");
    this.facts = el("ul", { class: "facts-row small" });
    this.warning = el("p", { class: "notice isolation-warning", "data-tone": "warn" });
    this.restartButton = el("button", { type: "button", class: "quiet", onclick: () => this.act(this.restartButton, () => restart(generation)) }, icon("again"), "Restart");
    this.stopButton = el("button", { type: "button", class: "quiet", "data-tone": "bad", onclick: () => this.stop() });
    this.tabs = el("div", { class: "tabs panes", role: "group", "aria-label": "What is shown" }, PANES.map(([name, label]) => el("button", { type: "button", "data-pane": name, onclick: () => this.choose(name) }, label)));
    this.body = el("div", { class: "workspace-body" });
    this.missing = el("div", {});
    this.element = this.build();
    this.choose("program");
    this.logs = new LogFollower(generation, this.terminal, connection);
    this.resource = new LiveResource({
      url: previewUrl(generation),
      streamUrl: `${PREVIEWS}/stream`,
      types: ["preview_status", "deleted"],
      applyEvent: (preview, event) => this.apply(preview, event),
      onChange: (preview) => this.show(preview),
      onStatus: (status) => this.told(status),
    });
    this.line = connection.track("Preview", this.resource);
    everySecond(() => this.preview && this.showFacts(this.preview));
    this.resource.start();
  }

  build() {
    const side = el("section", { class: "panel side", "aria-label": "Program and files" }, this.program.element, this.files.element);
    this.body.append(this.terminal.element, side);
    return el(
      "div",
      { class: "workspace" },
      el("a", { class: "back", href: "/previews" }, icon("back"), "Previews"),
      el(
        "div",
        { class: "head" },
        el("div", {}, el("div", { class: "title-line" }, el("h1", {}, this.generation), this.badge), this.facts),
        el("div", { class: "actions" }, this.tabs, this.restartButton, this.stopButton),
      ),
      this.warning,
      this.missing,
      this.body,
    );
  }

  /** @param {string} pane */
  choose(pane) {
    this.element.dataset.pane = pane;
    for (const tab of this.tabs.children) setAttributes(tab, { "aria-pressed": String(/** @type {HTMLElement} */ (tab).dataset.pane === pane) });
    if (pane === "files") this.files.load();
    this.terminal.viewport.draw();
  }

  // ── what becomes of it ───────────────────────────────────────────────────────────────────────────────────────

  /**
   * @param {Preview} preview
   * @param {Record<string, any>} event
   */
  apply(preview, event) {
    if (event.generation_id !== this.generation) return preview;
    // another one has taken its place, or its last lines are wanted, which no event tells
    const isElsewhere = event.preview_id !== preview.id || event.type === "deleted" || event.status === "failed" || event.status === "exited";
    if (isElsewhere) this.resource.refresh();
    return after(preview, event);
  }

  /** @param {Preview} preview */
  show(preview) {
    const before = this.preview;
    if (!preview) return;
    this.preview = preview;
    setShown(this.body, true);
    this.missing.replaceChildren();
    if (before?.id !== preview.id) {
      this.terminal.begin({ name: this.generation, readPage: pagesOf(this.generation), readText: textOf(this.generation) });
      this.files.isStale = true;
    }
    this.logs.follow(preview);
    setBadge(this.badge, preview.status);
    this.terminal.end(endOf(preview));
    this.program.show(preview);
    this.files.show(preview);
    this.showFacts(preview);
    this.showActions(preview);
    setShown(this.warning, preview.isolation === "process" && !isOver(preview));
    setText(this.warning, `No isolation. ${ISOLATION.process} Launch only what you trust.`);
    if (before && before.status !== preview.status) announce(`${this.generation} is ${words(preview.status)}. ${endOf(preview)?.text ?? ""}`);
  }

  /** @param {Preview} preview */
  showFacts(preview) {
    const left = preview.expires_at && !isOver(preview) ? Date.parse(preview.expires_at) - Date.now() : null;
    const facts = [
      ["kind", preview.kind, ""],
      ["isolation", preview.isolation ? `isolation: ${preview.isolation}` : "", ISOLATION[preview.isolation ?? ""] ?? ""],
      ["attempt", preview.attempt > 1 ? `attempt ${preview.attempt}` : "", ""],
      ["ready", preview.ready_after_ms != null ? `ready after ${duration(preview.ready_after_ms)}` : "", ""],
      ["network", preview.network ? "with the network" : "", ""],
      ["expires", left !== null ? `ends in ${duration(Math.max(0, Math.ceil(left / 1000) * 1000))}` : "", ""],
    ].filter(([, text]) => text);
    reconcile(this.facts, facts, {
      key: ([name]) => name,
      make: ([name]) => el("li", { class: "pill", "data-fact": name, "data-tone": name === "isolation" && preview.isolation === "process" ? "warn" : null }),
      update: (item, [, text, title]) => {
        setText(item, text);
        item.title = title;
      },
    });
  }

  /** @param {Preview} preview */
  showActions(preview) {
    const isEnded = isOver(preview);
    setText(this.restartButton, "");
    this.restartButton.replaceChildren(icon(isEnded ? "play" : "again"), isEnded ? "Start again" : "Restart");
    this.stopButton.replaceChildren(icon(isEnded ? "bin" : "stop"), isEnded ? "Remove" : "Stop");
    setAttributes(this.stopButton, { disabled: preview.status === "stopping" });
    setAttributes(this.restartButton, { disabled: preview.status === "stopping" });
  }

  /** @param {import("/web/shared/status.js").Status} status */
  told(status) {
    this.line.set(status);
    if (status.phase !== "refused") return;
    const isGone = status.problem?.status === 404;
    setShown(this.body, false);
    this.missing.replaceChildren(
      isGone
        ? emptyState({ title: "There is no such preview", text: `Nobody has launched “${this.generation}”, or it was removed.`, sign: "preview", action: el("a", { class: "button", href: `/previews?generation=${encodeURIComponent(this.generation)}` }, "Launch one under this name") })
        : errorState({ title: "The preview cannot be shown", text: status.why, again: () => location.reload() }),
    );
    for (const each of [this.facts, this.badge, this.tabs, this.restartButton, this.stopButton, this.warning]) setShown(each, false);
  }

  // ── what is done to it ───────────────────────────────────────────────────────────────────────────────────────

  /**
   * @param {HTMLButtonElement} button
   * @param {() => Promise<Preview | null>} work
   */
  async act(button, work) {
    button.disabled = true;
    try {
      const shown = await work();
      if (shown) await this.resource.refresh();
    } catch (error) {
      toast(error instanceof Error ? error.message : String(error), { tone: "bad" });
    } finally {
      button.disabled = false;
      if (this.preview) this.showActions(this.preview);
    }
  }

  async stop() {
    const { preview, generation } = this;
    if (!preview) return;
    if (!isOver(preview)) {
      await this.act(this.stopButton, () => remove(generation));
      return;
    }
    const isSure = await confirmed({ title: `Remove “${generation}”?`, text: "The preview and all of its output are gone then.", action: "Remove it" });
    if (!isSure) return;
    await this.act(this.stopButton, async () => {
      await remove(generation);
      location.assign("/previews");
      return null;
    });
  }
}
