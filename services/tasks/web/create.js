// A new task, by a small form.

import { el, setShown, setText } from "/web/shared/dom.js";
import { goTo } from "/web/shared/router.js";
import { request } from "/web/shared/stream.js";

const SAMPLES = [0, 1, 3, 6];

/** Ask for its title and kind, make it, and go to it. */
export function askForTask() {
  const key = crypto.randomUUID(); // pressed twice, or sent again: one task
  const title = el("input", { id: "task-title", required: true, maxlength: 500, autocomplete: "off", placeholder: "Three poems about rivers" });
  const kind = el("input", { id: "task-kind", maxlength: 100, pattern: "[A-Za-z0-9._:/@\\-]+", autocomplete: "off", placeholder: "task" });
  const runs = el("select", { id: "task-runs" }, SAMPLES.map((count) => el("option", { value: count }, sample(count))));
  const fault = el("p", { class: "fault", role: "alert", hidden: true });
  const leave = el("button", { type: "button", class: "quiet" }, "Never mind");
  const make = el("button", {}, "Make the task");
  const form = el(
    "form",
    {},
    el("h2", { id: "new-task-title" }, "New task"),
    el("div", { class: "field" }, el("label", { for: "task-title" }, "Title"), title),
    el(
      "div",
      { class: "field" },
      el("label", { for: "task-kind" }, "Kind"),
      kind,
      el("p", { class: "hint" }, "A name to find its like by: letters, digits and . _ : / @ -"),
    ),
    el(
      "div",
      { class: "field" },
      el("label", { for: "task-runs" }, "Work"),
      runs,
      el("p", { class: "hint" }, "Sample runs ask no model; the task follows them to its end."),
    ),
    el("div", { class: "field" }, fault),
    el("div", { class: "actions" }, leave, make),
  );
  const dialog = el("dialog", { class: "dialog", "aria-labelledby": "new-task-title" }, form);
  leave.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  form.addEventListener("submit", async (submit) => {
    submit.preventDefault();
    make.disabled = true;
    try {
      const task = await created(title.value, kind.value.trim() || "task", Number(runs.value), key);
      dialog.close();
      goTo(`/tasks/${task.id}`);
    } catch (error) {
      setText(fault, /** @type {Error} */ (error).message);
      setShown(fault, true);
      make.disabled = false;
    }
  });
  document.body.append(dialog);
  dialog.showModal();
}

/** @param {number} count */
function sample(count) {
  return count === 0 ? "None: it is moved by the API" : count === 1 ? "One sample run" : `${count} sample runs, one after another`;
}

/** @param {string} title @param {string} kind @param {number} count @param {string} key */
async function created(title, kind, count, key) {
  const task = await request("/api/v1/tasks", { json: { title, kind }, idempotencyKey: key });
  if (count > 0) {
    const json = { task: title, task_id: task.id, runner: "sample", count, stagger_ms: 1_500 };
    await request("/api/v1/runs/batch", { json, idempotencyKey: `${key}-runs` });
  }
  return task;
}
