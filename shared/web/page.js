// What every page begins with: the connection chip, light and dark, and signing in.
//
//   const { config, connection } = await startPage()
//
// `config` is /config.json; `connection.track(name, resource)` adds to the chip what the page follows (chip.js).
// Follow nothing before it has resolved: tokens are known only then.

import { ConnectionChip } from "./chip.js";
import { byId, el, setAttributes } from "./dom.js";
import { icon } from "./icons.js";
import { setUpSignIn } from "./signin.js";

/** @typedef {import("./signin.js").Config} Config */

const THEMES = /** @type {const} */ (["auto", "light", "dark"]);
const PICTURES = Object.freeze({ auto: "auto", light: "sun", dark: "moon" });
const AGAIN_MILLISECONDS = 2_000;

/** @returns {Promise<{config: Config, connection: ConnectionChip}>} */
export async function startPage() {
  hasBegun();
  const connection = new ConnectionChip();
  const end = byId("top-end");
  end.append(connection.element, connection.popover, themeButton());
  const config = await configOf();
  const account = setUpSignIn(config);
  if (account) end.append(account);
  return { config, connection };
}

/** @returns {Promise<Config>} */
async function configOf() {
  for (;;) {
    try {
      const answer = await fetch("/config.json");
      if (answer.ok) return await answer.json();
    } catch {
      // the service went away just after it had served the page
    }
    await new Promise((resolve) => setTimeout(resolve, AGAIN_MILLISECONDS));
  }
}

/** All modules are here: `early.js` may forget how often it tried. */
function hasBegun() {
  try {
    sessionStorage.removeItem("tailrace.tries");
  } catch {
    // then it has kept nothing either
  }
}

/** Goes through what the system says, light, and dark. `early.js` reads the choice before anything is painted. */
function themeButton() {
  const button = el("button", { type: "button", class: "plain", id: "theme" });
  const show = () => {
    const now = chosenTheme();
    const label = { auto: "Light or dark: as the system", light: "Light", dark: "Dark" }[now];
    setAttributes(button, { "aria-label": `${label}. Change it`, title: label });
    button.replaceChildren(icon(PICTURES[now]));
  };
  button.addEventListener("click", () => {
    choose(THEMES[(THEMES.indexOf(chosenTheme()) + 1) % THEMES.length]);
    show();
  });
  show();
  return button;
}

/** @returns {typeof THEMES[number]} */
function chosenTheme() {
  const { theme } = document.documentElement.dataset;
  return theme === "light" || theme === "dark" ? theme : "auto";
}

/** @param {typeof THEMES[number]} theme */
function choose(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  try {
    if (theme === "auto") localStorage.removeItem("tailrace.theme");
    else localStorage.setItem("tailrace.theme", theme);
  } catch {
    // it holds for this page at least
  }
}
