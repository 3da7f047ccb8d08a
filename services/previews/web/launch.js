// The form that launches a program: a starter, its files, and how it is run.

import { confirmed } from "/web/shared/dialog.js";
import { el, setAttributes, setShown, setText } from "/web/shared/dom.js";
import { icon } from "/web/shared/icons.js";
import { launch, pageUrl } from "./api.js";
import { Editor } from "./editor.js";
import { STARTERS, argumentsOf, environmentOf, lineOf, newName } from "./starters.js";

/** @typedef {import("./starters.js").Starter} Starter */

const KINDS = /** @type {const} */ ([
  ["asgi", "ASGI application"],
  ["wsgi", "WSGI application"],
  ["static", "Static files"],
  ["node", "Node.js program"],
  ["command", "Command"],
]);
/** @type {Readonly<Record<string, [string, string]>>} */
const ENTRIES = Object.freeze({
  asgi: ["main:app", "The module and the application in it."],
  wsgi: ["main:app", "The module and the application in it."],
  static: ["", "The directory that is served; empty for all."],
  node: ["server.js", "The file that node runs."],
});
const TIMES = /** @type {const} */ ([["", "as long as allowed"], ["900", "15 minutes"], ["3600", "1 hour"], ["14400", "4 hours"]]);

export class LaunchForm {
  /** @param {string} [generation] the name to begin with */
  constructor(generation = "") {
    this.editor = new Editor(() => {});
    this.name = el("input", { id: "generation", required: true, maxlength: 200, autocomplete: "off", spellcheck: "false" });
    this.kind = el("select", { id: "kind", onchange: () => this.fit() }, KINDS.map(([value, name]) => el("option", { value }, name)));
    this.entry = el("input", { id: "entry", autocomplete: "off", spellcheck: "false", class: "mono" });
    this.entryHint = el("p", { class: "hint" });
    this.entryLabel = el("label", { for: "entry" }, "Entry");
    this.env = el("textarea", { id: "env", rows: 3, spellcheck: "false", class: "mono", placeholder: "NAME=value" });
    this.ttl = el("select", { id: "ttl" }, TIMES.map(([value, name]) => el("option", { value }, name)));
    this.health = el("input", { id: "health", value: "/health", autocomplete: "off", spellcheck: "false", class: "mono" });
    this.network = el("input", { id: "network", type: "checkbox" });
    this.problem = el("p", { class: "notice", "data-tone": "bad", role: "alert" });
    this.button = el("button", { type: "submit", class: "launch" }, icon("play"), "Launch");
    this.cards = el("div", { class: "starters", role: "radiogroup", "aria-label": "Starter" }, STARTERS.map((starter) => this.card(starter)));
    this.element = this.build();
    this.isNamed = Boolean(generation);
    this.name.value = generation;
    this.name.addEventListener("input", () => (this.isNamed = this.name.value !== ""));
    this.begin(STARTERS[0]);
    this.complain("");
  }

  build() {
    const field = (/** @type {string} */ id, /** @type {string} */ label, /** @type {Node} */ input, hint = "") =>
      el("div", { class: "field" }, el("label", { for: id }, label), input, hint && el("p", { class: "hint" }, hint));
    const form = el(
      "form",
      { class: "panel launch-form", "aria-labelledby": "launch-title", novalidate: true },
      el("div", { class: "panel-head" }, el("h2", { id: "launch-title" }, "Launch a program"), this.button),
      el(
        "div",
        { class: "panel-body stack" },
        this.problem,
        this.cards,
        this.editor.element,
        el(
          "div",
          { class: "recipe" },
          field("generation", "Name", this.name, "Its generation: one preview of each can be active."),
          field("kind", "Kind", this.kind),
          el("div", { class: "field" }, this.entryLabel, this.entry, this.entryHint),
          field("ttl", "Ends after", this.ttl),
        ),
        el(
          "details",
          { class: "more-options" },
          el("summary", {}, "Environment, health, network"),
          el(
            "div",
            { class: "recipe" },
            field("env", "Environment", this.env, "One NAME=value a line, beside a clean environment."),
            field("health", "Health path", this.health, "It is ready when this is answered, below 500."),
            el("label", { class: "check" }, this.network, "Let it use the machine's network"),
          ),
        ),
      ),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    return form;
  }

  /** @param {Starter} starter */
  card(starter) {
    const input = el("input", { type: "radio", name: "starter", value: starter.id, class: "unseen", onchange: () => this.choose(starter) });
    return el("label", { class: "starter" }, input, el("b", {}, starter.name), el("code", { class: "small" }, starter.kind), el("span", { class: "small" }, starter.about));
  }

  /** What was edited is not thrown away without a question. @param {Starter} starter */
  async choose(starter) {
    const isSure =
      !this.editor.draft.hasChanges ||
      (await confirmed({ title: "Begin with another starter?", text: "What you have changed in the files is lost.", action: "Begin anew", stay: "Keep my files" }));
    this.begin(isSure ? starter : this.starter);
  }

  /** @param {Starter | undefined} starter */
  begin(starter) {
    if (!starter) return;
    const isOther = this.starter !== starter;
    this.starter = starter;
    const input = /** @type {HTMLInputElement} */ (this.cards.querySelector(`[value="${starter.id}"]`));
    input.checked = true;
    if (!isOther) return;
    this.editor.load(starter.files);
    this.kind.value = starter.kind;
    this.entry.value = starter.command ? lineOf(starter.command) : starter.entry;
    this.env.value = Object.entries(starter.env).map(([name, value]) => `${name}=${value}`).join("\n");
    if (!this.isNamed) this.name.value = newName(starter.id);
    this.fit();
  }

  fit() {
    const isCommand = this.kind.value === "command";
    const [example, hint] = ENTRIES[this.kind.value] ?? ["python main.py", "The program and its arguments; no shell reads it."];
    setText(this.entryLabel, isCommand ? "Command" : "Entry");
    setText(this.entryHint, hint);
    setAttributes(this.entry, { placeholder: example });
  }

  recipe() {
    const kind = this.kind.value;
    const ttl = this.ttl.value ? { ttl_seconds: Number(this.ttl.value) } : {};
    const how = kind === "command" ? { command: argumentsOf(this.entry.value) } : { entry: this.entry.value.trim() };
    return {
      files: this.editor.draft.files,
      kind,
      ...how,
      ...ttl,
      env: environmentOf(this.env.value),
      health: { path: this.health.value.trim() || "/health" },
      network: this.network.checked,
    };
  }

  async submit() {
    const generation = this.name.value.trim();
    if (!generation) {
      this.complain("Give it a name.");
      this.name.focus();
      return;
    }
    this.button.disabled = true;
    this.complain("");
    try {
      const launched = await launchOrReplace(generation, this.recipe());
      if (launched) location.assign(pageUrl(generation));
    } catch (error) {
      this.complain(error instanceof Error ? error.message : String(error));
    } finally {
      this.button.disabled = false;
    }
  }

  /** @param {string} why */
  complain(why) {
    setText(this.problem, why && `It was not launched: ${why}`);
    setShown(this.problem, Boolean(why));
  }
}

/**
 * @param {string} generation
 * @param {unknown} recipe
 * @returns {Promise<boolean>} false: there is an active one, and it is to stay
 */
export async function launchOrReplace(generation, recipe) {
  try {
    await launch(generation, recipe);
    return true;
  } catch (error) {
    const { status, problem } = /** @type {{ status?: number, problem?: Record<string, unknown> }} */ (error);
    if (status !== 409 || !problem?.preview_status) throw error;
    const isSure = await confirmed({
      title: `Replace “${generation}”?`,
      text: `It is ${problem.preview_status} now. Its program is stopped, and yours takes its place under the same name. Whoever watches it sees it end.`,
      action: "Stop it and launch mine",
      stay: "Leave it running",
    });
    if (!isSure) return false;
    await launch(generation, recipe, { replace: true });
    return true;
  }
}
