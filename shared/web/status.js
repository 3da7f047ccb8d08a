// What a connection chip shows: the state of a stream, as it is and in words.

/** @typedef {import("./wire.js").Problem} Problem */

/**
 * - `connecting`: for the first time; nothing has been shown yet
 * - `catching_up`: connected, and history is coming
 * - `live`: what happens is shown as it happens
 * - `reconnecting`: cut off; `retryAt` is when the next attempt is made, null while one is under way
 * - `polling`: streaming does not work now, so news is fetched every few seconds; streaming is tried again at `retryAt`.
 *   Also what has no stream and is only ever polled, without `retryAt`
 * - `ended`: the subject is over, and there is nothing more to come; `reason` and `outcome` say how
 * - `refused`: the server will not; `problem` says why. It is not tried again
 * - `signed_out`: the server wants a token and none is known, or it takes none that is. It goes on by itself after sign-in
 * - `stopped`: by the page
 * @typedef {"connecting"|"catching_up"|"live"|"reconnecting"|"polling"|"ended"|"refused"|"signed_out"|"stopped"} Phase
 */

/**
 * @typedef {object} Status
 * @property {Phase} phase
 * @property {string} why what is the matter, in words; empty when all is well
 * @property {number|null} retryAt when the next attempt is made, as `Date.now()` counts
 * @property {"websocket"|"sse"|"polling"|null} transport what carries it now
 * @property {Problem|null} problem of a refusal
 * @property {string|null} reason of the end, as `stream_end` has it: `terminal`, `access_revoked` …
 * @property {string|null} outcome the terminal status of the subject: `completed`, `failed` …
 * @property {number|null} lagMilliseconds from the publishing of an event to its being applied, while live; an estimate
 *   by the server's clock. Null: nothing has come since it went live, or the clock is not known
 * @property {number} since when this phase began, as `Date.now()` counts
 */

/** @type {Status} */
const BLANK = {
  phase: "connecting",
  why: "",
  retryAt: null,
  transport: null,
  problem: null,
  reason: null,
  outcome: null,
  lagMilliseconds: null,
  since: 0,
};

/**
 * A status: what is not given is blank.
 * @param {Partial<Status>} given
 * @returns {Status}
 */
export function makeStatus(given) {
  return Object.freeze({ ...BLANK, ...given });
}

/**
 * The words of a chip, without the lag: "Live", "Reconnecting in 3 s", "Ended: completed".
 * @param {Status} status
 * @param {number} [now] call it again every second while `retryAt` is set
 */
export function describeStatus(status, now = Date.now()) {
  const seconds = status.retryAt === null ? 0 : Math.ceil((status.retryAt - now) / 1000);
  switch (status.phase) {
    case "connecting":
      return "Connecting";
    case "catching_up":
      return "Catching up";
    case "live":
      return "Live";
    case "reconnecting":
      return seconds > 0 ? `Reconnecting in ${seconds} s` : "Reconnecting";
    case "polling":
      return "Polling";
    case "ended":
      return `Ended: ${(status.outcome ?? status.reason ?? "over").replaceAll("_", " ")}`;
    case "refused":
      return status.problem ? `Refused: ${status.problem.title}` : "Refused";
    case "signed_out":
      return "Signed out";
    case "stopped":
      return "Stopped";
  }
}

// From the one that needs attention most to the one that needs none.
/** @type {Phase[]} */
const WORST_FIRST = [
  ...(/** @type {Phase[]} */ (["signed_out", "refused", "reconnecting", "connecting", "polling", "catching_up", "live"])),
  ...(/** @type {Phase[]} */ (["ended", "stopped"])),
];

/**
 * One status for a page that has several: the worst, with the largest lag of those that are live.
 * @param {Iterable<Status>} statuses
 * @returns {Status}
 */
export function combineStatuses(statuses) {
  const all = [...statuses];
  const rank = (/** @type {Status} */ status) => WORST_FIRST.indexOf(status.phase);
  const worst = all.reduce((one, other) => (rank(other) < rank(one) ? other : one), all[0] ?? makeStatus({}));
  const lags = all.flatMap((status) => (status.lagMilliseconds === null ? [] : [status.lagMilliseconds]));
  return worst.phase === "live" && lags.length ? makeStatus({ ...worst, lagMilliseconds: Math.max(...lags) }) : worst;
}
