// The steps of a task, as a line that one goes along.

import { setBadge, badge, toneOf } from "/web/shared/badge.js";
import { el, reconcile, setShown, setText } from "/web/shared/dom.js";
import { duration, words } from "/web/shared/format.js";

/** @typedef {import("/web/tasks/tasks.js").Step} Step */

export class StepList {
  #list = el("ol", { class: "steps" });
  #count = el("span", { class: "dim small nums" });

  constructor() {
    const head = el("div", { class: "panel-head" }, el("h2", { id: "steps-title" }, "Steps"), this.#count);
    this.element = el("section", { class: "panel", "aria-labelledby": "steps-title", hidden: true }, head, this.#list);
  }

  /** @param {Step[]} steps @param {boolean} isOver */
  show(steps, isOver) {
    setShown(this.element, steps.length > 0);
    const done = steps.filter((step) => toneOf(step.status) === "good").length;
    setText(this.#count, `${done} of ${steps.length} done`);
    reconcile(this.#list, steps.map((step, index) => ({ step, index })), {
      key: ({ index }) => String(index), // names may be alike
      make: ({ step }) => makeStep(step),
      update: (node, { step }) => updateStep(node, step, isOver),
    });
  }
}

/** @param {Step} step */
function makeStep(step) {
  const head = el("p", { class: "step-head" }, el("b", {}), el("span", { class: "dim small nums" }));
  return el("li", {}, badge(step.status), el("div", {}, head, el("p", { class: "dim small" })));
}

/** @param {HTMLElement} node @param {Step} step @param {boolean} isOver */
function updateStep(node, step, isOver) {
  const [status, body] = node.children;
  const [head, message] = body.children;
  node.dataset.tone = toneOf(step.status);
  setBadge(/** @type {HTMLElement} */ (status), step.status);
  setText(head.children[0], step.name);
  setText(head.children[1], tookOf(step, isOver));
  setText(message, step.message);
  setShown(/** @type {HTMLElement} */ (message), Boolean(step.message));
  node.title = words(step.status);
}

/** How long it took, or has been going on. @param {Step} step @param {boolean} isOver */
function tookOf({ started_at: start, finished_at: end }, isOver) {
  if (!start || (!end && isOver)) return "";
  return duration((end ? Date.parse(end) : Date.now()) - Date.parse(start));
}
