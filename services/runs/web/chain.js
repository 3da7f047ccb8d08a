// The event chain of one run, as EXPAND shows it: grouped by worker, pieces folded into one growing row. Pure.

import { words } from "/web/shared/format.js";
import { isAfter } from "/web/shared/position.js";
import { Counters } from "./counters.js";
import { phrase } from "./phrases.js";

const PIECES = new Set(["llm_text_delta", "client_output_delta", "node_internal_output"]);

/** @typedef {import("./card.js").RunEvent} RunEvent */
/** @typedef {{id: string, event: RunEvent}} Frame `id` is its position */

/** One line of the chain: an event, or several that are pieces of one thing. */
export class Row {
  /** @type {Frame[]} */
  frames = [];
  text = "";
  changes = 0;
  isOpen = false;
  /** which of its frames is shown when it is open, counted from the end, so that the newest stays in sight */
  back = 0;

  /** @param {string} kind `event`, `pieces`, `node` or `gap` @param {string} title @param {string} type */
  constructor(kind, title, type) {
    this.kind = kind;
    this.title = title;
    this.type = type;
  }

  get first() {
    return this.frames[0];
  }

  get last() {
    return this.frames[this.frames.length - 1];
  }

  /** The frame that is shown of an open row. */
  get shown() {
    return this.frames[Math.max(0, this.frames.length - 1 - this.back)];
  }

  /** @param {Frame} frame */
  add(frame) {
    this.frames.push(frame);
    this.changes += 1;
    if (this.kind === "pieces") this.text += frame.event.text ?? "";
    else this.text = phrase(frame.event) || this.text;
  }

  /** Where a node stands: `iteration 3 · write · 120 tokens`. */
  get facts() {
    if (this.kind !== "node") return "";
    const { iteration, phase, tokens_out: tokens, model, agent } = this.last.event;
    const facts = [agent, iteration !== undefined && `iteration ${iteration}`, phase, model];
    if (tokens !== undefined) facts.push(`${tokens.toLocaleString("en")} tokens`);
    return facts.filter(Boolean).join(" · ");
  }
}

/** What one worker did, or the run itself (`name` is empty). */
export class Group {
  /** @type {Row[]} */
  rows = [];
  counters = new Counters();
  events = 0;
  isOpen = true;
  /** @type {Map<string, Row>} rows that still grow, by what they are pieces of */
  #growing = new Map();

  /** @param {string} name */
  constructor(name) {
    this.name = name;
  }

  /** @param {Frame} frame @returns {Row} the row that is new or has grown */
  add(frame) {
    const { event } = frame;
    this.events += 1;
    if (event.type === "node_update") {
      this.counters.count(event, 1);
      const known = this.#growing.get("node");
      const isSame = known && known.title === event.node && known.last.event.attempt === event.attempt;
      return this.#grow("node", isSame ? known : new Row("node", event.node, event.type), frame);
    }
    if (PIECES.has(event.type)) {
      const key = [event.type, event.stream_id, event.node_id, event.execution_id].join("\n");
      return this.#grow(key, this.#growing.get(key) ?? new Row("pieces", titleOf(event), event.type), frame);
    }
    this.cut(); // what comes after it must not grow above it
    return this.put(new Row("event", titleOf(event), event.type), frame);
  }

  /** No row grows any more. */
  cut() {
    this.#growing.clear();
  }

  /** @param {Row} row @param {Frame} frame */
  put(row, frame) {
    if (row.frames.length === 0) this.rows.push(row);
    row.add(frame);
    return row;
  }

  /** @param {string} key @param {Row} row @param {Frame} frame */
  #grow(key, row, frame) {
    this.#growing.set(key, row);
    return this.put(row, frame);
  }
}

export class Chain {
  /** @type {Frame[]} all there is, in order, gaps included */
  frames = [];
  /** @type {Map<string, Group>} */
  groups = new Map();
  /** @type {string | null} */
  position = null;

  /** @param {boolean} isGrouped by worker; otherwise in the order of the log */
  constructor(isGrouped = true) {
    this.isGrouped = isGrouped;
  }

  /** Take in a frame; the group that it changed, or null for one that was there already. @param {Frame} frame */
  take(frame) {
    if (!isAfter(frame.id, this.position)) return null;
    this.position = frame.id;
    return this.#add(frame);
  }

  /** The same frames, folded in the other way. @param {boolean} isGrouped */
  regroup(isGrouped) {
    const { frames } = this;
    this.isGrouped = isGrouped;
    this.#fold(frames);
  }

  /** Put what gaps have left out in their places. @param {Frame[]} gaps @param {Frame[]} found */
  fill(gaps, found) {
    const kept = this.frames.filter((frame) => !gaps.includes(frame));
    const known = new Set(kept.filter((frame) => frame.event.type !== "gap").map((frame) => frame.id));
    const missed = found.filter((frame) => !known.has(frame.id));
    this.#fold([...kept, ...missed].sort((one, other) => Number(isAfter(one.id, other.id)) - Number(isAfter(other.id, one.id))));
  }

  clear() {
    this.frames = [];
    this.groups.clear();
    this.position = null;
  }

  /** @param {Frame[]} frames */
  #fold(frames) {
    this.frames = [];
    this.groups.clear();
    for (const frame of frames) this.#add(frame);
  }

  /** @param {Frame} frame */
  #add(frame) {
    this.frames.push(frame);
    const { event } = frame;
    const group = this.#group(this.isGrouped ? workerOf(event) : "");
    if (event.type === "gap") this.#gap(group, frame);
    else group.add(frame);
    return group;
  }

  /** Whose events it left out is not known: what grew in any group goes on below it. @param {Group} group @param {Frame} frame */
  #gap(group, frame) {
    for (const one of this.groups.values()) one.cut();
    const last = group.rows[group.rows.length - 1]; // a page that is far behind gets one after the other
    group.put(last?.kind === "gap" ? last : new Row("gap", "skipped", "gap"), frame);
  }

  /** @param {string} name */
  #group(name) {
    let group = this.groups.get(name);
    if (!group) this.groups.set(name, (group = new Group(name)));
    return group;
  }
}

/** Whose event it is: a worker's, another speaker's, or the run's own (empty). @param {RunEvent} event */
export function workerOf(event) {
  if (event.type === "node_update") return event.worker_id ?? "";
  return (event.stream_id ?? "").replace(/^worker:/, "");
}

/** @param {RunEvent} event */
function titleOf(event) {
  return event.type === "status" ? words(event.status) : words(event.type);
}
