// Copying text.
//
//   copyButton(text, label, words)   a button that copies what `text()` returns; `label` is for those who hear it,
//                                    `words` stand beside the picture if given

import { toast } from "./announce.js";
import { el } from "./dom.js";
import { icon } from "./icons.js";

/** @param {() => string} text @param {string} label @param {string} [words] */
export function copyButton(text, label, words = "") {
  const button = el("button", { type: "button", class: words ? "quiet" : "plain", "aria-label": label, title: label });
  button.append(icon("copy"), words);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text());
      toast("Copied.");
    } catch {
      toast("This browser does not let the page copy: select the text instead.", { tone: "bad" });
    }
  });
  return button;
}
