// Which card lies where. A card keeps its place from its first appearance on, also when its run has ended. Pure.

/**
 * Give each of `live` a place in `slots`: those that have one keep it, a new one takes the place of the card that has
 * been over for longest, or comes last where there is none. So nothing ever moves under the reader's eyes, and there
 * are as many cards as there were runs at once.
 *
 * @param {string[]} slots ids, in their order on the page
 * @param {string[]} live ids, oldest first
 * @param {(id: string) => number | null} overSince when the run ended, null while it is live
 * @param {number} most how many places there may be
 * @returns {string[]}
 */
export function placed(slots, live, overSince, most) {
  const kept = [...slots];
  const known = new Set(kept);
  const free = kept
    .map((id, place) => ({ place, since: overSince(id) }))
    .filter((slot) => slot.since !== null)
    .sort((one, other) => Number(one.since) - Number(other.since));
  for (const id of live) {
    if (known.has(id)) continue;
    const slot = free.shift();
    if (slot) kept[slot.place] = id;
    else if (kept.length < most) kept.push(id);
    else break;
  }
  return kept;
}
