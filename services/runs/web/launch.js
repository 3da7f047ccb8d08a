// What the launch form asks for, as a request. Pure.

export const MOST_RUNS = 18;
const OWN = "other"; // the choice of a runner of somebody's own workers

/**
 * @typedef {object} Wish what the form says
 * @property {string} task
 * @property {string} runner `sample`, `openai`, or `other` for the one in `ownRunner`
 * @property {string} [ownRunner]
 * @property {number} count
 * @property {number} staggerMs
 * @property {number} workers
 * @property {string} [sessionId]
 * @property {string} [taskId]
 * @property {string} [params] a JSON object for the runner
 */

/** What is wrong with it, by field; empty when it can be sent. @param {Wish} wish @returns {Record<string, string>} */
export function faults(wish) {
  /** @type {Record<string, string>} */
  const found = {};
  if (!wish.task.trim()) found.task = "Say what is to be done.";
  if (wish.runner === OWN && !wish.ownRunner?.trim()) found.ownRunner = "Name the runner that your workers lease.";
  if (!isWhole(wish.count, 1, MOST_RUNS)) found.count = `1 to ${MOST_RUNS} runs at once.`;
  if (!isWhole(wish.staggerMs, 0, 60_000)) found.staggerMs = "0 to 60,000 milliseconds.";
  if (!isWhole(wish.workers, 1, 100)) found.workers = "1 to 100 workers.";
  if (paramsOf(wish) === null) found.params = 'A JSON object, such as {"words": 20}.';
  return found;
}

/** The request that launches it. One run of the service's own starts at once; all others wait in the queue.
 * @param {Wish} wish @returns {{url: string, json: Record<string, unknown>}} */
export function launchOf(wish) {
  const isOwn = wish.runner === OWN;
  const run = {
    task: wish.task.trim(),
    runner: isOwn ? String(wish.ownRunner).trim() : wish.runner,
    workers: wish.workers,
    session_id: wish.sessionId?.trim() || null,
    task_id: wish.taskId?.trim() || null,
    params: paramsOf(wish) ?? {},
  };
  // inline, a batch is checked for the service's own runners: a misspelt one would wait for ever
  const mode = isOwn ? "queued" : "inline";
  if (wish.count === 1) return { url: "/api/v1/runs", json: { ...run, mode } };
  return { url: "/api/v1/runs/batch", json: { ...run, mode, count: wish.count, stagger_ms: wish.staggerMs } };
}

/** Null for what is no object. @param {Wish} wish @returns {Record<string, unknown> | null} */
function paramsOf(wish) {
  try {
    const params = JSON.parse(wish.params?.trim() || "{}");
    return typeof params === "object" && params !== null && !Array.isArray(params) ? params : null;
  } catch {
    return null;
  }
}

/** @param {number} value @param {number} least @param {number} most */
function isWhole(value, least, most) {
  return Number.isInteger(value) && value >= least && value <= most;
}
