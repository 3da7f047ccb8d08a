// Following one stream over any number of connections, with nothing lost and nothing twice.

import { Follower } from "./follower.js";
import { ask } from "./http.js";
import { linesOf } from "./lines.js";
import { Target } from "./target.js";

/** @typedef {import("./wire.js").Frame} Frame */
/** @typedef {import("./wire.js").Gap} Gap */
/** @typedef {import("./wire.js").Reset} Reset */
/** @typedef {import("./wire.js").StreamEnd} StreamEnd */
/** @typedef {import("./status.js").Status} Status */
/** @typedef {import("./credentials.js").Credentials} Credentials */

/**
 * - `auto`: over the page's one WebSocket to that service where the stream can go over it, which is every stream whose
 *   URL has no parameters of its own; else, and where WebSockets do not work, over server-sent events
 * - `websocket`, `sse`: over that alone
 * All of them poll while they cannot stream.
 * @typedef {"auto"|"websocket"|"sse"} Transport
 */

/**
 * @typedef {object} FollowOptions
 * @property {string|null} [after] `start`, `now` or a position; where the stream starts by default unless given
 * @property {string[]} [types]
 * @property {boolean} [lossless] nothing is skipped, however far this page falls behind
 * @property {Transport} [transport] `auto` unless told
 * @property {Credentials} [credentials] the page's own unless told
 * @property {import("./lines.js").Lines} [lines] what carries it; those of the credentials unless told
 * @property {(frames: Frame[]) => void} [onFrames] what has come, in order, one or more at a time
 * @property {(status: Status) => void} [onStatus]
 * @property {(live: {replayed: number}) => void} [onLive] once per connection: what came before it is history
 * @property {(gap: Gap) => void} [onGap] in its place between the frames; `backfill` fetches what was dropped
 * @property {(reset: Reset) => void} [onReset] forget what was built: what is kept follows, or the current state
 * @property {(end: StreamEnd) => void} [onEnd] the stream is over for good
 */

/**
 * What `follow` returns.
 * @typedef {object} Following
 * @property {() => void} stop let go of everything, at once; no callback is called any more
 * @property {() => void} retryNow do not wait for the next attempt
 * @property {Status} status
 * @property {string|null} position the last one handed over; null before the first
 */

/**
 * Follow the stream at `url`, such as `/api/v1/runs/run_01j…/stream`, until it ends, is refused or stopped.
 *
 * Callbacks are called in the order of the stream, and never before `follow` has returned. One that throws stops
 * nothing: the error is reported as uncaught, and the stream goes on after the frame.
 * @param {string} url
 * @param {FollowOptions} options
 * @returns {Following}
 */
export function follow(url, options) {
  const lines = options.lines ?? linesOf(options.credentials);
  return new Follower(new Target(url, options), options, lines).start();
}

/**
 * What a gap stands for: the events that were dropped, as far as they are kept. Throws as `request` does.
 * @param {Gap} gap
 * @param {{signal?: AbortSignal, credentials?: Credentials}} [options]
 * @returns {Promise<Frame[]>}
 */
export async function backfill(gap, options = {}) {
  const { body } = await ask(gap.backfill, options);
  return body.data.map((/** @type {{id: string, event: any}} */ { id, event }) => ({ id, event, live: false }));
}
