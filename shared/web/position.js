// Positions, `<epoch>-<seq>`: which of two lies further on. Pure.

const POSITION = /^[a-z0-9]{1,16}-(0|[1-9][0-9]{0,18})$/;

/**
 * Whether it is a position, and not one of the words that stand for one.
 * @param {string|null|undefined} text
 * @returns {text is string}
 */
export function isPosition(text) {
  return typeof text === "string" && POSITION.test(text);
}

/**
 * Whether `position` lies after `other` (none: the beginning). Of another epoch it does: what was built in the old
 * one is void.
 * @param {string} position
 * @param {string|null|undefined} other
 */
export function isAfter(position, other) {
  if (!other) return true;
  const [epoch, seq] = split(position);
  const [otherEpoch, otherSeq] = split(other);
  if (epoch !== otherEpoch) return true;
  // As text: a seq may be larger than what a number holds exactly.
  return seq.length === otherSeq.length ? seq > otherSeq : seq.length > otherSeq.length;
}

/**
 * @param {string} position
 * @returns {[string, string]}
 */
function split(position) {
  const dash = position.lastIndexOf("-");
  return [position.slice(0, dash), position.slice(dash + 1)];
}
