// The statuses of a run.

export const LIVE = Object.freeze(["queued", "running", "waiting_input", "cancelling"]);
export const OVER = Object.freeze(["completed", "failed", "cancelled", "timed_out"]);

const over = new Set(OVER);

/** @param {string} status */
export function isOver(status) {
  return over.has(status);
}
