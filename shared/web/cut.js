// Why a connection is no more, and when another one makes sense.

import { Refused } from "./problems.js";

/** @typedef {import("./wire.js").StreamEnd} StreamEnd */

/** No connection, or none any more; another attempt may go better. It never leaves the client. */
export class Cut extends Error {
  /**
   * @param {string} why in words
   * @param {{askedMs?: number|null, isUnauthorized?: boolean, isAnswered?: boolean, isAtOnce?: boolean}} [more]
   *   `askedMs`: the server wants us back no sooner. `isUnauthorized`: it wants another token. `isAnswered`: somebody is
   *   there, so polling may work. `isAtOnce`: there was no failure, and no pause is needed
   */
  constructor(why, { askedMs = null, isUnauthorized = false, isAnswered = false, isAtOnce = false } = {}) {
    super(why);
    this.name = "Cut";
    this.askedMs = askedMs;
    this.isUnauthorized = isUnauthorized;
    this.isAnswered = isAnswered;
    this.isAtOnce = isAtOnce;
  }

  /**
   * @param {unknown} error
   * @returns {Cut}
   */
  static of(error) {
    if (error instanceof Cut) return error;
    if (error instanceof Refused) {
      return new Cut(error.message, {
        askedMs: error.retryAfterMs,
        isUnauthorized: error.status === 401,
        isAnswered: error.mayPass,
      });
    }
    return new Cut(error instanceof Error ? error.message : String(error));
  }

  /**
   * The server has said that this connection is over, and when to be back.
   * @param {StreamEnd} end
   */
  static by(end) {
    return new Cut(`the server ended the connection: ${end.reason.replaceAll("_", " ")}`, {
      askedMs: end.retry_after_ms,
      isUnauthorized: end.reason === "token_expired",
    });
  }
}
