// Refusals and failures, as errors that say what to do.
//
//   Refused       the server answered, and will not: `problem` says why
//   Unavailable   no answer, or none that can be read; asking again may do better

import { retryAfterMs } from "./backoff.js";

/** @typedef {import("./wire.js").Problem} Problem */

const MOST_CHARACTERS = 64 * 1024; // of a refusal that is read

/** The server will not. Asking again changes nothing, unless `mayPass`. */
export class Refused extends Error {
  /**
   * @param {Problem} problem
   * @param {number|null} [retryAfterMs] when it may be asked again, as the server says
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
    return [408, 425, 429].includes(this.status) || this.status >= 500;
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

/**
 * A problem document of our own making, where the server sent none.
 * @param {number} status
 * @param {string} title
 * @param {string} detail
 * @returns {Problem}
 */
export function makeProblem(status, title, detail) {
  return { type: "about:blank", title, status, detail };
}

/**
 * The refusal that an answer is; a proxy's page of HTML as well.
 * @param {Response} response
 */
export async function refusalOf(response) {
  const wait = retryAfterMs(response.headers.get("retry-after"), Date.now());
  const text = await response.text().catch(() => "");
  return new Refused(problemIn(text.slice(0, MOST_CHARACTERS), response), wait);
}

/**
 * @param {string} text
 * @param {Response} response
 * @returns {Problem}
 */
function problemIn(text, response) {
  const title = response.statusText || "Refused";
  try {
    const body = JSON.parse(text);
    if (typeof body?.detail === "string") return { ...makeProblem(response.status, title, ""), ...body, status: response.status };
  } catch {
    // somebody in between has answered
  }
  return makeProblem(response.status, title, `The answer was ${response.status} ${response.statusText}`.trim() + ".");
}
