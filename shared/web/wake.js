// When a page wakes up: it was hidden, asleep, offline or left, and its connections may be dead without a word.

const TICK_MS = 5_000;
const JUMP_MS = 15_000; // a tick that comes so late was no tick: the machine slept

/**
 * - `awake`: it is seen again, or time has jumped: look whether the connection is alive
 * - `network`: the network is back, perhaps another one: what was open before is worth nothing
 * - `left`: it goes into the browser's cache of pages, which an open connection would keep it out of
 * @typedef {"awake"|"network"|"left"} Wake
 */

/**
 * Be told. Returns what ends it.
 * @param {(wake: Wake) => void} listener
 * @returns {() => void}
 */
export function onWake(listener) {
  const ends = [watchClock(() => listener("awake"))];
  if (typeof document !== "undefined") {
    const isSeen = () => document.visibilityState === "visible" && listener("awake");
    ends.push(
      listen(document, "visibilitychange", isSeen),
      listen(document, "resume", () => listener("awake")),
      listen(window, "online", () => listener("network")),
      listen(window, "pagehide", () => listener("left")),
      listen(window, "pageshow", (event) => /** @type {PageTransitionEvent} */ (event).persisted && listener("network")),
    );
  }
  return () => ends.forEach((end) => end());
}

/** @param {() => void} jumped */
function watchClock(jumped) {
  let last = Date.now();
  const timer = setInterval(() => {
    const now = Date.now();
    if (now - last > TICK_MS + JUMP_MS) jumped();
    last = now;
  }, TICK_MS);
  return () => clearInterval(timer);
}

/**
 * @param {EventTarget} target
 * @param {string} type
 * @param {(event: Event) => void} listener
 */
function listen(target, type, listener) {
  target.addEventListener(type, listener);
  return () => target.removeEventListener(type, listener);
}
