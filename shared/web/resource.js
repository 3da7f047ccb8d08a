// A resource that stays what it is on the server: its state is fetched, then changed by what its stream tells.

import { credentials as pageCredentials } from "./credentials.js";
import { Fetching } from "./fetching.js";
import { follow } from "./follow.js";
import { isAfter } from "./position.js";
import { makeStatus } from "./status.js";
import { TERMINAL } from "./wire.js";

/** @typedef {import("./wire.js").Frame} Frame */
/** @typedef {import("./wire.js").WireEvent} WireEvent */
/** @typedef {import("./wire.js").Gap} Gap */
/** @typedef {import("./wire.js").Reset} Reset */
/** @typedef {import("./status.js").Status} Status */
/** @typedef {import("./follow.js").Transport} Transport */
/** @typedef {import("./follow.js").Following} Following */
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
 * @property {import("./lines.js").Lines} [lines] what carries the stream; those of the credentials unless told
 */

/**
 * Where a fetched state stands. A list is a snapshot of the whole service, one resource only knows of itself.
 * @typedef {{position: string|null, isList: boolean, status: string|null}} Standing
 */

/** @template [S=any] */
export class LiveResource {
  status = makeStatus({ since: Date.now() });
  /** The state as it is known; `initial` (or null) before it has been fetched. @type {S} */
  state;

  /** @type {LiveResourceOptions<S>} */
  #options;
  /** @type {Fetching|null} */
  #fetching = null;
  /** @type {Following|null} */
  #following = null;
  /** @type {Promise<void>|null} */
  #refreshing = null;
  #endWatch = () => {};

  /** @param {LiveResourceOptions<S>} options */
  constructor(options) {
    this.#options = { ...options };
    this.state = this.#initial();
  }

  /** The last position handed over; null before the first. */
  get position() {
    return this.#following?.position ?? null;
  }

  /** Begin. @returns {this} */
  start() {
    if (this.#fetching) return this;
    const { url, streamUrl, credentials, lines, pollSeconds } = this.#options;
    this.#fetching = new Fetching(url ?? "", {
      credentials: credentials ?? lines?.credentials,
      onStatus: (status) => this.#show(status),
      pollMs: 1000 * (pollSeconds ?? 5),
    });
    const whose = credentials ?? lines?.credentials ?? pageCredentials;
    this.#endWatch = whose.onChange((_, cause) => cause === "replaced" && this.#isOfSomebodyElse(whose.token));
    if (!url) this.#follow(this.#options.after ?? null, null);
    else if (streamUrl) this.#load(false);
    else this.#fetching.poll((body) => this.#loaded(body));
    return this;
  }

  /**
   * Another subject: start over with it. With the same addresses it changes nothing.
   * @param {{url?: string|null, streamUrl?: string|null}} addresses
   */
  update(addresses) {
    const { url, streamUrl } = { ...this.#options, ...addresses };
    if (url === this.#options.url && streamUrl === this.#options.streamUrl) return;
    const isRunning = this.#fetching !== null;
    this.stop();
    this.#options = { ...this.#options, url, streamUrl };
    this.#begin(isRunning);
  }

  /** Fetch the state anew; the stream goes on from there. Resolves when it is there, or was refused. */
  async refresh() {
    if (!this.#fetching || !this.#options.url) return;
    this.#refreshing ??= this.#load(false).finally(() => (this.#refreshing = null));
    await this.#refreshing;
  }

  /** Do not wait for the next attempt. */
  retryNow() {
    this.#fetching?.retryNow();
    this.#following?.retryNow();
  }

  /** Let go of everything; no callback is called any more. `start` begins anew. */
  stop() {
    this.#endWatch();
    this.#fetching?.stop();
    this.#following?.stop();
    this.#fetching = this.#following = this.#refreshing = null;
    this.status = makeStatus({ phase: "stopped", since: Date.now() });
  }

  /** @param {boolean} isRunning */
  #begin(isRunning) {
    this.state = this.#initial();
    this.status = makeStatus({ since: Date.now() });
    if (isRunning) this.start();
  }

  /**
   * What one person saw is not mixed with what another one may see. After a sign-out there is nobody to begin anew for.
   * @param {string|null} token
   */
  #isOfSomebodyElse(token) {
    if (token === null) return;
    this.stop();
    this.#begin(true);
  }

  /** @returns {S} */
  #initial() {
    return /** @type {S} */ (this.#options.initial ?? null);
  }

  // ── the state ────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Fetch, and follow from there. Until the answer is here the old stream goes on; then a new one begins at the state's
   * own position, so that what happened between the two is neither missed nor applied twice.
   *
   * After a reset a resource's own position may be one that the log has trimmed: nothing has happened to it for so long.
   * Then its stream is followed from the start, and what the state has already is left out.
   * @param {boolean} isAfterReset
   */
  async #load(isAfterReset) {
    const fetching = this.#fetching;
    const body = await fetching?.fetch(this.#following === null);
    if (body === undefined || fetching !== this.#fetching) return;
    this.#following?.stop();
    this.#following = null;
    const { position, isList, status } = this.#loaded(body);
    const { after, streamUrl } = this.#options;
    if (!streamUrl) return;
    if (after === undefined && !shouldStream({ streamUrl, status })) {
      this.#show(makeStatus({ phase: "ended", reason: "terminal", outcome: status, since: Date.now() }));
    } else {
      this.#follow(isAfterReset && !isList ? "start" : after ?? position, position);
    }
  }

  /**
   * @param {any} body
   * @returns {Standing}
   */
  #loaded(body) {
    this.state = (this.#options.readState ?? ((all) => all))(body);
    this.#options.onChange?.(this.state, []);
    const isList = typeof body?.as_of === "string";
    return { position: body?.as_of ?? body?.last_position ?? null, isList, status: isList ? null : body?.status ?? null };
  }

  // ── the stream ───────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * @param {string|null} after
   * @param {string|null} floor what the state has already
   */
  #follow(after, floor) {
    const { streamUrl, types, lossless, transport, credentials, lines } = this.#options;
    if (!streamUrl) return;
    const how = { after, types, lossless, transport, credentials, lines };
    const following = follow(streamUrl, {
      ...Object.fromEntries(Object.entries(how).filter(([, value]) => value !== undefined)),
      onFrames: (frames) => this.#apply(floor === null ? frames : frames.filter(({ id }) => isAfter(id, floor))),
      onGap: (gap) => (this.#options.onGap ? this.#options.onGap(gap) : this.refresh()),
      onReset: (reset) => this.#startOver(reset),
      onStatus: (status) => this.#show(status),
    });
    this.#following = following;
    this.#show(following.status);
  }

  /** @param {Frame[]} frames */
  #apply(frames) {
    if (!frames.length) return;
    for (const frame of frames) {
      try {
        const next = this.#options.applyEvent?.(this.state, frame.event, frame);
        if (next !== undefined) this.state = next;
      } catch (error) {
        reportError(error); // and the events after it are applied all the same
      }
    }
    this.#options.onChange?.(this.state, frames);
  }

  /** @param {Reset} reset */
  #startOver(reset) {
    this.#options.onReset?.(reset);
    if (!this.#fetching) return; // the page has stopped it
    if (this.#options.url) {
      this.#following?.stop();
      this.#following = null;
      this.#load(true);
    } else {
      this.state = this.#initial();
      this.#options.onChange?.(this.state, []);
    }
  }

  /** @param {Status} status */
  #show(status) {
    if (!this.#fetching || status === this.status) return;
    this.status = status;
    this.#options.onStatus?.(status);
  }
}

/**
 * Whether a stream is to be opened: there is one, what it is about is not over, and this browser can read it as it comes.
 * @param {{streamUrl?: string|null, status?: string|null}} resource a task, run or preview, with the URL of its stream
 */
export function shouldStream({ streamUrl, status }) {
  const canRead = typeof ReadableStream === "function" && typeof TextDecoder === "function";
  return Boolean(streamUrl) && canRead && !TERMINAL.has(status ?? "");
}
