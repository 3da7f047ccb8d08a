// One run as a card or a row shows it: what the API said of it, and the events since. Pure.

import { words } from "/web/shared/format.js";
import { isAfter } from "/web/shared/position.js";
import { Counters } from "./counters.js";
import { Rates } from "./rates.js";
import { isOver } from "./statuses.js";

const STALLED_MILLISECONDS = 15_000;
const SPEECH_CHARACTERS = 400;
const QUIET_NODES = new Set(["supervisor", "system", "finish"]); // they speak of the work, not of its result
const SPEECH = new Set(["llm_text_delta", "client_output_delta"]);

/** @typedef {Record<string, any>} Run as the API shows it */
/** @typedef {Record<string, any>} RunEvent */
/** @typedef {{node: string, agent: string, worker: string, iteration: number | null, phase: string}} Place */

const NOWHERE = Object.freeze({ node: "", agent: "", worker: "", iteration: null, phase: "" });

export class Card {
  /** @type {Run} what the API last said of it, or nothing but its id */
  run;
  /** whether `run` is what the API said: its prompt is known */
  isKnown = false;
  /** @type {string | null} what has been applied */
  position = null;
  status = "queued";
  attempt = 1;
  /** @type {Place} where its work stands */
  place = NOWHERE;
  snippet = "";
  /** @type {string | null} */
  error = null;
  /** @type {string | null} */
  output = null;
  /** @type {{code: string, message: string} | null} the newest that was not fatal, until something goes well again */
  trouble = null;
  /** @type {{prompt: string, options: unknown[]} | null} what it waits for */
  question = null;
  /** @type {number | null} */
  startedAt = null;
  /** @type {number | null} */
  finishedAt = null;
  lastActivityAt = 0;
  rates = new Rates();
  /** whether its events have been applied from the first on: then its counters are its workers' own */
  isComplete = true;
  changes = 0;

  #counters = new Counters();
  #tokensIn = 0; // of the status events and the list, which count as the service does
  #tokensOut = 0;
  #rank = 0;
  #speech = "";

  /** @param {string} id */
  constructor(id) {
    this.run = { id };
  }

  get id() {
    return this.run.id;
  }

  get isOver() {
    return isOver(this.status);
  }

  get tokensIn() {
    return this.isComplete && !this.isOver ? this.#counters.tokensIn : this.#tokensIn;
  }

  get tokensOut() {
    return this.isComplete && !this.isOver ? this.#counters.tokensOut : this.#tokensOut;
  }

  get isEstimated() {
    return !this.isOver && this.#counters.estimated;
  }

  /**
   * What the API says of the run. How it stands is not taken from there once its events have told, from the first on:
   * the feed brings the rest, in order, whatever the API knows already.
   *
   * @param {Run} run
   * @param {boolean} [isNew] it has just been made: nothing of it has been missed
   */
  learn(run, isNew = false) {
    this.know(run);
    if (this.position !== null && (this.isComplete || !isAfter(run.last_position, this.position))) return;
    this.isComplete = isNew || (run.status === "queued" && run.attempt === 1);
    this.position = run.last_position;
    this.status = run.status;
    this.attempt = run.attempt;
    this.error = run.error;
    this.output = run.output;
    this.snippet = run.snippet ?? "";
    this.#tokensIn = run.tokens_in;
    this.#tokensOut = run.tokens_out;
    this.startedAt = run.started_at && run.status !== "queued" ? Date.parse(run.started_at) : null;
    this.finishedAt = run.finished_at ? Date.parse(run.finished_at) : null;
    this.lastActivityAt = Date.parse(run.last_activity_at);
  }

  /** What of it never changes: its prompt, its runner … @param {Run} run */
  know(run) {
    this.changes += 1;
    this.isKnown = true;
    this.run = run;
  }

  /** Take in one of its events; false when it had been taken in already.
   * @param {RunEvent} event @param {string} position */
  apply(event, position) {
    if (!isAfter(position, this.position)) return false;
    this.position = position;
    this.changes += 1;
    this.lastActivityAt = Math.max(this.lastActivityAt, Date.parse(event.ts) || 0);
    if (event.type === "status") this.#status(event);
    else if (event.type === "node_update") this.#nodeUpdate(event);
    else if (event.type === "error") this.#error(event);
    else if (event.type === "client_input_requested") this.#question(event);
    else if (event.type === "client_input_received") this.question = null;
    else this.#agentEvent(event);
    return true;
  }

  /** A run that runs and says nothing. @param {number} now by the server's clock */
  isStalled(now) {
    const works = this.status === "running" || this.status === "cancelling";
    return works && now - this.lastActivityAt > STALLED_MILLISECONDS;
  }

  /** How long it has taken so far, or took; null before its start. @param {number} now by the server's clock */
  duration(now) {
    if (this.startedAt === null) return null;
    return Math.max(0, (this.finishedAt ?? now) - this.startedAt);
  }

  #status(/** @type {RunEvent} */ event) {
    const { status } = event;
    Object.assign(this, { status, attempt: event.attempt, error: event.error ?? null, output: event.output ?? null });
    this.#tokensIn = event.tokens_in;
    this.#tokensOut = event.tokens_out;
    if (event.message) this.#say(event.message, 1);
    if (event.snippet) this.snippet = event.snippet;
    if (status === "queued") this.startedAt = null; // it may have been started before
    if (status === "running") this.startedAt ??= Date.parse(event.ts);
    if (status !== "waiting_input") this.question = null;
    if (isOver(status)) {
      this.finishedAt = Date.parse(event.ts);
      this.trouble = null;
    }
  }

  #nodeUpdate(/** @type {RunEvent} */ event) {
    const before = this.#counters.tokensOut;
    this.#counters.count(event, this.attempt);
    this.rates.add(Date.parse(event.ts), this.#counters.tokensOut - before);
    this.trouble = null;
    this.place = {
      node: event.node,
      agent: event.agent ?? "",
      worker: event.worker_id ?? "",
      iteration: event.iteration ?? null,
      phase: event.phase ?? "",
    };
    if (event.snippet) this.#say(event.snippet, QUIET_NODES.has(event.node) ? 2 : 3);
  }

  #error(/** @type {RunEvent} */ event) {
    if (!event.fatal) this.trouble = { code: event.code, message: event.message };
    if (event.message) this.#say(event.message, 1);
  }

  #question(/** @type {RunEvent} */ event) {
    this.question = { prompt: event.prompt ?? "", options: event.options ?? [] };
  }

  #agentEvent(/** @type {RunEvent} */ event) {
    const { stream_id: stream = "", node_id: node, iteration = null } = event;
    if (SPEECH.has(event.type)) {
      this.#speech = (this.#speech + (event.text ?? "")).slice(-SPEECH_CHARACTERS);
      this.snippet = this.#speech;
    }
    const worker = stream.startsWith("worker:") ? stream.slice("worker:".length) : "";
    const phase = event.tool ? `${words(event.type)}: ${event.tool}` : words(event.type);
    this.place = { node: node ?? stream, agent: node ? stream : "", worker, iteration, phase };
  }

  /** The words that matter most: of a node that works on the result, of another, of the service (3, 2, 1).
   * @param {string} text @param {number} rank */
  #say(text, rank) {
    if (rank < this.#rank) return;
    this.#rank = rank;
    this.#speech = "";
    this.snippet = text;
  }
}
