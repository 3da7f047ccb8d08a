// The launch form: a prompt, who runs it, how many at once.

import { announce } from "/web/shared/announce.js";
import { byId, setAttributes, setShown, setText } from "/web/shared/dom.js";
import { plural } from "/web/shared/format.js";
import { request } from "/web/shared/stream.js";

import { newKey } from "./actions.js";
import { faults, launchOf } from "./launch.js";

/** @typedef {import("./card.js").Run} Run */
/** @typedef {import("./launch.js").Wish} Wish */

/** The form's fields, by the fault that each may have. */
const FIELDS = Object.freeze({
  task: "task",
  ownRunner: "own-runner",
  count: "count",
  staggerMs: "stagger",
  workers: "workers",
  params: "params",
});

export class LaunchView {
  #form = /** @type {HTMLFormElement} */ (byId("launch"));
  #button = /** @type {HTMLButtonElement} */ (byId("go"));
  #problem = byId("launch-problem");

  /** @param {(runs: Run[]) => void} onLaunched */
  constructor(onLaunched) {
    this.onLaunched = onLaunched;
    this.#form.addEventListener("submit", (event) => this.#submit(event));
    this.#form.addEventListener("input", () => this.#show());
    this.#form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.#submit(event);
    });
    for (const button of /** @type {NodeListOf<HTMLButtonElement>} */ (this.#form.querySelectorAll("[data-count]"))) {
      button.addEventListener("click", () => this.#setCount(Number(button.dataset.count)));
    }
    this.#show();
  }

  /** Which runners can work here; without an answer all can be chosen, and the server says no. */
  async showRunners() {
    const { data } = await request("/api/v1/runs/runners");
    const select = this.#field("runner");
    for (const { name, missing } of data) {
      const option = /** @type {HTMLOptionElement | null} */ (select.querySelector(`option[value="${CSS.escape(name)}"]`));
      if (!option || missing === null) continue;
      option.disabled = true;
      setText(option, `${name} (not set up)`);
      setText(byId("runner-hint"), `${name} is not set up here: ${missing}.`);
      setShown(byId("runner-hint"), true);
    }
  }

  /** @param {number} count */
  #setCount(count) {
    this.#field("count").value = String(count);
    this.#show();
  }

  /** @returns {Wish} */
  get #wish() {
    const value = (/** @type {string} */ id) => this.#field(id).value;
    return {
      task: value("task"),
      runner: value("runner"),
      ownRunner: value("own-runner"),
      count: numberOf(value("count")),
      staggerMs: numberOf(value("stagger")),
      workers: numberOf(value("workers")),
      sessionId: value("session"),
      taskId: value("for-task"),
      params: value("params"),
    };
  }

  #show() {
    const wish = this.#wish;
    setText(this.#button.lastElementChild ?? this.#button, wish.count > 1 ? `Launch ${plural(wish.count, "run")}` : "Launch");
    setShown(byId("stagger-field"), wish.count > 1);
    setShown(byId("own-runner-field"), wish.runner === "other");
    for (const button of this.#form.querySelectorAll("[data-count]")) {
      setAttributes(button, { "aria-pressed": String(Number(/** @type {HTMLElement} */ (button).dataset.count) === wish.count) });
    }
    if (this.#form.querySelector("[aria-invalid]")) this.#complain(faults(wish));
  }

  /** @param {Event} event */
  async #submit(event) {
    event.preventDefault();
    if (this.#button.disabled) return;
    const wish = this.#wish;
    const found = faults(wish);
    this.#complain(found);
    const [first] = Object.keys(found);
    if (first) {
      this.#open(this.#field(FIELDS[/** @type {keyof typeof FIELDS} */ (first)])).focus();
      return;
    }
    await this.#launch(wish);
  }

  /** @param {Wish} wish */
  async #launch(wish) {
    const { url, json } = launchOf(wish);
    this.#button.disabled = true;
    try {
      const answer = await request(url, { json, idempotencyKey: newKey() });
      const runs = answer.data ?? [answer];
      this.#refuse("");
      this.onLaunched(runs);
      announce(`${plural(runs.length, "run")} launched.`);
    } catch (error) {
      this.#refuse(`Nothing was launched: ${/** @type {Error} */ (error).message}`);
    }
    this.#button.disabled = false;
  }

  /** @param {string} why */
  #refuse(why) {
    setText(this.#problem, why);
    setShown(this.#problem, why !== "");
  }

  /** @param {Record<string, string>} found */
  #complain(found) {
    for (const [name, id] of Object.entries(FIELDS)) {
      const fault = byId(`${id}-fault`);
      setText(fault, found[name] ?? "");
      setShown(fault, name in found);
      setAttributes(this.#field(id), { "aria-invalid": name in found && "true" });
    }
  }

  /** Out of a part of the form that is closed. @param {HTMLElement} field */
  #open(field) {
    const more = field.closest("details");
    if (more) more.open = true;
    return field;
  }

  /** @param {string} id @returns {HTMLInputElement} */
  #field(id) {
    return /** @type {HTMLInputElement} */ (byId(id));
  }
}

/** @param {string} text */
function numberOf(text) {
  return text.trim() === "" ? NaN : Number(text);
}
