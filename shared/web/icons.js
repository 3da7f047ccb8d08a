// Small pictures, drawn with the colour of the text beside them. They are decoration: the words say it too.
//
//   icon(name, className)   one of the names below, hidden from screen readers

const SVG = "http://www.w3.org/2000/svg";

/** Each a path on a grid of 16, stroked. @type {Readonly<Record<string, string>>} */
const PATHS = Object.freeze({
  check: "M3.5 8.5l3 3 6-7",
  cross: "M4 4l8 8M12 4l-8 8",
  dash: "M4 8h8",
  plus: "M8 3v10M3 8h10",
  question: "M5.8 6.2a2.2 2.2 0 1 1 3.3 1.9c-.8.5-1.1.9-1.1 1.7M8 12.2v.1",
  warning: "M8 3.2v6M8 12.4v.1",
  clock: "M8 2.5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11zM8 5v3.2l2 1.3",
  arrow: "M3 8h10M9 4l4 4-4 4",
  out: "M6.5 3.5h-3v9h9v-3M9 3.5h3.5V7M12.5 3.5L7.5 8.5",
  copy: "M6 6h7v7H6zM10 3.5V3H3v7h.5",
  stop: "M8 2.2a5.8 5.8 0 1 0 0 11.6A5.8 5.8 0 0 0 8 2.2zM6.2 6.2h3.6v3.6H6.2z",
  bin: "M2.8 4.4h10.4M6 4.2V2.4h4v1.8M4.2 4.4l.6 9.2h6.4l.6-9.2M6.6 7v4M9.4 7v4",
  sun: "M8 5.2a2.8 2.8 0 1 0 0 5.6 2.8 2.8 0 0 0 0-5.6zM8 1.5v1.6M8 12.9v1.6M1.5 8h1.6M12.9 8h1.6M3.4 3.4l1.1 1.1M11.5 11.5l1.1 1.1M12.6 3.4l-1.1 1.1M4.5 11.5l-1.1 1.1",
  moon: "M13 9.6A5.5 5.5 0 0 1 6.4 3a5.5 5.5 0 1 0 6.6 6.6z",
  auto: "M8 2.5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11zM8 2.5v11M10 3v10M12 4.5v7",
  person: "M8 2.8a2.6 2.6 0 1 0 0 5.2 2.6 2.6 0 0 0 0-5.2zM3 13.5c.4-2.6 2.3-4 5-4s4.6 1.4 5 4",
  search: "M7 2.8a4.2 4.2 0 1 0 0 8.4 4.2 4.2 0 0 0 0-8.4zM10 10l3.5 3.5",
  down: "M4 6l4 4 4-4",
  up: "M4 10l4-4 4 4",
  back: "M10 3.5L5.5 8l4.5 4.5",
  play: "M5 3.5l7.5 4.5L5 12.5z",
  again: "M12.8 6.5A5 5 0 1 0 13 9.2M13 3v3.5H9.5",
  download: "M8 2.5v7.5M4.8 7L8 10.2 11.2 7M3 13.2h10",
  filter: "M2.5 3.5h11L9.5 8.3v4.2l-3 1.2V8.3z",
  file: "M4 2.5h5l3 3v8H4zM9 2.5v3h3",
  wrap: "M2.5 4h11M2.5 8h8.2a2 2 0 0 1 0 4H8M9.5 10.5L8 12l1.5 1.5M2.5 12h2.5",
  expand: "M9.5 3H13v3.5M13 3L9 7M6.5 13H3V9.5M3 13l4-4",
  task: "M3 3.5h10v9H3zM5.5 8l1.7 1.7 3.3-3.6",
  run: "M2.5 8h2.6l1.7-4.2 2.6 8.4L11 8h2.5",
  preview: "M2.5 3.5h11v9h-11zM2.5 6.2h11M4.4 4.9v.1M6.1 4.9v.1",
});

/** @param {string} name @param {string} [className] @returns {SVGSVGElement} */
export function icon(name, className = "") {
  if (!(name in PATHS)) throw new Error(`there is no icon ${name}`);
  const picture = document.createElementNS(SVG, "svg");
  picture.setAttribute("class", `icon ${className}`.trim());
  picture.setAttribute("viewBox", "0 0 16 16");
  picture.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  picture.append(path);
  return picture;
}
