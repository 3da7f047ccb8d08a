// Requests as the server likes them: with the token, asked for anew when it is refused, and errors that say why.

import { clockOf } from "./clock.js";
import { credentials as pageCredentials } from "./credentials.js";
import { Deadline } from "./deadline.js";
import { Refused, Unavailable, refusalOf } from "./problems.js";

/** @typedef {import("./credentials.js").Credentials} Credentials */

/**
 * @typedef {object} RequestOptions
 * @property {string} [method] GET unless told; POST when there is `json`
 * @property {unknown} [json] sent as the body
 * @property {Record<string, string>} [headers]
 * @property {string} [idempotencyKey] makes it safe to send a creation again
 * @property {AbortSignal} [signal] aborted: what it was aborted with is thrown
 * @property {number} [timeoutMs] 30,000 unless told
 * @property {Credentials} [credentials] the page's own unless told
 */

/**
 * An answer that was not refused. `body` is its JSON, its text where it is something else, null where there is none.
 * @typedef {{status: number, headers: Headers, body: any}} Answer
 */

const TIMEOUT_MS = 30_000;

/**
 * Ask, and return the JSON of the answer; null where it has no body. Throws `Refused`, `Unavailable`.
 * @param {string} url
 * @param {RequestOptions} [options]
 * @returns {Promise<any>}
 */
export async function request(url, options = {}) {
  return (await ask(url, options)).body;
}

/**
 * The same, with status and headers: for an `ETag`, for example. 304 is an answer, not a refusal.
 * @param {string} url
 * @param {RequestOptions} [options]
 * @returns {Promise<Answer>}
 */
export async function ask(url, options = {}) {
  const credentials = options.credentials ?? pageCredentials;
  const token = await tokenOf(() => credentials.current());
  try {
    return await askOnce(url, options, token);
  } catch (error) {
    if (!(error instanceof Refused) || error.status !== 401) throw error;
    const renewed = await tokenOf(() => credentials.renew(token));
    if (renewed === null) throw error;
    return await askOnce(url, options, renewed);
  }
}

/**
 * @param {string} url
 * @param {RequestOptions} options
 * @param {string|null} token
 * @returns {Promise<Answer>}
 */
async function askOnce(url, options, token) {
  const deadline = new Deadline(options.signal);
  deadline.set(options.timeoutMs ?? TIMEOUT_MS, "there was no answer in time");
  try {
    const response = await fetchNoted(url, { ...requestInit(options, token), signal: deadline.signal });
    if (!response.ok && response.status !== 304) throw await refusalOf(response);
    return { status: response.status, headers: response.headers, body: await bodyOf(response) };
  } catch (error) {
    throw deadline.signal.aborted ? deadline.signal.reason : error;
  } finally {
    deadline.clear();
  }
}

/**
 * @param {RequestOptions} options
 * @param {string|null} token
 * @returns {RequestInit}
 */
function requestInit({ method, json, headers, idempotencyKey }, token) {
  const all = new Headers({ Accept: "application/json", ...headers });
  if (json !== undefined && !all.has("content-type")) all.set("Content-Type", "application/json");
  if (idempotencyKey) all.set("Idempotency-Key", idempotencyKey);
  if (token !== null) all.set("Authorization", `Bearer ${token}`);
  const body = json === undefined ? null : JSON.stringify(json);
  return { method: method ?? (body === null ? "GET" : "POST"), headers: all, body, cache: "no-store" };
}

/**
 * `fetch` that notes the server's clock, and whose failure is `Unavailable`.
 * @param {string} url
 * @param {RequestInit} init
 */
export async function fetchNoted(url, init) {
  const askedAt = Date.now();
  try {
    const response = await fetch(url, { redirect: "error", ...init });
    clockOf(url).sawAnswer(response.headers.get("date"), askedAt, Date.now());
    return response;
  } catch (error) {
    if (init.signal?.aborted) throw init.signal.reason;
    throw new Unavailable("the server cannot be reached");
  }
}

/** @param {Response} response */
async function bodyOf(response) {
  const text = await response.text().catch(() => {
    throw new Unavailable("the answer was cut off");
  });
  if (text === "") return null;
  if (!/\bjson\b/.test(response.headers.get("content-type") ?? "")) return text;
  try {
    return JSON.parse(text);
  } catch {
    throw new Unavailable("the answer cannot be read");
  }
}

/**
 * @param {() => Promise<string|null>} give
 */
async function tokenOf(give) {
  try {
    return await give();
  } catch (error) {
    throw new Unavailable(`no token could be had: ${error instanceof Error ? error.message : error}`);
  }
}
