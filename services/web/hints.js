// Commands to begin with, each to be copied.

import { copyButton } from "/web/shared/copy.js";
import { el } from "/web/shared/dom.js";

/** @param {string} origin @param {boolean} wantsToken @returns {HTMLElement[]} */
export function hints(origin, wantsToken) {
  const token = wantsToken ? ` -H "Authorization: Bearer $TAILRACE_TOKEN"` : "";
  const json = "-H 'Content-Type: application/json'";
  const runs = `${origin}/api/v1/runs`;
  return [
    hint("Start a task of three runs, and watch it here", `tailrace submit "Write a poem about a river" --title "Three poems" --count 3 --url ${origin}`),
    hint("Start one run with nothing but curl", `curl -s ${runs}${token} ${json} -d '{"task":"Say something"}'`),
    hint("Watch all runs as they happen", `curl -sN${token} ${runs}/stream`),
    hint(
      "Try a program",
      `curl -s ${origin}/api/v1/generations/hello/preview${token} ${json} -d '{"files":{"index.html":"<h1>Hello</h1>"},"kind":"static"}'`,
    ),
  ];
}

/** @param {string} what @param {string} command */
function hint(what, command) {
  const button = copyButton(() => command, `Copy: ${what}`);
  return el("div", { class: "hint-line" }, el("p", { class: "small" }, what), el("div", { class: "command" }, el("code", {}, command), button));
}
