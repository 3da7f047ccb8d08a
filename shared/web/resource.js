// A resource that stays what it is on the server: its state is fetched, then changed by what its stream tells.

/** @typedef {import("./wire.js").Frame} Frame */
/** @typedef {import("./wire.js").WireEvent} WireEvent */
/** @typedef {import("./wire.js").Gap} Gap */
/** @typedef {import("./wire.js").Reset} Reset */
/** @typedef {import("./status.js").Status} Status */
/** @typedef {import("./follow.js").Transport} Transport */
/** @typedef {import("./credentials.js").Credentials} Credentials */

/**
 * @template S
 * @typedef {object} LiveResourceOptions
 * @property {string|null} [url] where the state is: a list, or one task, run or preview. Null: there is only a stream,
 *   and the state is `initial` with what the stream tells
 * @property {string|null} [streamUrl] its stream. Null: the url is polled
 * @property {S} [initial] the state before anything is known
 * @property {(state: S, event: WireEvent, frame: Frame) => S|void} [applyEvent] the state after an event: a new one, or
 *   nothing when the old one was changed in place. Only called for what the fetched state does not have already
 * @property {(body: any) => S} [readState] the state out of what `url` answered; the whole answer unless told
 * @property {(state: S, frames: Frame[]) => void} [onChange] once for each load (no frames) and each batch of events:
 *   paint here
 * @property {(status: Status) => void} [onStatus]
 * @property {(gap: Gap) => void} [onGap] events were skipped. Unless given, the state is fetched anew
 * @property {(reset: Reset) => void} [onReset] continuity is lost. The state is fetched anew, where there is a url; else it
 *   is `initial` again, and what is kept follows
 * @property {string|null} [after] where the stream starts: unless given after the fetched state, at its `as_of` or
 *   `last_position`; without a `url` where the stream does by default
 * @property {string[]} [types]
 * @property {boolean} [lossless]
 * @property {Transport} [transport]
 * @property {number} [pollSeconds] between two polls without a `streamUrl`; 5 unless told
 * @property {Credentials} [credentials]
 */

/**
 * @template [S=any]
 */
export class LiveResource {
  /** @param {LiveResourceOptions<S>} options */
  constructor(options) {
    throw new Error("not yet");
  }

  /** The state as it is known; `initial` (or null) before it has been fetched. @returns {S} */
  get state() {
    throw new Error("not yet");
  }

  /** @returns {Status} */
  get status() {
    throw new Error("not yet");
  }

  /** Begin. @returns {this} */
  start() {
    throw new Error("not yet");
  }

  /**
   * Another subject: start over with it. With the same addresses it changes nothing.
   * @param {{url?: string|null, streamUrl?: string|null}} addresses
   */
  update(addresses) {
    throw new Error("not yet");
  }

  /** Fetch the state anew; the stream goes on. Resolves when it is there, or has failed (then `status` says so). */
  async refresh() {
    throw new Error("not yet");
  }

  /** Do not wait for the next attempt. */
  retryNow() {
    throw new Error("not yet");
  }

  /** Let go of everything; no callback is called any more. `start` begins anew. */
  stop() {
    throw new Error("not yet");
  }
}

/**
 * Whether a stream is to be opened: there is one, what it is about is not over, and this browser can read it as it comes.
 * @param {{streamUrl?: string|null, status?: string|null}} resource a task, run or preview, with the URL of its stream
 */
export function shouldStream(resource) {
  throw new Error("not yet");
}
