// A small curve, as the paths that SVG draws.

/**
 * The line through `values` and the area under it, in a box of `width` by `height`. The scale begins at `least`, so
 * that a trickle does not look like a flood.
 *
 * @param {number[]} values oldest first
 * @param {{width: number, height: number, least?: number}} box
 */
export function sparkline(values, { width, height, least = 1 }) {
  if (values.length < 2) return { line: "", area: "", highest: values[0] ?? 0 };
  const highest = Math.max(...values);
  const scale = Math.max(highest, least);
  const step = width / (values.length - 1);
  const points = values.map((value, place) => {
    const y = height - 1 - (value / scale) * (height - 2); // a pixel of air, or the line's half is cut off
    return `${shown(place * step)} ${shown(y)}`;
  });
  const line = `M${points.join("L")}`;
  return { line, area: `${line}L${shown(width)} ${height}L0 ${height}Z`, highest };
}

/** One decimal is enough for a pixel. @param {number} value */
function shown(value) {
  return String(Math.round(value * 10) / 10);
}
