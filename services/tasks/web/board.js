// The board: all tasks, moving by themselves. A row stays in its place as long as it is shown; only what has changed
// in it is touched.

import { announce } from "/web/shared/announce.js";
import { badge, setBadge, toneOf } from "/web/shared/badge.js";
import { byId, el, onChange, reconcile, setAttributes, setShown, setText } from "/web/shared/dom.js";
import { number, plural, words } from "/web/shared/format.js";
import { icon } from "/web/shared/icons.js";
import { progressBar, setProgress } from "/web/shared/progress.js";
import { emptyState, waitingState } from "/web/shared/states.js";
import { LiveResource, request } from "/web/shared/stream.js";
import { ago, everySecond, setAgo } from "/web/shared/time.js";

import { cancelTask, deleteTask } from "/web/tasks/actions.js";
import { askForTask } from "/web/tasks/create.js";
import { inWords } from "/web/tasks/eta.js";
import { addPage, apply, counts, noTasks, OVER, readPage, shown, sizeOf, STATUSES } from "/web/tasks/tasks.js";

/** @typedef {import("/web/tasks/tasks.js").Task} Task */
/** @typedef {import("/web/tasks/tasks.js").State} State */

const TASKS = "/api/v1/tasks";
const PAGE = 100;
const WORTH_SAYING = new Set(["waiting_input", "succeeded", "failed", "cancelled"]);

export class Board {
  /** @type {string | null} */
  #status = null;
  #isKnown = false;
  /** @type {Set<string>} statuses of which the older ones have been fetched already */
  #filled = new Set();
  #list = byId("tasks");
  #filters = byId("filters");
  #state = byId("board-state");
  #older = byId("older");
  #button = el("button", { type: "button", class: "quiet", onclick: () => this.#loadOlder() }, "Show older tasks");
  #paint = onChange(() => this.#show());

  /** @param {HTMLElement} element @param {import("/web/shared/chip.js").ConnectionChip} connection */
  constructor(element, connection) {
    this.element = element;
    this.#older.append(this.#button);
    this.resource = new LiveResource({
      url: `${TASKS}?limit=${PAGE}`,
      streamUrl: `${TASKS}/stream`,
      initial: noTasks(),
      readState: (body) => this.#read(body),
      applyEvent: (state, event, frame) => this.#apply(state, event, frame),
      onChange: () => this.#paint(),
      onStatus: (status) => {
        this.#line?.set(status);
        this.#paint();
      },
    });
    this.connection = connection;
    everySecond(() => this.#paint());
    this.resource.start();
  }

  /** @type {import("/web/shared/chip.js").Line | null} */
  #line = null;

  /** It stays up to date meanwhile; but the chip tells of what is seen. */
  hide() {
    this.#line?.remove();
    this.#line = null;
  }

  /** @param {string | null} status the filter; a word that is no status shows all */
  show(status) {
    if (this.#line === null) {
      this.#line = this.connection.track("Tasks", this.resource);
      this.#line.set(this.resource.status);
    }
    this.#status = status !== null && STATUSES.includes(status) ? status : null;
    this.#fill();
    this.#show();
  }

  /** @param {any} body */
  #read(body) {
    this.#isKnown = true;
    this.#filled.clear();
    this.#complete.clear();
    const state = readPage(body);
    queueMicrotask(() => this.#fill());
    return state;
  }

  /** @param {State} state @param {any} event @param {any} frame */
  #apply(state, event, frame) {
    const before = state.tasks.get(event.task_id)?.status;
    if (!apply(state, event, frame) || !frame.live || event.type !== "snapshot" || this.element.hidden) return;
    if (event.status !== before && WORTH_SAYING.has(event.status)) announce(`${event.title}: ${words(event.status)}.`);
  }

  /** Of a filter's tasks also those that the pages so far do not reach. */
  async #fill() {
    const status = this.#status;
    if (status === null || !this.#isKnown || this.resource.state.cursor === null || this.#filled.has(status)) return;
    this.#filled.add(status);
    await this.#load(`${TASKS}?limit=${PAGE}&status=${status}`, true).catch(() => this.#filled.delete(status));
  }

  async #loadOlder() {
    this.#button.disabled = true;
    const { cursor } = this.resource.state;
    const oldest = shown(this.resource.state, this.#status).at(-1)?.id;
    const filter = this.#status === null ? `&cursor=${cursor}` : `&status=${this.#status}&cursor=${oldest}`;
    try {
      await this.#load(`${TASKS}?limit=${PAGE}${filter}`, this.#status !== null);
    } catch (error) {
      setText(this.#button, `Show older tasks: ${/** @type {Error} */ (error).message}`);
    }
    this.#button.disabled = false;
  }

  /** @param {string} url @param {boolean} isFiltered */
  async #load(url, isFiltered) {
    const body = await request(url);
    addPage(this.resource.state, body, isFiltered);
    if (isFiltered && body.next_cursor === null && this.#status) this.#complete.add(this.#status);
    this.#show();
  }

  /** @type {Set<string>} statuses whose tasks are all here */
  #complete = new Set();

  // ── painting ─────────────────────────────────────────────────────────────────────────────────────────────────

  #show() {
    if (this.element.hidden) return;
    const { state, status } = this.resource;
    const tasks = shown(state, this.#status);
    this.#showFilters(state);
    reconcile(this.#list, tasks, {
      key: (task) => task.id,
      make: (task) => makeRow(task),
      update: (row, task) => updateRow(row, task, state),
    });
    const hasMore = state.cursor !== null && !(this.#status && this.#complete.has(this.#status));
    setShown(this.#older, hasMore && tasks.length > 0);
    this.#showState(tasks.length, status);
  }

  /** @param {State} state */
  #showFilters(state) {
    const found = counts(state);
    const isAll = state.cursor === null;
    reconcile(this.#filters, [null, ...STATUSES], {
      key: (status) => status ?? "all",
      make: (status) =>
        el(
          "a",
          { href: status ? `/tasks?status=${status}` : "/tasks" },
          el("span", { class: "word" }, status ? words(status) : "all"),
          el("span", { class: "count" }),
        ),
      update: (link, status) => {
        setAttributes(link, { "aria-current": status === this.#status ? "page" : null });
        const count = found.get(status) ?? 0;
        const isExact = isAll || (status !== null && this.#complete.has(status));
        setText(/** @type {Node} */ (link.lastChild), this.#isKnown ? `${number(count)}${isExact ? "" : "+"}` : "");
      },
    });
  }

  /** What stands there instead of rows. @param {number} count @param {import("/web/shared/status.js").Status} status */
  #showState(count, status) {
    const name = this.#isKnown ? (count ? "" : `none ${this.#status}`) : status.phase;
    if (this.#state.dataset.shown === name) return;
    this.#state.dataset.shown = name;
    const state = count ? null : this.#isKnown ? this.#nothing() : waitingState(status, "the tasks", () => this.resource.retryNow());
    this.#state.replaceChildren(...(state ? [state] : []));
  }

  #nothing() {
    if (this.#status) {
      return emptyState({ title: `No task is ${words(this.#status)}`, sign: "task", text: "This list fills by itself." });
    }
    return emptyState({
      title: "No tasks yet",
      sign: "task",
      text: "A task is made here or by POST /api/v1/tasks, and follows the runs that name it.",
      action: el("button", { type: "button", onclick: () => askForTask() }, icon("plus"), "New task"),
    });
  }
}

/** @param {Task} task */
function makeRow(task) {
  const title = el("a", { class: "over row-title cut", href: `/tasks/${task.id}` });
  const act = el("button", { type: "button", class: "plain act" });
  act.addEventListener("click", () => (act.dataset.act === "cancel" ? cancelTask : deleteTask)(task.id, title.title));
  return el(
    "li",
    { class: "row task-row" },
    badge(task.status),
    el(
      "div",
      { class: "task-main" },
      el("div", { class: "task-line" }, title, el("span", { class: "pill cut" })),
      el("p", { class: "dim small cut" }),
    ),
    el("div", { class: "task-progress" }, progressBar("Progress"), el("p", { class: "dim small nums" }, el("span", { class: "cut" }), el("span", {}))),
    ago(task.updated_at, "ago dim small nums"),
    act,
  );
}

/** @param {HTMLElement} row @param {Task} task @param {State} state */
function updateRow(row, task, state) {
  const [status, main, progress, time, act] = /** @type {any} */ (row.children);
  const [line, message] = main.children;
  const [title, kind] = line.children;
  const [bar, size] = progress.children;
  const isOver = OVER.has(task.status);
  row.dataset.status = task.status;
  setBadge(status, task.status);
  setText(title, task.title);
  setAttributes(title, { title: task.title });
  setText(kind, task.kind);
  setShown(kind, task.kind !== "task");
  setText(message, messageOf(task));
  const { done, total, unit } = task.progress;
  setShown(progress, !(isOver && total === null && done === 0));
  setShown(bar, total !== null || task.status === "running" || task.status === "waiting_input");
  setProgress(bar, { done, total, unit, tone: task.status === "queued" ? "idle" : toneOf(task.status) });
  const left = isOver || task.status === "queued" ? "" : inWords(state.paces.get(task.id)?.remaining(total, Date.now()) ?? null);
  setText(size.children[0], sizeOf(task));
  setText(size.children[1], left);
  setAgo(time, task.updated_at);
  const verb = isOver ? "delete" : "cancel";
  if (act.dataset.act !== verb) {
    act.dataset.act = verb;
    act.replaceChildren(icon(isOver ? "bin" : "stop"));
  }
  setAttributes(act, { "aria-label": `${isOver ? "Delete" : "Cancel"} ${task.title}`, title: isOver ? "Delete" : "Cancel" });
}

/** What is to be known of it beside its name, most urgent first. @param {Task} task */
function messageOf(task) {
  if (task.status === "failed" && task.error) return task.error;
  const doing = task.progress.message ?? task.steps.find((one) => one.status === "running")?.name;
  const runs = task.run_ids.length ? plural(task.run_ids.length, "run") : "";
  const preview = task.preview_status ? `preview ${words(task.preview_status)}` : "";
  return [doing, runs, preview].filter(Boolean).join(" · ");
}
