// What comes over the wire, as types. docs/protocol.md describes it; nothing here runs.

/**
 * An event of a log, or a control frame: the JSON as the server encoded it.
 * @typedef {{type: string, ts?: string, [field: string]: any}} WireEvent
 */

/**
 * What a page is handed: an event of the log, and where it stands.
 * @typedef {object} Frame
 * @property {string} id the position to go on from once this has been dealt with
 * @property {WireEvent} event
 * @property {boolean} live whether it happened now; false: history, to be shown but not acted upon
 */

/**
 * @typedef {{type: "hello", epoch: string, head: number, oldest: number, after: number, resumed: boolean,
 *   heartbeat_seconds: number, filter: object, server: string}} Hello
 */

/**
 * Events were skipped because this reader lagged; `backfill` is a URL that returns them.
 * @typedef {{type: "gap", from_seq: number, to_seq: number, dropped: number, by_type: Record<string, number>,
 *   reason: string, backfill: string}} Gap
 */

/**
 * Continuity cannot be proved: forget what was built from earlier events.
 * @typedef {{type: "reset", reason: string, requested: string|null, oldest: number, head: number}} Reset
 */

/**
 * @typedef {{type: "stream_end", status: string|null, reason: string, final: boolean, last_id: string,
 *   retry_after_ms: number|null}} StreamEnd
 */

/**
 * A refusal, as RFC 9457 has it.
 * @typedef {{type: string, title: string, status: number, detail: string, request_id?: string,
 *   [member: string]: any}} Problem
 */

/** Statuses after which nothing more happens to a task, a run or a preview. */
export const TERMINAL = new Set([
  ...["succeeded", "completed", "failed", "cancelled", "timed_out"],
  ...["stopped", "exited", "lost"],
]);
