// The terminal of a preview: its output in a viewport, with what one wants to do with it.

import { announce, toast } from "/web/shared/announce.js";
import { el, onChange, setAttributes, setShown, setText } from "/web/shared/dom.js";
import { number, plural } from "/web/shared/format.js";
import { icon } from "/web/shared/icons.js";
import { plainOf } from "./ansi.js";
import { EVERYTHING, isOpen, queryOf } from "./matches.js";
import { Output } from "./output.js";
import { Search } from "./search.js";
import { Selection } from "./selection.js";
import { Toolbar } from "./toolbar.js";
import { Viewport } from "./viewport.js";

/** @typedef {import("./lines.js").Piece} Piece */
/** @typedef {import("./matches.js").Filter} Filter */
/** @typedef {(query: string, signal: AbortSignal) => Promise<import("./output.js").LogPage>} ReadPage */
/** @typedef {(query: string) => Promise<Blob>} ReadText */

const SEARCH_MILLISECONDS = 250; // after the last key
const NARROW = matchMedia("(max-width: 44rem)");

export class Terminal {
  constructor() {
    this.scroller = el("div", { class: "screen", tabindex: 0, role: "log", "aria-live": "off", "aria-label": "Output" });
    this.toolbar = new Toolbar(this);
    this.note = el("p", { class: "screen-note" });
    this.trouble = el("p", { class: "notice trouble", "data-tone": "warn", role: "status" });
    this.ending = el("div", { class: "ending" });
    this.count = el("span", { class: "dim small nums", id: "line-count" });
    this.followWords = el("span", {}, "Following");
    this.followButton = el(
      "button",
      { type: "button", class: "follow quiet", "aria-pressed": "true", onclick: () => this.goToEnd() },
      icon("down"),
      this.followWords,
    );
    this.element = el(
      "section",
      { class: "panel terminal", "aria-label": "Terminal" },
      this.toolbar.element,
      el("div", { class: "screen-frame" }, this.scroller, this.note),
      this.trouble,
      this.ending,
      el("div", { class: "terminal-foot" }, this.count, this.followButton),
    );
    this.viewport = new Viewport(this.scroller, { onFollow: () => this.onFollow(), onDraw: () => this.paint() });
    this.selection = new Selection(this.viewport, {
      onCopy: (count, isLater) => (isLater || count > 1) && toast(`Copied ${plural(count, "line")}.`),
      onFail: (why) => toast(`Nothing was copied: ${why}.`, { tone: "bad" }),
    });
    this.paint = onChange(() => this.show());
    /** @type {Output | null} */
    this.output = null;
    /** @type {Search | null} */
    this.search = null;
    /** @type {ReadText | null} */
    this.readText = null;
    this.name = "output";
    this.pausedAt = 0; // rows there were when following ended
    this.timer = 0;
    setShown(this.trouble, false);
    this.scroller.addEventListener("keydown", (event) => this.onKey(event));
    this.scroller.addEventListener("click", (event) => this.onClick(event));
    NARROW.addEventListener("change", () => this.fit());
    this.fit();
    this.wrap(NARROW.matches);
  }

  /**
   * Show another output from here on.
   * @param {{ name: string, readPage: ReadPage, readText: ReadText, bound?: number }} of
   */
  begin({ name, readPage, readText, bound }) {
    this.output?.close();
    this.name = name;
    this.readText = readText;
    const { viewport } = this;
    const output = new Output(readPage, {
      grown: () => viewport.grown(),
      inserted: (at, count) => viewport.inserted(at, count),
      changed: () => viewport.changed(),
      redone: () => viewport.redone(),
      folded: () => viewport.folded(),
      troubled: (why) => this.troubled(why),
    }, bound);
    this.output = output;
    this.search = new Search(output);
    setAttributes(this.scroller, { "aria-label": `Output of ${name}` });
    this.end(null);
    this.selection.clear();
    this.toolbar.reset();
    viewport.use(output);
    output.patiently(() => output.page({ tail: 1 })); // how far back it goes
  }

  // ── what comes ───────────────────────────────────────────────────────────────────────────────────────────────

  /** @param {Piece[]} pieces */
  take(pieces) {
    this.output?.take(pieces);
    this.search?.take(pieces);
    if (!document.hidden) return;
    this.paint();
  }

  /** The stream has skipped some lines. */
  skip() {
    this.output?.skip();
  }

  clear() {
    this.output?.clear();
  }

  /**
   * How the program has ended; null while it has not.
   * @param {{ tone: string, title: string, text: string } | null} how
   */
  end(how) {
    setShown(this.ending, how !== null);
    if (!how) return;
    this.ending.dataset.tone = how.tone;
    this.ending.replaceChildren(el("b", {}, how.title), how.text ? el("span", {}, how.text) : "");
  }

  /** @param {string} why */
  troubled(why) {
    setText(this.trouble, why && `Stored lines cannot be read just now: ${why} Trying again.`);
    setShown(this.trouble, Boolean(why));
  }

  // ── following ────────────────────────────────────────────────────────────────────────────────────────────────

  onFollow() {
    if (!this.viewport.isFollowing) this.pausedAt = this.output?.count ?? 0;
    this.paint();
  }

  async goToEnd() {
    if (this.viewport.isFollowing) {
      this.viewport.leaveEnd();
      this.viewport.setFollowing(false);
      return;
    }
    await this.output?.toEnd();
    this.selection.clear();
    this.viewport.follow();
  }

  show() {
    const { output, viewport } = this;
    const all = output?.store.count ?? 0;
    const rows = output?.count ?? 0;
    setText(this.count, output?.matches ? `${number(rows)}${output.matches.moreBefore ? "+" : ""} of ${plural(all, "line")}` : plural(all, "line"));
    const news = Math.max(0, rows - this.pausedAt);
    setText(this.followWords, viewport.isFollowing ? "Following" : news ? plural(news, "new line") : "Follow");
    setAttributes(this.followButton, { "aria-pressed": String(viewport.isFollowing) });
    this.followButton.dataset.news = String(!viewport.isFollowing && news > 0);
    setText(this.note, rows ? "" : isOpen(output?.filter ?? EVERYTHING) ? "Nothing was printed yet." : "No line fits the filter.");
    setShown(this.note, rows === 0);
    setText(this.toolbar.found, this.search?.words ?? "");
  }

  // ── filters and searching ────────────────────────────────────────────────────────────────────────────────────

  /** @param {Partial<Filter>} change */
  async filter(change) {
    const { output, viewport, search } = this;
    if (!output) return;
    const near = viewport.isFollowing || !output.count ? null : viewport.anchor.number;
    await output.show({ ...output.filter, ...change }, near);
    this.pausedAt = output.count;
    if (search?.text && !("text" in change)) await this.find(search.text);
    this.paint();
  }

  /** @param {string} text */
  typed(text) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.find(text), SEARCH_MILLISECONDS);
  }

  /** @param {string} text */
  async find(text) {
    const { output, search, viewport } = this;
    clearTimeout(this.timer);
    if (!output || !search) return;
    viewport.look.needle = text;
    const near = viewport.isFollowing ? output.store.last : viewport.anchor.number;
    if (output.filter.text) await output.show({ ...output.filter, text }, null);
    await this.reached(search.begin(text, near));
    if (!text) viewport.look.current = 0;
    viewport.draw();
  }

  /** @param {1 | -1} direction */
  async step(direction) {
    if (this.search && this.search.text !== this.toolbar.text) await this.find(this.toolbar.text);
    else if (this.search) await this.reached(this.search.step(direction));
  }

  /** @param {Promise<number | null>} searching */
  async reached(searching) {
    const { search, viewport } = this;
    const busy = setTimeout(() => setText(this.toolbar.found, "Searching …"), 150);
    try {
      const hit = await searching;
      if (hit === null) return;
      viewport.look.current = hit;
      if (hit) viewport.reveal(hit);
      if (search?.text) announce(search.words);
    } catch (error) {
      if (error instanceof Error && error.name !== "AbortError") this.troubled(error.message);
    } finally {
      clearTimeout(busy);
      this.paint();
    }
  }

  // ── looks ────────────────────────────────────────────────────────────────────────────────────────────────────

  /** @param {boolean} isOn */
  wrap(isOn) {
    this.scroller.classList.toggle("wrapped", isOn);
    this.toolbar.pressed("wrap", isOn);
    this.viewport.remeasure();
  }

  /** @param {boolean} isOn */
  times(isOn) {
    this.viewport.look.times = isOn;
    this.toolbar.pressed("times", isOn);
    this.viewport.remeasure();
  }

  fit() {
    this.viewport.look.numbers = !NARROW.matches;
    this.times(!NARROW.matches);
  }

  // ── taking it away ───────────────────────────────────────────────────────────────────────────────────────────

  /** All that is shown, as text without colours. */
  async copyAll() {
    const { output, readText } = this;
    if (!output || !readText) return;
    const text = readText(queryOf(output.filter, {})).then((blob) => blob.text());
    await this.selection.put(text.then(plainOf), output.count);
  }

  /** The same as a file, as it was printed. */
  async download() {
    const { output, readText } = this;
    if (!output || !readText) return;
    try {
      const address = URL.createObjectURL(await readText(queryOf(output.filter, {})));
      const link = document.createElement("a");
      Object.assign(link, { href: address, download: `${this.name}.log` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(address), 60_000);
    } catch (error) {
      toast(`The output was not downloaded: ${error instanceof Error ? error.message : error}`, { tone: "bad" });
    }
  }

  // ── keys and clicks ──────────────────────────────────────────────────────────────────────────────────────────

  /** @param {KeyboardEvent} event */
  onKey(event) {
    const { viewport, output } = this;
    const isPlain = !event.ctrlKey && !event.metaKey && !event.altKey;
    if ((event.ctrlKey || event.metaKey) && event.key === "a") this.selection.all();
    else if (!isPlain || (event.target !== this.scroller && event.key !== "/")) return;
    else if (event.key === "End") this.followAgain();
    else if (event.key === "Home" && output) viewport.toStart();
    else if (event.key === "/") this.toolbar.focusSearch();
    else if (event.key === "Escape") this.selection.clear();
    else {
      if (event.key === "PageUp" || event.key === "ArrowUp") viewport.leaveEnd();
      return; // the browser scrolls
    }
    event.preventDefault();
  }

  followAgain() {
    if (!this.viewport.isFollowing) this.goToEnd();
  }

  /** @param {Event} event */
  onClick(event) {
    const target = event.target instanceof Element ? event.target : null;
    const button = /** @type {HTMLElement | null} */ (target?.closest("[data-action]") ?? null);
    const row = /** @type {HTMLElement | null} */ (button?.closest("[data-line]") ?? null);
    if (!button || !row || !this.output) return;
    const line = Number(row.dataset.line);
    if (button.dataset.action === "more") this.viewport.expand(line);
    if (button.dataset.action === "fill") {
      const gap = this.output.store.gapAt(line);
      this.viewport.leaveEnd();
      if (gap) this.output.fillGap(gap);
      this.scroller.focus({ preventScroll: true });
    }
  }
}
