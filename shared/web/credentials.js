// Where tokens come from: a source that the page supplies, asked again when the server refuses what it gave.

/**
 * Gives a token, or null when there is none. `stale` is the one that the server has just refused, null at first.
 * @typedef {(asked: {stale: string|null}) => string|null|Promise<string|null>} TokenSource
 */

/**
 * - `off`: no token is known, and the server has not asked for one; so it is where authentication is off
 * - `signed_in`: a token is known, and was not refused
 * - `signed_out`: the server wants a token, and there is none that it takes
 * @typedef {"off"|"signed_in"|"signed_out"} SignInState
 */

/**
 * Why a listener is told: another source was set, perhaps another person's; the source has given a newer token; or
 * there is no token that the server takes.
 * @typedef {"replaced"|"renewed"|"refused"} Cause
 */

const KEY = "tailrace.token";

/** What all requests and streams of a page share, so that a refusal is answered by one question and not by twenty. */
export class Credentials {
  /** @type {SignInState} */
  state = "off";
  /** @type {string|null} */
  #token = null;
  #isAsked = false;
  /** @type {TokenSource|null} */
  #source = null;
  /** @type {Promise<string|null>|null} */
  #asking = null;
  /** @type {Set<(state: SignInState, cause: Cause) => void>} */
  #listeners = new Set();

  /** @param {TokenSource|string|null} [source] */
  constructor(source = null) {
    this.use(source);
  }

  /**
   * Take tokens from `source`: a function, a token, or null for none. What follows streams goes on with the new one.
   * @param {TokenSource|string|null} source
   */
  use(source) {
    this.#source = typeof source === "string" ? () => source : source;
    this.#token = typeof source === "string" ? source : null;
    this.#isAsked = typeof source !== "function";
    this.#asking = null;
    this.#set(this.#token === null ? "off" : "signed_in", "replaced");
  }

  /**
   * The token as it is known now, without asking anybody.
   * @returns {string|null}
   */
  get token() {
    return this.#token;
  }

  /**
   * The token to send; the source is asked once. Null: send none. What the source throws is thrown.
   * @returns {Promise<string|null>}
   */
  async current() {
    if (this.#isAsked) return this.#token;
    return await this.#ask(null);
  }

  /**
   * A token in place of `stale`, which the server has refused (null: it wanted one and got none). Whoever comes while
   * it is being asked for gets the same answer. Null: there is no other, and the state is `signed_out`.
   * @param {string|null} stale
   * @returns {Promise<string|null>}
   */
  async renew(stale) {
    if (this.#token !== null && this.#token !== stale) return this.#token; // renewed meanwhile
    const token = await this.#ask(stale);
    if (token === null && this.state !== "signed_out") this.#set("signed_out", "refused");
    return token;
  }

  /**
   * Ask the source for a newer token before the server has to: connections that can take it go on without a break.
   * @returns {Promise<void>}
   */
  async refresh() {
    await this.#ask(this.#token);
  }

  /**
   * Be told of every change of `state`, and of every new token.
   * @param {(state: SignInState, cause: Cause) => void} listener
   * @returns {() => void} stops it
   */
  onChange(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** @param {string|null} stale */
  #ask(stale) {
    this.#asking ??= this.#answer(stale).finally(() => (this.#asking = null));
    return this.#asking;
  }

  /** @param {string|null} stale */
  async #answer(stale) {
    const source = this.#source;
    const token = (source && (await source({ stale }))) || null;
    if (source !== this.#source) return this.#token; // another was set meanwhile
    this.#isAsked = true;
    this.#token = token === stale ? null : token;
    if (this.#token !== null) this.#set("signed_in", "renewed");
    return this.#token;
  }

  /**
   * @param {SignInState} state
   * @param {Cause} cause
   */
  #set(state, cause) {
    this.state = state;
    for (const listener of [...this.#listeners]) listener(state, cause);
  }
}

/** The page's own, which everything uses that is not given others. */
export const credentials = new Credentials();

/**
 * The page's tokens come from `source` from now on: a function that is asked at first and after every refusal, a token,
 * or null for none. For the host application that has tokens of its own.
 * @param {TokenSource|string|null} source
 */
export function setTokenSource(source) {
  credentials.use(source);
}

/** Take the token that was kept for this tab, if there is one. A page that has a sign-in field calls this first. */
export function useTabToken() {
  credentials.use(kept());
}

/**
 * Take this token, and keep it for the tab, over reloads. What follows streams connects with it.
 * @param {string} token
 */
export function signIn(token) {
  keep(token);
  credentials.use(token);
}

/** Forget the token. Streams of a server that wants one end up `signed_out`. */
export function signOut() {
  keep(null);
  credentials.use(null);
}

/** @returns {string|null} */
function kept() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null; // storage can be forbidden
  }
}

/** @param {string|null} token */
function keep(token) {
  try {
    if (token === null) sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, token);
  } catch {
    // then it lasts as long as the page
  }
}
