// Dialogs on top of the page, by the browser's own <dialog>: focus stays inside, Escape closes, focus goes back.
//
//   confirmed({title, text, action, tone})   asks; resolves to true if the action was chosen
//   openDialog({title, body, actions})       a dialog of one's own; resolves to the value of the button that closed it

import { el } from "./dom.js";

let count = 0;

/**
 * @param {{title: string, text?: string, action: string, tone?: "bad" | "busy", stay?: string}} question
 * @returns {Promise<boolean>}
 */
export async function confirmed({ title, text = "", action, tone = "bad", stay = "Keep it" }) {
  const actions = [
    el("button", { class: "quiet", value: "stay" }, stay),
    el("button", { value: "go", "data-tone": tone }, action),
  ];
  return (await openDialog({ title, body: text ? el("p", {}, text) : null, actions })) === "go";
}

/**
 * @param {{title: string, body?: Node | null, actions: HTMLElement[], className?: string}} content
 * @returns {Promise<string>}
 */
export function openDialog({ title, body = null, actions, className = "" }) {
  const id = `dialog-${++count}`;
  const form = el(
    "form",
    { method: "dialog" },
    el("h2", { id }, title),
    body,
    el("div", { class: "actions" }, actions),
  );
  const dialog = el("dialog", { class: `dialog ${className}`.trim(), "aria-labelledby": id }, form);
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue);
    });
  });
}
