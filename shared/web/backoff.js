// How long to wait before trying again. Pure: chance comes in as an argument.

const FIRST_MS = 500;
const CAP_MS = 15_000;
const MOST_ASKED_MS = 300_000; // a server that asks for more is asked again earlier: its clock may be wrong

/**
 * Milliseconds to wait after so many failures in a row; 0 after none.
 *
 * Full jitter: anywhere from nothing to a bound that doubles with each failure, as `chance` (0 to 1) has it, so that
 * pages that were cut off together do not come back together. What the server asks for comes on top of that: nobody is
 * back earlier, and not all at the same moment.
 * @param {number} failures
 * @param {number} chance
 * @param {number|null} [askedMs]
 * @param {{firstMs?: number, capMs?: number}} [bounds]
 */
export function pauseMs(failures, chance, askedMs = 0, { firstMs = FIRST_MS, capMs = CAP_MS } = {}) {
  const bound = failures > 0 ? Math.min(capMs, firstMs * 2 ** Math.min(failures - 1, 20)) : 0;
  return chance * bound + Math.min(Math.max(askedMs || 0, 0), MOST_ASKED_MS);
}

/**
 * What `Retry-After` asks for: seconds, or a date. Null where it asks for nothing that can be read.
 * @param {string|null} header
 * @param {number} now
 */
export function retryAfterMs(header, now) {
  const text = (header ?? "").trim();
  if (/^[0-9]+$/.test(text)) return 1000 * Number(text);
  const date = text ? Date.parse(text) : NaN;
  return Number.isNaN(date) ? null : Math.max(0, date - now);
}
