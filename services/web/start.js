// The start page: the newest runs as they happen, and one of them in full.

import { follow } from "/follow.js";

const RUNS = "/api/v1/runs";
const ROWS = 50;
const EVENTS = 1000;
const STORED = new Set(["status", "node_update", "error"]);
const OVER = new Set(["completed", "failed", "cancelled", "timed_out"]);
const QUIET_NODES = new Set(["supervisor", "system", "finish"]); // they speak of the work, not of its result
const STATES = {
  connecting: "Connecting",
  history: "Catching up",
  live: "Live",
  cut: "Reconnecting",
  ended: "Ended",
  refused: "Refused",
};

const at = (id) => document.getElementById(id);

// ── small things ───────────────────────────────────────────────────────────────────────────────────────────────

function make(tag, className, text = "", children = []) {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  element.append(...children);
  return element;
}

/** Only what has changed is touched: a selection survives, and nothing flickers. */
function show(element, text, data = {}) {
  if (element.textContent !== text) element.textContent = text;
  for (const [name, value] of Object.entries(data)) {
    if (element.dataset[name] !== value) element.dataset[name] = value;
  }
}

function showState(chip, state, why) {
  show(chip, state === "ended" && why ? `Ended: ${why}` : STATES[state], { state });
  chip.title = why;
}

async function ask(url, options) {
  const response = await fetch(url, { ...options, cache: "no-store" });
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.detail ?? `${response.status} ${response.statusText}`);
  return body;
}

const post = (url, body) =>
  ask(url, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

/** Whether the position `one` lies after `other`; of another epoch: it does. */
function isAfter(one, other) {
  const [epoch, seq] = one.split("-");
  const [otherEpoch, otherSeq] = other.split("-");
  return epoch !== otherEpoch || Number(seq) > Number(otherSeq);
}

function duration(run) {
  if (!run.started_at || run.status === "queued") return ""; // a queued one may have been started before
  const seconds = (Date.parse(run.finished_at ?? new Date().toISOString()) - Date.parse(run.started_at)) / 1000;
  if (seconds < 60) return `${Math.max(0, seconds).toFixed(1)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
}

const clock = (time) => new Date(time).toLocaleTimeString();

// ── the list ───────────────────────────────────────────────────────────────────────────────────────────────────

/** One run: its row as the API last showed it, with the events since then. */
class Row {
  constructor(run) {
    this.status = make("span", "badge");
    this.task = make("span", "task");
    this.snippet = make("span", "snippet");
    this.facts = make("span", "facts");
    const link = make("a", "row", "", [this.status, this.task, this.snippet, this.facts]);
    link.href = `#${run.id}`;
    this.element = make("li", "", "", [link]);
    this.set(run);
  }

  set(run) {
    this.run = { ...run };
    this.paint();
  }

  apply(event, id) {
    const run = this.run;
    if (!isAfter(id, run.last_position)) return;
    run.last_position = id;
    if (event.type === "status") {
      const { status, error = null, output = null, attempt, tokens_out } = event;
      Object.assign(run, { status, error, output, attempt, tokens_out });
      run.snippet = event.snippet ?? run.snippet;
      if (status === "running") run.started_at ??= event.ts;
      if (OVER.has(status)) run.finished_at = event.ts;
    } else if (event.type === "node_update" && event.snippet && !QUIET_NODES.has(event.node)) {
      run.snippet = event.snippet;
    }
    this.paint();
  }

  paint() {
    const run = this.run;
    show(this.status, run.status.replace("_", " "), { status: run.status });
    show(this.task, run.task);
    show(this.snippet, run.error ?? run.snippet ?? "");
    const attempt = run.attempt > 1 ? `attempt ${run.attempt}` : "";
    show(this.facts, [run.runner, attempt, duration(run), clock(run.created_at)].filter(Boolean).join(" · "));
  }
}

class List {
  rows = new Map();
  waiting = new Map(); // events of runs that the list has not shown us yet
  loading = false;
  stale = false;

  /** Read the list anew; return its position. What came meanwhile is applied on top. */
  async load() {
    const page = await ask(`${RUNS}?limit=${ROWS}`);
    const listed = new Set(page.data.map((run) => run.id));
    for (const [id, row] of this.rows) if (!listed.has(id)) this.drop(id, row);
    let place = null;
    for (const run of [...page.data].reverse()) {
      const row = this.rows.get(run.id);
      if (!row) this.rows.set(run.id, new Row(run));
      else if (isAfter(run.last_position, row.run.last_position)) row.set(run);
      const { element } = this.rows.get(run.id);
      if (element.nextSibling !== place || !element.parentNode) at("list").insertBefore(element, place);
      place = element;
      for (const [event, id] of this.waiting.get(run.id) ?? []) this.rows.get(run.id).apply(event, id);
    }
    this.waiting.clear();
    at("none").hidden = this.rows.size > 0;
    markCurrent();
    return page.as_of;
  }

  drop(id, row) {
    row.element.remove();
    this.rows.delete(id);
  }

  take(event, id) {
    if (event.type === "reset") {
      for (const [id, row] of this.rows) this.drop(id, row);
      this.refresh();
    } else if (event.type === "gap") {
      this.refresh();
    } else if (STORED.has(event.type)) {
      this.apply(event, id);
    }
  }

  apply(event, id) {
    const row = this.rows.get(event.run_id);
    if (row) {
      row.apply(event, id);
      return;
    }
    const oldest = [...this.rows.keys()].sort()[0];
    if (this.rows.size >= ROWS && event.run_id < oldest) return; // ids sort by age: this one is below the list
    if (!this.waiting.has(event.run_id)) this.waiting.set(event.run_id, []);
    this.waiting.get(event.run_id).push([event, id]);
    this.refresh();
  }

  /** Load soon; once more if something came up while loading. */
  async refresh() {
    this.stale = true;
    if (this.loading) return;
    this.loading = true;
    while (this.stale) {
      this.stale = false;
      await this.load().catch(() => (this.stale = true));
      if (this.stale) await new Promise((resolve) => setTimeout(resolve, 500));
    }
    this.loading = false;
  }

  tick() {
    for (const row of this.rows.values()) if (!OVER.has(row.run.status)) row.paint();
  }
}

// ── one run ────────────────────────────────────────────────────────────────────────────────────────────────────

/** The live view of one run: its events from the start, then as they come, until it ends. */
class RunView {
  constructor(id, known) {
    this.id = id;
    this.url = `${RUNS}/${encodeURIComponent(id)}`; // from the address bar: anything
    this.over = false;
    this.pending = [];
    at("run-title").textContent = known?.task ?? "A run";
    at("run-id").textContent = id;
    at("events").replaceChildren();
    at("outcome").hidden = true;
    at("cancel").hidden = true;
    if (!known) this.findTask();
    this.stop = follow(`${this.url}/stream`, {
      onFrame: (event, position) => this.take(event, position),
      onState: (state, why) => this.told(state, why),
    });
  }

  async findTask() {
    const run = await ask(this.url).catch(() => null);
    if (run && view === this) at("run-title").textContent = run.task;
  }

  told(state, why) {
    showState(at("run-state"), state, why.replace("_", " "));
    if (state === "refused") this.outcome(why, "failed");
  }

  take(event, position) {
    if (event.type === "status") this.status(event);
    if (event.type === "reset") {
      at("events").replaceChildren();
      this.pending = [];
    }
    const line = STORED.has(event.type) ? eventLine(event, position) : markLine(event, this.over);
    if (!line) return;
    if (!this.pending.length) requestAnimationFrame(() => this.paint());
    this.pending.push(line);
  }

  status(event) {
    this.over = OVER.has(event.status);
    at("cancel").hidden = this.over || event.status === "cancelling";
    if (event.error) this.outcome(event.error, "failed");
    else if (event.output) this.outcome(event.output, "completed");
  }

  outcome(text, status) {
    at("outcome").hidden = false;
    show(at("outcome"), text, { status });
  }

  /** What came since the last frame goes in at once; the end stays in sight for who is looking at it. */
  paint() {
    if (view !== this) return;
    const list = at("events");
    const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    list.append(...this.pending.splice(0).slice(-EVENTS));
    while (list.children.length > EVENTS) list.firstChild.remove();
    if (isAtEnd) list.scrollTop = list.scrollHeight;
  }
}

function eventLine(event, position) {
  const summary = make("summary", "", "", [
    make("time", "", clock(event.ts)),
    make("span", "type", event.type.replace("_", " ")),
    make("span", "text", describe(event)),
  ]);
  const details = make("details", "", "", [summary]);
  details.addEventListener("toggle", () => {
    if (details.children.length === 1) details.append(make("pre", "mono", JSON.stringify(event, null, 2)));
  });
  const line = make("li", "", "", [details]);
  Object.assign(line.dataset, { type: event.type, position });
  return line;
}

function describe(event) {
  if (event.type === "error") return `${event.fatal ? "" : "goes on: "}${event.message}`;
  if (event.type === "status") {
    const more = [event.attempt > 1 && `attempt ${event.attempt}`, event.worker, event.message].filter(Boolean);
    return [event.status.replace("_", " "), ...more].join(" · ");
  }
  const place = [event.node, event.iteration].filter((part) => part !== undefined).join(" ");
  return event.snippet ? `${place}: ${event.snippet}` : `${place} ${event.phase ?? ""}`;
}

/** What the stream says of itself, where a person would want to know. */
function markLine(event, isOver) {
  if (event.type === "hello" && event.resumed) return make("li", "mark", "Cut off; goes on where it was.");
  if (event.type === "live" && event.replayed && !isOver) return make("li", "mark", "Live from here.");
  if (event.type === "gap") return make("li", "mark", `${event.dropped} events were skipped to keep up.`);
  if (event.type === "reset") return make("li", "mark", `Starting over: ${event.reason.replace("_", " ")}.`);
  return null;
}

// ── together ───────────────────────────────────────────────────────────────────────────────────────────────────

const list = new List();
let view = null;

function route() {
  const id = location.hash.slice(1);
  if (id === (view?.id ?? "")) return;
  view?.stop();
  at("run").hidden = !id;
  document.body.classList.toggle("watching", Boolean(id));
  view = id ? new RunView(id, list.rows.get(id)?.run) : null;
  markCurrent();
}

function markCurrent() {
  for (const link of document.querySelectorAll("[aria-current]")) link.removeAttribute("aria-current");
  list.rows.get(view?.id)?.element.firstChild.setAttribute("aria-current", "true");
}

function complain(text) {
  at("start-problem").hidden = !text;
  at("start-problem").textContent = text;
}

at("start").addEventListener("submit", async (submit) => {
  submit.preventDefault();
  try {
    const run = await post(RUNS, { task: at("task").value });
    complain("");
    location.hash = run.id;
  } catch (error) {
    complain(`The run was not started: ${error.message}`);
  }
});

at("cancel").addEventListener("click", () => {
  ask(`${view.url}/cancel`, { method: "POST" }).catch((error) => view.outcome(error.message, "failed"));
});

async function begin() {
  const chip = at("feed-state");
  const onState = (state, why) => showState(chip, state, why);
  for (;;) {
    try {
      const after = await list.load();
      follow(`${RUNS}/stream`, { after, onFrame: (event, id) => list.take(event, id), onState });
      return;
    } catch (error) {
      onState("cut", error.message);
      await new Promise((resolve) => setTimeout(resolve, 2000));
    }
  }
}

addEventListener("hashchange", route);
setInterval(() => list.tick(), 250);
await begin();
route();
