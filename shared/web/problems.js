// Refusals: an answer of the server that is not what was asked for, as an error that says what to do.

/** @typedef {import("./wire.js").Problem} Problem */

/** The server will not; asking again changes nothing, unless `retryAfterMs` says when it may. */
export class Refused extends Error {
  /**
   * @param {Problem} problem
   * @param {number|null} [retryAfterMs]
   */
  constructor(problem, retryAfterMs = null) {
    super(problem.detail || `${problem.status} ${problem.title}`);
    this.name = "Refused";
    this.problem = problem;
    this.status = problem.status;
    this.retryAfterMs = retryAfterMs;
  }

  /** Whether the same request may do better later: too much at once, or somebody in between is away. */
  get mayPass() {
    return this.status === 408 || this.status === 425 || this.status === 429 || this.status >= 500;
  }
}

/** No answer, or none that can be read; asking again may do better. */
export class Unavailable extends Error {
  /** @param {string} message */
  constructor(message) {
    super(message);
    this.name = "Unavailable";
  }
}
