// How well the services are: what each says under /ready, asked every few seconds while somebody looks.

import { announce } from "/web/shared/announce.js";
import { badge, setBadge } from "/web/shared/badge.js";
import { el, reconcile, setShown, setText } from "/web/shared/dom.js";
import { words } from "/web/shared/format.js";

const SERVICES = ["tasks", "runs", "previews"];
const EVERY_MILLISECONDS = 10_000;

/** @typedef {{service: string, isWell: boolean, checks: Map<string, string>}} Report */

export class Health {
  #list = el("ul", { class: "health" });
  #all = badge("pending");
  /** @type {boolean | null} */
  #wasWell = null;

  /** @param {HTMLElement} element @param {HTMLElement} summary */
  constructor(element, summary) {
    element.append(this.#list);
    summary.append(this.#all);
    setShown(this.#all, false);
  }

  async start() {
    for (;;) {
      if (document.visibilityState === "visible") this.#show(await Promise.all(SERVICES.map(ask)));
      await new Promise((resolve) => setTimeout(resolve, EVERY_MILLISECONDS));
    }
  }

  /** @param {Report[]} reports */
  #show(reports) {
    const isWell = reports.every((report) => report.isWell);
    setBadge(this.#all, isWell ? "ready" : "not_ready");
    setShown(this.#all, true);
    if (this.#wasWell !== null && this.#wasWell !== isWell) announce(isWell ? "All services are ready." : "A service is not ready.");
    this.#wasWell = isWell;
    reconcile(this.#list, reports, {
      key: (report) => report.service,
      make: (report) => el("li", {}, el("span", { class: "dot" }), el("b", {}, words(report.service)), el("p", { class: "dim small" })),
      update: (node, report) => {
        node.dataset.tone = report.isWell ? "good" : "bad";
        setText(node.children[2], inWords(report));
      },
    });
  }
}

/** @param {string} service @returns {Promise<Report>} */
async function ask(service) {
  try {
    const answer = await fetch(`/api/v1/${service}/ready`, { cache: "no-store" });
    const { checks } = await answer.json();
    /** @type {[string, string][]} */
    const all = Object.entries(checks ?? {});
    // one process may have all three, and then each tells of all
    const own = all.filter(([name]) => name.startsWith(`${service}.`) || !name.includes("."));
    const found = new Map(own.map(([name, state]) => [name.replace(`${service}.`, ""), state]));
    return { service, isWell: own.every(([, state]) => isOk(state)) && (answer.ok || all.length > 0), checks: found };
  } catch {
    return { service, isWell: false, checks: new Map([["answer", "none"]]) };
  }
}

/** @param {string} state */
const isOk = (state) => state === "ok" || state.startsWith("ok:");

/** @param {Report} report */
function inWords({ isWell, checks }) {
  const entries = [...checks];
  const told = isWell ? entries.filter(([, state]) => state !== "ok") : entries.filter(([, state]) => !isOk(state));
  const rest = entries.filter(([, state]) => state === "ok").map(([name]) => words(name));
  const said = told.map(([name, state]) => `${words(name)}: ${state.replace(/^ok: /, "")}`);
  return isWell ? [`Well: ${rest.join(", ")}`, ...said].join(" · ") : said.join(" · ");
}
