// The page of previews: all of them and a form that launches one; or one preview, as the address says.

import { el, setShown, setText } from "/web/shared/dom.js";
import { startPage } from "/web/shared/page.js";
import { LaunchForm } from "./launch.js";
import { List } from "./list.js";
import { ISOLATION } from "./words.js";
import { Workspace } from "./workspace.js";

const { connection } = await startPage();
const place = /** @type {HTMLElement} */ (document.getElementById("previews"));
const [, , generation] = location.pathname.split("/");
if (generation) showOne(decodeURIComponent(generation));
else showAll();

/** @param {string} name */
function showOne(name) {
  document.title = `${name} · Previews · Tailrace`;
  document.body.classList.add("wide");
  place.replaceChildren(new Workspace(name, connection).element);
}

function showAll() {
  const form = new LaunchForm(new URLSearchParams(location.search).get("generation") ?? "");
  const isolation = el("p", { class: "notice isolation-warning" });
  setShown(isolation, false);
  const list = new List(connection);
  place.append(isolation, el("div", { class: "index" }, form.element, list.element));
  tellIsolation(isolation);
}

/**
 * How far programs are kept apart here is worth knowing before one is launched.
 * @param {HTMLElement} note
 */
async function tellIsolation(note) {
  const answer = await fetch("/api/v1/previews/ready").catch(() => null);
  const checks = (await answer?.json().catch(() => null))?.checks ?? {};
  const found = Object.entries(checks).find(([name]) => name.endsWith("isolation"))?.[1] ?? "";
  const isWeak = String(found).startsWith("ok: process");
  setText(note, isWeak ? `No isolation here. ${ISOLATION.process} Launch only what you trust.` : "");
  note.dataset.tone = "warn";
  setShown(note, isWeak);
}
