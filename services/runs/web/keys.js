// Arrows go from card to card and from row to row, by where they lie on the page.

/** @type {Readonly<Record<string, [number, number]>>} */
const WAYS = Object.freeze({ ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] });

/** @param {KeyboardEvent} event */
export function moveFocus(event) {
  const way = WAYS[event.key];
  const from = /** @type {Element} */ (event.target).closest("[data-run]");
  if (!way || !from || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
  const here = from.getBoundingClientRect();
  const others = [.../** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-run]"))].filter((one) => one !== from);
  const next = nearest(middle(here), others.map((node) => ({ node, at: middle(node.getBoundingClientRect()) })), way);
  if (!next) return;
  event.preventDefault();
  /** @type {HTMLElement | null} */ (next.querySelector("a[data-open]"))?.focus();
}

/**
 * What lies next in a direction: near along it, and hardly beside it.
 *
 * @template T
 * @param {[number, number]} from
 * @param {{node: T, at: [number, number]}[]} others
 * @param {[number, number]} way
 * @returns {T | null}
 */
export function nearest([x, y], others, [right, down]) {
  let best = null;
  let least = Infinity;
  for (const { node, at } of others) {
    const along = (at[0] - x) * right + (at[1] - y) * down;
    const beside = Math.abs((at[0] - x) * down) + Math.abs((at[1] - y) * right);
    const distance = along + 3 * beside;
    if (along > 1 && distance < least) [best, least] = [node, distance];
  }
  return best;
}

/** @param {DOMRect} box @returns {[number, number]} */
function middle(box) {
  return [box.left + box.width / 2, box.top + box.height / 2];
}
