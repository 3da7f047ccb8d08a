// One run in full: how it stands, what came of it, and its whole event chain, from its own stream.

import { announce, toast } from "/web/shared/announce.js";
import { badge, setBadge } from "/web/shared/badge.js";
import { byId, el, onChange, setAttributes, setShown, setText } from "/web/shared/dom.js";
import { duration, full, number, relative } from "/web/shared/format.js";
import { icon } from "/web/shared/icons.js";
import { errorState, loadingState } from "/web/shared/states.js";
import { backfill, follow, request } from "/web/shared/stream.js";

import { cancel, remove, retry } from "./actions.js";
import { Card } from "./card.js";
import { Chain } from "./chain.js";
import { ChainView } from "./chain_view.js";
import { QuestionView } from "./question_view.js";
import { SparkView } from "./spark_view.js";
import { placeOf, rateOf, silenceOf } from "./words.js";

const RUNS = "/api/v1/runs";
const ID = /^[A-Za-z0-9_-]{1,80}$/;
const WIDE = "(min-width: 70rem)"; // where it stands beside the list, and scrolls by itself (page.css)
const NEAR_END_PIXELS = 40;

/** @typedef {import("./card.js").Run} Run */
/** @typedef {import("./chain.js").Frame} Frame */
/** @typedef {import("/web/shared/status.js").Status} Status */

/**
 * @typedef {object} RunListener
 * @property {(status: Status) => void} onStatus of the run's own stream
 * @property {(id: string) => void} onOpen another run is to be shown
 * @property {() => void} onClose it is to be shown no more
 * @property {() => number} now by the server's clock
 */

export class RunView {
  element = byId("run");
  card;
  chain = new Chain(localStorageHas("tailrace.runs.ungrouped") ? false : true);
  /** how it stands by what the API said, until its events have told */
  #api;
  #isTrimmed = false;
  #isCaughtUp = false;
  #isLive = false;
  #isGone = false;
  #isFollowed = false;
  #view;
  #following;
  #wide = matchMedia(WIDE);
  #onWide = () => this.#rebuild();
  #onScroll = () => this.#scrolled();
  #top = 0;
  #paint = onChange(() => this.update());

  /** @param {string} id @param {RunListener} listener */
  constructor(id, listener) {
    this.id = id;
    this.listener = listener;
    this.card = new Card(id);
    this.#api = new Card(id);
    this.parts = new Parts(id);
    this.element.replaceChildren(this.parts.element);
    this.#view = this.#makeView();
    this.#listen();
    this.#wide.addEventListener("change", this.#onWide);
    this.#following = ID.test(id) ? this.#follow() : null;
    if (this.#following) this.#ask();
    else this.#refused("There is no such run: that is no run's id.");
    this.update();
  }

  /** How it stands, as far as is known. */
  get shown() {
    return this.#isCaughtUp && !this.#isTrimmed && this.card.position ? this.card : this.#api;
  }

  stop() {
    this.#following?.stop();
    this.#view.stop();
    this.#wide.removeEventListener("change", this.#onWide);
    this.element.removeEventListener("scroll", this.#onScroll);
    removeEventListener("scroll", this.#onScroll);
    this.#isGone = true;
    this.element.replaceChildren();
  }

  retryNow() {
    this.#following?.retryNow();
  }

  update() {
    if (this.#isGone) return;
    this.parts.show(this.shown);
    this.parts.showCount(this.chain.frames.length, this.#isTrimmed);
    this.#view.update();
    this.tick();
    if (this.#isFollowed) this.#scrollToEnd();
  }

  tick() {
    if (!this.#isGone) this.parts.tick(this.shown, this.card.rates, this.listener.now(), this.#isLive);
  }

  #follow() {
    return follow(`${RUNS}/${this.id}/stream`, {
      after: "start",
      onFrames: (frames) => this.#take(frames),
      onLive: () => this.#caughtUp(),
      onGap: (gap) => this.#gap(gap),
      onReset: () => this.#startOver(),
      onEnd: (end) => this.#ended(end),
      onStatus: (status) => this.#told(status),
    });
  }

  /** @param {Frame[]} frames */
  #take(frames) {
    for (const frame of frames) {
      this.chain.take(frame);
      this.card.apply(frame.event, frame.id);
      this.#api.apply(frame.event, frame.id);
    }
    this.#paint();
  }

  /** @param {any} gap */
  #gap(gap) {
    const epoch = (this.chain.position ?? "").split("-")[0];
    this.chain.take({ id: `${epoch}-${gap.to_seq}`, event: gap });
    this.#paint();
  }

  #caughtUp() {
    this.#isCaughtUp = true;
    this.#paint();
  }

  #startOver() {
    this.chain.clear();
    this.card = new Card(this.id);
    if (this.#api.isKnown) this.card.know(this.#api.run);
    this.#isCaughtUp = false;
    this.#paint();
  }

  /** @param {{reason: string}} end */
  #ended(end) {
    this.#isCaughtUp = true;
    if (end.reason === "access_revoked") this.#refused("This run is not there any more: it was deleted, or is not yours.");
    this.#paint();
  }

  /** @param {Status} status */
  #told(status) {
    this.#isLive = status.phase === "live";
    this.listener.onStatus(status);
    if (status.phase === "refused") this.#refused(status.problem?.detail ?? status.why);
    this.#paint();
  }

  /** @param {string} why */
  #refused(why) {
    const back = el("a", { class: "button quiet", href: "/runs" }, "All runs");
    const state = errorState({ title: "There is no run to show", text: why });
    state.append(back);
    this.parts.refuse(state);
  }

  async #ask() {
    try {
      const { events, events_trimmed: isTrimmed, ...run } = await request(`${RUNS}/${this.id}`);
      this.#isTrimmed = isTrimmed;
      this.#api.learn(run);
      this.card.know(run);
    } catch {
      return; // the stream is refused in the same words, or tells when the service is back
    }
    this.#paint();
  }

  #listen() {
    const { parts } = this;
    parts.close.addEventListener("click", () => this.listener.onClose());
    parts.cancel.addEventListener("click", () => cancel(this.id));
    parts.retry.addEventListener("click", async () => {
      const run = await retry(this.id);
      if (run) this.listener.onOpen(run.id);
    });
    parts.remove.addEventListener("click", async () => {
      if (!(await remove(this.id, this.shown.run.task ?? this.id))) return;
      toast("The run is deleted.");
      this.listener.onClose();
    });
    parts.copy.addEventListener("click", () => copy(this.id));
    parts.grouped.addEventListener("click", () => this.#regroup(!this.chain.isGrouped));
    parts.follow.addEventListener("click", () => this.#setFollowed(!this.#isFollowed));
    this.element.addEventListener("scroll", this.#onScroll, { passive: true });
    addEventListener("scroll", this.#onScroll, { passive: true });
    setAttributes(parts.grouped, { "aria-pressed": String(this.chain.isGrouped) });
  }

  /** @param {boolean} isFollowed */
  #setFollowed(isFollowed) {
    if (this.#isFollowed === isFollowed) return;
    this.#isFollowed = isFollowed;
    setAttributes(this.parts.follow, { "aria-pressed": String(isFollowed) });
    if (isFollowed) this.#scrollToEnd();
  }

  /** Who scrolls up wants to read. A chain that became shorter also moves up, but stays at its end. */
  #scrolled() {
    const scroller = this.#wide.matches ? this.element : document.documentElement;
    const { scrollTop } = scroller;
    const isAtEnd = scroller.scrollHeight - scrollTop - scroller.clientHeight < NEAR_END_PIXELS;
    if (scrollTop < this.#top && !isAtEnd) this.#setFollowed(false);
    this.#top = scrollTop;
  }

  #scrollToEnd() {
    this.parts.end.scrollIntoView({ block: "end" });
  }

  /** @param {boolean} isGrouped */
  #regroup(isGrouped) {
    this.chain.regroup(isGrouped);
    remember("tailrace.runs.ungrouped", !isGrouped);
    setAttributes(this.parts.grouped, { "aria-pressed": String(isGrouped) });
    this.#rebuild();
  }

  #makeView() {
    const view = new ChainView(this.chain, this.#wide.matches ? this.element : null, (gaps) => this.#fill(gaps));
    this.parts.chain.replaceChildren(view.element);
    return view;
  }

  #rebuild() {
    this.#view.stop();
    this.#view = this.#makeView();
    this.update();
  }

  /** @param {Frame[]} gaps */
  async #fill(gaps) {
    try {
      const found = [];
      for (const gap of gaps) found.push(...(await backfill(/** @type {any} */ (gap.event))));
      this.chain.fill(gaps, found);
      this.#rebuild();
      announce("What was skipped is here now.");
    } catch (error) {
      toast(`What was skipped could not be read: ${/** @type {Error} */ (error).message}`, { tone: "bad" });
    }
  }
}

/** The elements of the view. */
class Parts {
  #badge = badge("queued");
  #stalled = el("span", { class: "pill", "data-tone": "warn", hidden: true }, icon("warning"), "stalled");
  #age = el("span", { class: "dim small nums" });
  #title = el("h2", { class: "run-title wrap", tabindex: "0", id: "run-title" });
  #place = el("p", { class: "run-place dim wrap" });
  #facts = el("dl", { class: "facts run-facts" });
  #error = el("div", { class: "notice", "data-tone": "bad", hidden: true });
  #output = el("div", { class: "run-output wrap", tabindex: "0", role: "region", "aria-label": "Output" });
  #outputBox = el("section", { class: "run-result", hidden: true }, el("h3", {}, "Output"), this.#output);
  #rate = el("b", { class: "nums" });
  #tokens = el("b", { class: "nums" });
  #time = el("b", { class: "nums" });
  #spark = new SparkView("large");
  #count = el("span", { class: "dim small nums" });
  #trimmed = el("p", { class: "chain-note dim small", hidden: true }, "Its oldest events are gone: they were older than the log keeps.");
  #question;
  #drawn = "";

  close = el("button", { type: "button", class: "plain", "aria-label": "Close", title: "Close (Escape)" }, icon("cross"));
  cancel = el("button", { type: "button", class: "quiet" }, icon("stop"), "Cancel");
  retry = el("button", { type: "button", class: "quiet", hidden: true }, icon("again"), "Retry");
  remove = el("button", { type: "button", class: "quiet", "data-tone": "bad", hidden: true }, icon("bin"), "Delete");
  copy = el("button", { type: "button", class: "plain", "aria-label": "Copy the id", title: "Copy the id" }, icon("copy"));
  grouped = el("button", { type: "button" }, "By worker");
  follow = el("button", { type: "button", "aria-pressed": "false" }, icon("down"), "Follow");
  chain = el("div", { class: "chain-place" });
  end = el("div", { class: "chain-end" });

  /** @param {string} id */
  constructor(id) {
    this.#question = new QuestionView(id);
    const meters = el(
      "div",
      { class: "run-meters" },
      meter(this.#rate, "tokens/s"),
      meter(this.#tokens, "tokens out"),
      meter(this.#time, "duration"),
      this.#spark.element,
    );
    this.chain.append(loadingState("Reading the events"));
    this.element = el(
      "div",
      { class: "run-inner" },
      el("div", { class: "run-top" }, el("a", { class: "back", href: "/runs" }, icon("back"), "All runs"), this.#badge, this.#stalled, this.#age, this.close),
      el("header", { class: "run-head" }, this.#title, el("p", { class: "run-id mono dim small" }, id, this.copy), this.#place),
      this.#question.element,
      el("div", { class: "actions" }, this.cancel, this.retry, this.remove),
      meters,
      this.#error,
      this.#outputBox,
      el("details", { class: "run-more" }, el("summary", {}, "Details"), this.#facts),
      el("div", { class: "chain-head" }, el("h3", {}, "Events"), this.#count, el("div", { class: "tabs" }, this.grouped, this.follow)),
      this.#trimmed,
      this.chain,
      this.end,
    );
  }

  /** @param {Card} card */
  show(card) {
    const { run } = card;
    setBadge(this.#badge, card.status);
    setText(this.#title, run.task ?? "…");
    setText(this.#place, placeOf(card));
    setShown(this.#place, this.#place.textContent !== "");
    setShown(this.cancel, !card.isOver);
    this.cancel.disabled = card.status === "cancelling";
    setShown(this.retry, card.isOver);
    setShown(this.remove, card.isOver);
    setText(this.#error, card.error);
    setShown(this.#error, Boolean(card.error));
    setText(this.#output, card.output);
    setShown(this.#outputBox, Boolean(card.output));
    setText(this.#tokens, `${card.isEstimated ? "≈ " : ""}${number(card.tokensOut)}`);
    this.#question.update(card);
    this.#showFacts(card);
  }

  /** @param {number} count @param {boolean} isTrimmed */
  showCount(count, isTrimmed) {
    setText(this.#count, number(count));
    setShown(this.#trimmed, isTrimmed);
  }

  /** @param {Card} card @param {import("./rates.js").Rates} rates @param {number} now @param {boolean} isLive */
  tick(card, rates, now, isLive) {
    const took = card.duration(now);
    setText(this.#time, took === null ? "–" : duration(took));
    setText(this.#rate, card.isOver ? rateOf(card, now) : rates.perSecond(now).toFixed(1));
    setText(this.#age, silenceOf(card, now, isLive));
    setShown(this.#stalled, isLive && card.isStalled(now));
    this.#spark.draw(rates.series(card.finishedAt === null ? now : card.finishedAt + 1_000, 60));
  }

  /** @param {HTMLElement} state instead of all the rest */
  refuse(state) {
    this.element.replaceChildren(el("div", { class: "run-top" }, el("span", { class: "grow" }), this.close), state);
  }

  /** @param {Card} card */
  #showFacts(card) {
    const { run } = card;
    if (!card.isKnown) return;
    const facts = [
      ["Runner", `${run.runner} · ${run.mode}`],
      ["Workers", String(run.workers)],
      ["Attempt", `${card.attempt} of ${run.max_attempts}`],
      ["Tokens", `${number(card.tokensIn)} in, ${number(card.tokensOut)} out`],
      ["Created", full(run.created_at)],
      ["Started", card.startedAt === null ? "" : full(card.startedAt)],
      ["Finished", card.finishedAt === null ? "" : full(card.finishedAt)],
      ["Time limit", run.timeout_seconds === null ? "" : duration(run.timeout_seconds * 1_000)],
      ["Session", run.session_id ?? ""],
      ["Task", run.task_id ?? "", run.task_id && `/tasks/${encodeURIComponent(run.task_id)}`],
      ["Retry of", run.retry_of ?? "", run.retry_of && `/runs/${run.retry_of}`],
      ["Parameters", Object.keys(run.params).length ? JSON.stringify(run.params) : ""],
    ].filter(([, text]) => text);
    const drawn = JSON.stringify(facts);
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    this.#facts.replaceChildren(
      ...facts.flatMap(([name, text, href]) => [el("dt", {}, name), el("dd", {}, href ? el("a", { href }, text) : text)]),
    );
  }
}

/** @param {HTMLElement} value @param {string} name */
function meter(value, name) {
  return el("p", { class: "meter" }, value, el("span", {}, name));
}

/** @param {string} text */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast("The id is copied.");
  } catch {
    toast(`This page cannot copy here; the id is ${text}`);
  }
}

/** @param {string} name */
function localStorageHas(name) {
  try {
    return localStorage.getItem(name) !== null;
  } catch {
    return false; // storage may be forbidden
  }
}

/** @param {string} name @param {boolean} isSet */
function remember(name, isSet) {
  try {
    if (isSet) localStorage.setItem(name, "1");
    else localStorage.removeItem(name);
  } catch {
    // it holds for this page at least
  }
}
