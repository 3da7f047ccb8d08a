// The tasks as the page knows them: out of the list and the board's stream. No DOM here.
//
//   readPage(body)              a list's answer as a state
//   apply(state, event, frame)  the state after a snapshot or a deletion; false if it was known already
//   addPage(state, body)        older ones
//   shown(state, status)        those of a filter, newest first
//   counts(state)               how many there are of each status, and in all
//   sizeOf(task)                how far it is, in words: "40 of 100 files"

import { number, plural } from "/web/shared/format.js";
import { isAfter } from "/web/shared/stream.js";

import { Pace } from "/web/tasks/eta.js";

/**
 * @typedef {{done: number, total: number | null, unit: string | null, message: string | null}} Progress
 * @typedef {{name: string, status: string, message: string | null, started_at: string | null,
 *   finished_at: string | null}} Step
 * @typedef {{id: string, kind: string, title: string, status: string, progress: Progress, steps: Step[],
 *   result: unknown, error: string | null, attempt: number, rev: number, created_at: string, updated_at: string,
 *   run_ids: string[], generation_id: string | null, preview_status: string | null, last_position: string}} Task
 * @typedef {{tasks: Map<string, Task>, paces: Map<string, Pace>, cursor: string | null}} State
 */

export const STATUSES = Object.freeze(["queued", "running", "waiting_input", "succeeded", "failed", "cancelled"]);
export const OVER = new Set(["succeeded", "failed", "cancelled"]);

/** @returns {State} */
export const noTasks = () => ({ tasks: new Map(), paces: new Map(), cursor: null });

/** @param {any} body @returns {State} */
export function readPage(body) {
  const state = noTasks();
  addPage(state, body);
  return state;
}

/** @param {State} state @param {any} body @param {boolean} [isFiltered] then it says nothing of where the list goes on */
export function addPage(state, body, isFiltered = false) {
  for (const task of body.data) put(state, task);
  if (!isFiltered) state.cursor = body.next_cursor;
}

/** @param {State} state @param {Task} task */
function put(state, task) {
  const known = state.tasks.get(task.id);
  if (known && !isAfter(task.last_position, known.last_position)) return false;
  state.tasks.set(task.id, task);
  if (!state.paces.has(task.id)) state.paces.set(task.id, new Pace());
  state.paces.get(task.id)?.add(Date.parse(task.updated_at), task.progress.done);
  return true;
}

/** @param {State} state @param {any} event @param {{id: string}} frame */
export function apply(state, event, frame) {
  if (event.type === "deleted") {
    state.paces.delete(event.task_id);
    return state.tasks.delete(event.task_id);
  }
  return event.type === "snapshot" && put(state, taskOf(event, frame.id));
}

/** A snapshot is a task under other names. @param {any} event @param {string} position @returns {Task} */
export function taskOf({ type, ts, task_id, ...fields }, position) {
  return { id: task_id, ...fields, last_position: position };
}

/** @param {State} state @param {string | null} status @returns {Task[]} */
export function shown(state, status) {
  const all = [...state.tasks.values()].filter((task) => status === null || task.status === status);
  return all.sort((one, other) => (one.id < other.id ? 1 : -1)); // ids grow with time
}

/** @param {State} state @returns {Map<string | null, number>} */
export function counts(state) {
  /** @type {Map<string | null, number>} */
  const found = new Map([[null, state.tasks.size]]);
  for (const { status } of state.tasks.values()) found.set(status, (found.get(status) ?? 0) + 1);
  return found;
}

/** @param {Task} task */
export function sizeOf({ progress: { done, total, unit } }) {
  if (total !== null) return `${number(done)} of ${number(total)}${unit ? ` ${unit}` : ""}`;
  return done === 0 ? "" : unit ? `${number(done)} ${unit}` : plural(done, "step");
}
