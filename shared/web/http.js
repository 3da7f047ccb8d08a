// Requests as the server likes them: with the token, asked for anew when it is refused, and errors that say why.

/** @typedef {import("./credentials.js").Credentials} Credentials */

/**
 * @typedef {object} RequestOptions
 * @property {string} [method] GET unless told; POST when there is `json`
 * @property {unknown} [json] sent as the body
 * @property {Record<string, string>} [headers]
 * @property {string} [idempotencyKey] makes it safe to send a creation again
 * @property {AbortSignal} [signal]
 * @property {number} [timeoutMs] 30,000 unless told
 * @property {Credentials} [credentials] the page's own unless told
 */

/**
 * Ask, and return the JSON of the answer (null where it has no body). Throws `Refused`, `Unavailable`.
 * @param {string} url
 * @param {RequestOptions} [options]
 * @returns {Promise<any>}
 */
export async function request(url, options = {}) {
  throw new Error("not yet");
}
