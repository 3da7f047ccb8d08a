// One answer of server-sent events, read as it comes.

import { credentials as pageCredentials } from "./credentials.js";
import { fetchNoted } from "./http.js";
import { Refused, Unavailable, refusalOf } from "./problems.js";
import { parseSseChunk } from "./sse.js";

/** @typedef {import("./sse.js").SseMessage} SseMessage */
/** @typedef {import("./credentials.js").Credentials} Credentials */

const MOST_UNFINISHED = 8 * 1024 * 1024; // characters of one message; nothing Tailrace sends comes near

/**
 * @typedef {object} SseOptions
 * @property {string|null} [lastEventId] go on after it
 * @property {Record<string, string>} [headers]
 * @property {AbortSignal} [signal]
 * @property {Credentials} [credentials] the page's own unless told
 */

/**
 * The messages of one connection, until it is closed: with `fetch`, so that the token goes in a header, a refusal
 * says why, and nothing is read before it is wanted. It does not connect again; `follow` does. Ends at once at 204:
 * there is nothing more to come. Throws `Refused`, `Unavailable`.
 * @param {string} url
 * @param {SseOptions} [options]
 * @returns {AsyncGenerator<SseMessage, void, undefined>}
 */
export async function* streamSse(url, options = {}) {
  const credentials = options.credentials ?? pageCredentials;
  let token = await credentials.current();
  let chunks = readSse(url, token, options);
  let first;
  try {
    first = await chunks.next();
  } catch (error) {
    if (!(error instanceof Refused) || error.status !== 401) throw error;
    token = await credentials.renew(token);
    if (token === null) throw error;
    chunks = readSse(url, token, options);
    first = await chunks.next();
  }
  if (first.done) return;
  yield* first.value.messages;
  for await (const { messages } of chunks) yield* messages;
}

/**
 * What each chunk completes, perhaps nothing; the first when the answer is there, with nothing in it. A heartbeat is a
 * chunk too. Returns at once at 204, with `true`.
 * @param {string} url
 * @param {string|null} token
 * @param {SseOptions} options
 * @returns {AsyncGenerator<{messages: SseMessage[], retry: number|null}, boolean, undefined>}
 */
export async function* readSse(url, token, { lastEventId, headers, signal }) {
  const all = new Headers({ Accept: "text/event-stream", ...headers });
  if (token !== null) all.set("Authorization", `Bearer ${token}`);
  if (lastEventId) all.set("Last-Event-ID", lastEventId);
  const response = await fetchNoted(url, { headers: all, cache: "no-store", signal: signal ?? null });
  if (response.status === 204) return true;
  const body = await bodyOf(response);
  const reader = body.getReader();
  try {
    yield { messages: [], retry: null };
    let state;
    for (let chunk = await readChunk(reader, signal); chunk; chunk = await readChunk(reader, signal)) {
      const parsed = parseSseChunk(chunk, state);
      state = parsed.state;
      if (state.unfinished > MOST_UNFINISHED) throw new Unavailable("what comes is no event stream of Tailrace");
      yield { messages: parsed.messages, retry: state.retry };
    }
    return false;
  } finally {
    reader.cancel().catch(() => {}); // it may have failed already
  }
}

/** @param {Response} response */
async function bodyOf(response) {
  if (!response.ok) throw await refusalOf(response);
  const type = (response.headers.get("content-type") ?? "").split(";")[0].trim();
  if (type !== "text/event-stream" || response.body === null) {
    response.body?.cancel().catch(() => {});
    throw new Unavailable(`the answer is ${type || "empty"}, and no event stream`);
  }
  return response.body;
}

/**
 * @param {ReadableStreamDefaultReader<Uint8Array>} reader
 * @param {AbortSignal} [signal]
 */
async function readChunk(reader, signal) {
  try {
    return (await reader.read()).value;
  } catch {
    throw signal?.aborted ? signal.reason : new Unavailable("the connection was cut");
  }
}
