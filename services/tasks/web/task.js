// One task: how far it is, what it consists of, what has become of it.

import { announce, toast } from "/web/shared/announce.js";
import { badge, setBadge, toneOf } from "/web/shared/badge.js";
import { copyButton } from "/web/shared/copy.js";
import { el, onChange, setAttributes, setShown, setText } from "/web/shared/dom.js";
import { duration, number, shortId, words } from "/web/shared/format.js";
import { icon } from "/web/shared/icons.js";
import { progressBar, setProgress, share } from "/web/shared/progress.js";
import { goTo } from "/web/shared/router.js";
import { emptyState, loadingState, waitingState } from "/web/shared/states.js";
import { LiveResource, request } from "/web/shared/stream.js";
import { ago, everySecond, setAgo } from "/web/shared/time.js";

import { cancelTask, deleteTask } from "/web/tasks/actions.js";
import { inWords, Pace } from "/web/tasks/eta.js";
import { LinkedPreview, LinkedRuns } from "/web/tasks/linked.js";
import { StepList } from "/web/tasks/steps.js";
import { OVER, sizeOf, taskOf } from "/web/tasks/tasks.js";

/** @typedef {import("/web/tasks/tasks.js").Task} Task */
/** @typedef {import("/web/shared/chip.js").ConnectionChip} ConnectionChip */

const HISTORY = 5_000; // places of the log to look back in, for how fast it has been

export class TaskView {
  #pace = new Pace();
  #isGone = false;
  #paint = onChange(() => this.#show());
  #parts = makeParts(() => this.#json());
  #steps = new StepList();

  /** @param {HTMLElement} element @param {string} id @param {ConnectionChip} connection */
  constructor(element, id, connection) {
    this.element = element;
    this.id = id;
    this.url = `/api/v1/tasks/${encodeURIComponent(id)}`;
    this.runs = new LinkedRuns(id, connection);
    this.preview = new LinkedPreview(connection);
    this.#parts.left.append(this.#steps.element, this.runs.element);
    this.#parts.right.append(this.preview.element);
    this.#parts.cancel.addEventListener("click", () => cancelTask(id, this.#task?.title ?? id));
    this.#parts.remove.addEventListener("click", () => this.#remove());
    this.#parts.raw.addEventListener("toggle", () => this.#showRaw());
    element.replaceChildren(loadingState("Loading the task"));
    this.resource = new LiveResource({
      url: this.url,
      streamUrl: `${this.url}/stream`,
      readState: (body) => this.#read(body),
      applyEvent: (_, event, frame) => this.#apply(event, frame),
      onChange: () => this.#paint(),
      onStatus: (status) => {
        this.#line.set(status);
        this.#paint();
      },
    });
    this.#line = connection.track("This task", this.resource);
    this.#stopTicking = everySecond(() => this.#paint());
    this.resource.start();
  }

  /** @type {import("/web/shared/chip.js").Line} */
  #line;
  /** @type {() => void} */
  #stopTicking;

  close() {
    this.#stopTicking();
    this.resource.stop();
    this.#line.remove();
    this.runs.close();
    this.preview.close();
    this.element.replaceChildren();
    this.#isGone = true;
  }

  /** @returns {Task | null} */
  get #task() {
    return this.resource.state ?? null;
  }

  /** @param {Task} body */
  #read(body) {
    if (!OVER.has(body.status) && this.#task === null) this.#lookBack(body);
    this.#pace.add(Date.parse(body.updated_at), body.progress.done);
    return body;
  }

  /** @param {any} event @param {any} frame */
  #apply(event, frame) {
    if (event.type !== "snapshot") return undefined;
    const task = taskOf(event, frame.id);
    this.#pace.add(Date.parse(task.updated_at), task.progress.done);
    if (frame.live && task.status !== this.#task?.status) announce(`This task is ${words(task.status)}.`);
    return task;
  }

  /** How fast it has been so far, out of the newest of its history. Without it the pace shows in a while. @param {Task} task */
  async #lookBack(task) {
    const [epoch, seq] = task.last_position.split("-");
    const after = `${epoch}-${Math.max(0, Number(seq) - HISTORY)}`;
    const page = await request(`${this.url}/events?limit=500&after=${after}`).catch(() => null);
    const pace = new Pace();
    for (const { event } of page?.data ?? []) {
      if (event.type === "snapshot") pace.add(Date.parse(event.updated_at), event.progress.done);
    }
    pace.join(this.#pace);
    this.#pace = pace;
    this.#paint();
  }

  async #remove() {
    if (this.#task && (await deleteTask(this.id, this.#task.title))) {
      toast(`“${this.#task.title}” is deleted.`);
      goTo("/tasks", { replace: true });
    }
  }

  // ── painting ─────────────────────────────────────────────────────────────────────────────────────────────────

  #show() {
    if (this.#isGone) return;
    const task = this.#task;
    const { status } = this.resource;
    const isDeleted = status.reason === "access_revoked";
    if (task === null || isDeleted) {
      this.#showNothing(task === null ? status : { ...status, phase: "deleted" });
      return;
    }
    const parts = this.#parts;
    if (parts.page.parentNode !== this.element) this.element.replaceChildren(parts.page);
    document.title = `${task.title} · Tailrace`;
    showHead(parts, task);
    showProgress(parts, task, this.#pace.remaining(task.progress.total, Date.now()));
    showOutcome(parts, task);
    showFacts(parts, task);
    this.#steps.show(task.steps, OVER.has(task.status));
    this.runs.show(task.run_ids, OVER.has(task.status));
    this.preview.show(task.generation_id, task.preview_status, OVER.has(task.status));
    this.#showRaw();
  }

  /** @param {any} status */
  #showNothing(status) {
    const name = `${status.phase} ${status.problem?.status ?? ""}`;
    if (this.element.dataset.nothing === name && this.element.firstElementChild?.classList.contains("state")) return;
    this.element.dataset.nothing = name;
    this.element.replaceChildren(backLink(), nothing(status, () => this.resource.retryNow()));
  }

  #json() {
    return JSON.stringify(this.#task, null, 2);
  }

  #showRaw() {
    if (this.#parts.raw.open) setText(this.#parts.code, this.#json());
  }
}

/** @param {any} status @param {() => void} again */
function nothing(status, again) {
  const { phase, problem } = status;
  const all = el("a", { class: "button quiet", href: "/tasks" }, "All tasks");
  if (phase === "deleted") return emptyState({ title: "This task has been deleted", sign: "bin", action: all, isPage: true });
  if (phase === "refused" && problem?.status === 404) {
    const text = "It may have been deleted, or it never was. Its address is all this page knows of it.";
    return emptyState({ title: "There is no such task", text, sign: "task", action: all, isPage: true });
  }
  return waitingState(status, "the task", again, true);
}

// ── the parts of the page ──────────────────────────────────────────────────────────────────────────────────────────

const backLink = () => el("a", { class: "back", href: "/tasks" }, icon("back"), "All tasks");

/** @param {() => string} json */
function makeParts(json) {
  const title = el("h1", { id: "task-name" });
  const status = badge("queued");
  const kind = el("span", { class: "pill" });
  const attempt = el("span", { class: "pill" });
  const cancel = el("button", { type: "button", class: "quiet" }, icon("stop"), "Cancel");
  const remove = el("button", { type: "button", class: "quiet", "data-tone": "bad" }, icon("bin"), "Delete");
  const bar = progressBar("Progress");
  bar.classList.add("large");
  const percent = el("b", { class: "percent nums" });
  const size = el("span", { class: "nums" });
  const left = el("span", { class: "dim", id: "left" });
  const message = el("p", { class: "dim" });
  const outcome = el("section", { class: "panel", id: "outcome", hidden: true });
  const facts = el("dl", { class: "facts panel-body" });
  const code = el("pre", { class: "code", tabindex: 0, "aria-label": "The task as JSON" });
  const raw = el("details", { class: "more panel" }, el("summary", {}, "Raw JSON"), el("div", { class: "raw" }, copyButton(json, "Copy the JSON", "Copy"), code));
  const leftSide = el("div", { class: "stack" }, outcome);
  const rightSide = el("div", { class: "stack" }, el("section", { class: "panel", "aria-label": "Facts" }, facts));
  const page = el(
    "div",
    { class: "stack" },
    el(
      "div",
      {},
      backLink(),
      el(
        "div",
        { class: "head task-head" },
        el("div", {}, el("div", { class: "signs" }, status, kind, attempt), title),
        el("div", { class: "actions" }, cancel, remove),
      ),
    ),
    el(
      "section",
      { class: "panel panel-body far", "aria-label": "How far it is" },
      el("div", { class: "far-line" }, percent, size, left),
      bar,
      message,
    ),
    el("div", { class: "split" }, leftSide, rightSide),
    raw,
  );
  return { page, title, status, kind, attempt, cancel, remove, bar, percent, size, left: leftSide, eta: left, message, outcome, facts, code, raw, right: rightSide };
}

/** @typedef {ReturnType<typeof makeParts>} Parts */

/** @param {Parts} parts @param {Task} task */
function showHead(parts, task) {
  setText(parts.title, task.title);
  setBadge(parts.status, task.status);
  setText(parts.kind, task.kind);
  setShown(parts.kind, task.kind !== "task");
  setText(parts.attempt, `attempt ${number(task.attempt)}`);
  setShown(parts.attempt, task.attempt > 1);
  setShown(parts.cancel, !OVER.has(task.status));
}

/** @param {Parts} parts @param {Task} task @param {number | null} remaining */
function showProgress(parts, task, remaining) {
  const { done, total, unit, message } = task.progress;
  const part = share(done, total);
  const isOver = OVER.has(task.status);
  setText(parts.percent, part === null ? "" : `${Math.floor(part * 100)} %`);
  setShown(parts.percent, part !== null);
  setText(parts.size, sizeOf(task) || (isOver ? "" : task.status === "queued" ? "Not begun" : "Nobody knows how much there is"));
  setText(parts.eta, isOver || task.status === "queued" ? "" : inWords(remaining));
  setShown(parts.bar, total !== null || !(isOver || task.status === "queued"));
  setProgress(parts.bar, { done, total, unit, tone: task.status === "queued" ? "idle" : toneOf(task.status) });
  setText(parts.message, message);
  setShown(parts.message, Boolean(message));
}

/** What it has come to: its error or its result. @param {Parts} parts @param {Task} task */
function showOutcome({ outcome }, task) {
  const hasResult = task.result !== null && task.result !== undefined;
  setShown(outcome, Boolean(task.error) || hasResult);
  const text = typeof task.result === "string" ? task.result : JSON.stringify(task.result, null, 2);
  const key = `${task.error ?? ""}\n${hasResult ? text : ""}`;
  if (outcome.dataset.of === key) return;
  outcome.dataset.of = key;
  const isText = typeof task.result === "string";
  outcome.replaceChildren(
    ...(task.error ? [part("Error", el("p", { class: "notice wrap", "data-tone": "bad" }, task.error))] : []),
    ...(hasResult ? [part("Result", el("pre", { class: isText ? "code prose" : "code", tabindex: 0 }, text))] : []),
  );
}

/** @param {string} title @param {Node} body */
const part = (title, body) => el("div", {}, el("div", { class: "panel-head" }, el("h2", {}, title)), el("div", { class: "panel-body" }, body));

/** @param {Parts} parts @param {Task} task */
function showFacts({ facts }, task) {
  if (!facts.children.length) facts.append(...makeFacts());
  const [id, made, changed, took, changes] = [...facts.querySelectorAll("dd")];
  setText(id.children[0], shortId(task.id));
  setAttributes(id.children[0], { title: task.id });
  setAgo(/** @type {any} */ (made.firstChild), task.created_at);
  setAgo(/** @type {any} */ (changed.firstChild), task.updated_at);
  setText(facts.querySelectorAll("dt")[3], OVER.has(task.status) ? "Took" : "Age");
  const end = OVER.has(task.status) ? Date.parse(task.updated_at) : Date.now();
  setText(took, duration(end - Date.parse(task.created_at)));
  setText(changes, number(task.rev));
}

function makeFacts() {
  const id = el("code", {});
  /** @type {[string, Node[]][]} */
  const facts = [
    ["Id", [id, copyButton(() => id.title, "Copy the id")]],
    ["Made", [ago()]],
    ["Changed", [ago()]],
    ["Age", []],
    ["Changes", []],
  ];
  return facts.map(([name, children]) => [el("dt", {}, name), el("dd", {}, children)]).flat();
}
