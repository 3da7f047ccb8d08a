// What belongs to a task and lives elsewhere: its runs and its preview, live.

import { badge, setBadge } from "/web/shared/badge.js";
import { el, onChange, reconcile, setAttributes, setShown, setText } from "/web/shared/dom.js";
import { duration, number, plural } from "/web/shared/format.js";
import { icon } from "/web/shared/icons.js";
import { isAfter, LiveResource } from "/web/shared/stream.js";
import { everySecond } from "/web/shared/time.js";

/** @typedef {import("/web/shared/chip.js").ConnectionChip} ConnectionChip */
/** @typedef {import("/web/shared/chip.js").Line} Line */

const RUNS = "/api/v1/runs";
const MOST_RUNS = 100; // as many as one stream is asked for
const OVER = new Set(["completed", "failed", "cancelled", "timed_out"]);
const ENDED = new Set(["stopped", "exited", "failed", "lost"]);
const QUIET_NODES = new Set(["supervisor", "system", "finish"]); // they speak of the work, not of its result

export class LinkedRuns {
  #list = el("ol", { class: "list" });
  #count = el("span", { class: "dim small nums" });
  /** @type {LiveResource<any> | null} */
  #resource = null;
  /** @type {Line | null} */
  #line = null;
  #ids = "";
  /** @type {Map<string, any>} */
  #runs = new Map();
  #isLast = false;
  #paint = onChange(() => this.#show());
  #stopTicking = everySecond(() => this.#paint());

  /** @param {string} taskId @param {ConnectionChip} connection */
  constructor(taskId, connection) {
    this.taskId = taskId;
    this.connection = connection;
    const head = el("div", { class: "panel-head" }, el("h2", { id: "runs-title" }, "Runs"), this.#count);
    this.element = el("section", { class: "panel", "aria-labelledby": "runs-title", hidden: true }, head, this.#list);
  }

  /** @param {string[]} ids as the task has them @param {boolean} isOver the task is, so no more will come */
  show(ids, isOver) {
    this.#isLast = isOver;
    setShown(this.element, ids.length > 0);
    setText(this.#count, plural(ids.length, "run"));
    const shown = ids.slice(-MOST_RUNS);
    if (shown.join() === this.#ids) return;
    this.#ids = shown.join();
    const streamUrl = `${RUNS}/stream?${shown.map((id) => `run=${id}`).join("&")}`;
    this.#unfollow();
    this.#resource = new LiveResource({
      url: `${RUNS}?task_id=${this.taskId}&limit=${MOST_RUNS}`,
      streamUrl,
      types: ["status", "node_update"],
      initial: this.#runs, // what is known stays to be seen
      readState: (body) => (this.#runs = new Map(body.data.map((/** @type {any} */ run) => [run.id, run]))),
      applyEvent: (runs, event, frame) => applyToRun(runs.get(event.run_id), event, frame),
      onChange: () => this.#paint(),
      onStatus: (status) => this.#line?.set(status),
    });
    this.#line = this.connection.track("Its runs", this.#resource);
    this.#resource.start();
  }

  close() {
    this.#stopTicking();
    this.#unfollow();
  }

  #unfollow() {
    this.#resource?.stop();
    this.#line?.remove();
  }

  #show() {
    const runs = [...this.#runs.values()].sort((one, other) => (one.id < other.id ? -1 : 1));
    reconcile(this.#list, runs, { key: (run) => run.id, make: makeRun, update: updateRun });
    if (this.#isLast && runs.length >= Math.min(this.#ids.split(",").length, MOST_RUNS) && runs.every((run) => OVER.has(run.status))) this.#unfollow(); // nothing more will come
  }
}

/** @param {any} run @param {any} event @param {{id: string}} frame */
function applyToRun(run, event, frame) {
  if (!run || !isAfter(frame.id, run.last_position)) return;
  run.last_position = frame.id;
  if (event.type === "status") {
    const { status, error = null, attempt, tokens_out } = event;
    Object.assign(run, { status, error, attempt, tokens_out });
    if (status === "running") run.started_at ??= event.ts;
    if (OVER.has(status)) run.finished_at = event.ts;
    run.snippet = event.snippet ?? run.snippet;
  } else {
    run.tokens_out = Math.max(run.tokens_out, event.tokens_out ?? 0);
    if (event.snippet && !QUIET_NODES.has(event.node)) run.snippet = event.snippet;
  }
}

/** @param {any} run */
function makeRun(run) {
  return el(
    "li",
    { class: "row run-row" },
    badge(run.status),
    el("div", { class: "run-main" }, el("a", { class: "over cut", href: `/runs/${run.id}` }), el("p", { class: "dim small cut" })),
    el("span", { class: "dim small nums" }),
  );
}

/** @param {HTMLElement} row @param {any} run */
function updateRun(row, run) {
  const [status, main, facts] = /** @type {HTMLElement[]} */ ([...row.children]);
  setBadge(status, run.status);
  setText(main.children[0], run.task);
  setText(main.children[1], run.error ?? run.snippet ?? "");
  setText(facts, [run.tokens_out ? `${number(run.tokens_out)} tokens` : "", tookOf(run)].filter(Boolean).join(" · "));
}

/** @param {any} run */
function tookOf({ started_at: start, finished_at: end, status }) {
  if (!start || status === "queued") return ""; // a queued one may have been started before
  return duration((end ? Date.parse(end) : Date.now()) - Date.parse(start));
}

export class LinkedPreview {
  #badge = badge("preparing");
  #none = el("p", { class: "dim small" }, "No preview of it yet.");
  #page = el("a", { class: "button quiet" }, "Open the preview", icon("arrow"));
  #name = el("p", { class: "cut" });
  /** @type {LiveResource<any> | null} */
  #resource = null;
  /** @type {Line | null} */
  #line = null;
  /** @type {string | null} */
  #generation = null;
  #isLast = false;
  #isKnown = false;

  /** @param {ConnectionChip} connection */
  constructor(connection) {
    this.connection = connection;
    const head = el("div", { class: "panel-head" }, el("h2", { id: "preview-title" }, "Preview"), this.#badge);
    const body = el("div", { class: "panel-body stack tight" }, this.#name, this.#none, this.#page);
    this.element = el("section", { class: "panel", "aria-labelledby": "preview-title", hidden: true }, head, body);
  }

  /**
   * @param {string | null} generation
   * @param {string | null} status as the task knows it
   * @param {boolean} isOver the task is
   */
  show(generation, status, isOver) {
    this.#isLast = isOver;
    setShown(this.element, generation !== null);
    if (generation === null) return;
    setText(this.#name, generation);
    setAttributes(this.#page, { href: `/previews/${encodeURIComponent(generation)}` });
    if (generation !== this.#generation) this.#follow(generation);
    this.#paint(status);
  }

  /** A task hears of its preview as long as it goes on; its preview may outlive it. @param {string} generation */
  #follow(generation) {
    this.close();
    this.#generation = generation;
    const url = `/api/v1/previews?limit=1&generation_id=${encodeURIComponent(generation)}`;
    this.#resource = new LiveResource({
      url,
      streamUrl: "/api/v1/previews/stream",
      initial: null,
      readState: (body) => {
        this.#isKnown = true;
        return body.data[0] ?? null;
      },
      applyEvent: (preview, event) => this.#apply(preview, event),
      onChange: () => this.#paint(null),
      onStatus: (state) => this.#line?.set(state),
    });
    this.#line = this.connection.track("Its preview", this.#resource);
    this.#resource.start();
  }

  /** @param {any} preview @param {any} event */
  #apply(preview, event) {
    if (event.type !== "preview_status" || event.generation_id !== this.#generation) return undefined;
    return { ...preview, status: event.status };
  }

  close() {
    this.#resource?.stop();
    this.#line?.remove();
  }

  /** @param {string | null} told */
  #paint(told) {
    const preview = this.#resource?.state ?? null;
    const status = preview?.status ?? told;
    setShown(this.#badge, status !== null);
    setShown(this.#none, status === null);
    if (status !== null) setBadge(this.#badge, status);
    if (this.#isLast && this.#isKnown && (preview === null || ENDED.has(preview.status))) this.close();
  }
}
