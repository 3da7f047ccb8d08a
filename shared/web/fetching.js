// Fetching a state until it is there: over failures, sign-ins and sleep. And again and again, where it has no stream.

import { pauseMs } from "./backoff.js";
import { credentials as pageCredentials } from "./credentials.js";
import { sleep } from "./deadline.js";
import { ask } from "./http.js";
import { Refused } from "./problems.js";
import { makeStatus } from "./status.js";
import { onWake } from "./wake.js";
import { TERMINAL } from "./wire.js";

/** @typedef {import("./credentials.js").Credentials} Credentials */
/** @typedef {import("./status.js").Status} Status */

export class Fetching {
  #stopping = new AbortController();
  #pause = new AbortController();
  /** @type {string|null} */
  #etag = null;

  /**
   * @param {string} url
   * @param {{credentials?: Credentials, onStatus: (status: Status) => void, pollMs: number}} options
   */
  constructor(url, { credentials = pageCredentials, onStatus, pollMs }) {
    this.url = url;
    this.credentials = credentials;
    this.onStatus = onStatus;
    this.pollMs = pollMs;
  }

  stop() {
    this.#stopping.abort();
    this.#pause.abort();
  }

  retryNow() {
    this.#pause.abort();
  }

  /**
   * The state; undefined when it was refused or this was stopped.
   * @param {boolean} isShown whether there is nothing else to show
   */
  async fetch(isShown) {
    return await this.#watched(async () => (await this.#askPatiently(isShown, {}))?.body);
  }

  /**
   * Fetch it every few seconds, and hand over what has changed, until what it is about is over. Not while nobody looks.
   * @param {(body: any) => void} take
   */
  async poll(take) {
    await this.#watched(async () => {
      let last = "";
      for (let answer = await this.#poll(); answer; answer = await this.#poll()) {
        const { status, body, headers } = answer;
        this.#etag = headers.get("etag") ?? this.#etag;
        const text = status === 304 ? last : JSON.stringify(body);
        if (text !== last) take(body);
        last = text;
        if (TERMINAL.has(body?.status)) {
          this.#show({ phase: "ended", reason: "terminal", outcome: body.status });
          return;
        }
        this.#show({ phase: "polling", transport: "polling" });
        do await this.#sleep(this.pollMs * (0.9 + Math.random() / 5));
        while (globalThis.document?.hidden && !this.#stopping.signal.aborted);
      }
    });
  }

  #poll() {
    const headers = /** @type {Record<string, string>} */ (this.#etag === null ? {} : { "If-None-Match": this.#etag });
    return this.#askPatiently(true, headers);
  }

  /**
   * @template T
   * @param {() => Promise<T>} work
   */
  async #watched(work) {
    const ends = [onWake((wake) => wake !== "left" && this.retryNow()), this.credentials.onChange(() => this.retryNow())];
    try {
      return await work();
    } finally {
      ends.forEach((end) => end());
    }
  }

  /**
   * @param {boolean} isShown
   * @param {Record<string, string>} headers
   */
  async #askPatiently(isShown, headers) {
    const { credentials } = this;
    const { signal } = this.#stopping;
    for (let failures = 1; !signal.aborted; failures += 1) {
      try {
        return await ask(this.url, { credentials, signal, headers });
      } catch (error) {
        if (signal.aborted) return undefined;
        if (error instanceof Refused && !error.mayPass && error.status !== 401) {
          this.#show({ phase: "refused", why: error.message, problem: error.problem });
          return undefined;
        }
        await this.#recover(error, failures, isShown);
      }
    }
    return undefined;
  }

  /**
   * @param {unknown} error
   * @param {number} failures
   * @param {boolean} isShown
   */
  async #recover(error, failures, isShown) {
    const why = error instanceof Error ? error.message : String(error);
    const isSignedOut = error instanceof Refused && error.status === 401 && this.credentials.state === "signed_out";
    const asked = error instanceof Refused ? error.retryAfterMs : null;
    const wait = isSignedOut ? 2 ** 30 : pauseMs(failures, Math.random(), asked);
    if (isSignedOut) this.#show({ phase: "signed_out", why });
    else if (isShown) this.#show({ phase: "reconnecting", why, retryAt: Date.now() + wait });
    await this.#sleep(wait);
  }

  /** @param {number} milliseconds */
  async #sleep(milliseconds) {
    if (this.#stopping.signal.aborted) return;
    this.#pause = new AbortController();
    await sleep(milliseconds, this.#pause.signal);
  }

  /** @param {Partial<Status>} status */
  #show(status) {
    if (!this.#stopping.signal.aborted) this.onStatus(makeStatus({ ...status, since: Date.now() }));
  }
}
