// Signing in: a field for a token where the server wants one, or tokens of the host application's.
//
//   setUpSignIn(config)   from /config.json; `startPage` calls it. Returns the button for the page's top, or null
//
// The field's token is kept for the tab. With `token_url` the page GETs that, with cookies, and expects
// {"token": "…"}: at first, when a token was refused, and when one is about to expire. stream.js's `setTokenSource` is
// the way for those who use our modules in a page of their own. A token is never in a URL.

import { toast } from "./announce.js";
import { credentials, setTokenSource, signIn, signOut, useTabToken } from "./credentials.js";
import { el, setShown, setText } from "./dom.js";
import { full } from "./format.js";
import { icon } from "./icons.js";

/** @typedef {{auth: string, token_url: string | null, websockets: boolean, preview_domain: string, version: string}} Config */

const EARLY_MILLISECONDS = 60_000; // before a token expires, for the request that gets the next
const LONGEST_TIMER = 2 ** 31 - 1;

/** @param {Config} config @returns {HTMLElement | null} */
export function setUpSignIn(config) {
  const host = config.token_url ? new HostTokens(config.token_url) : null;
  if (host) host.start();
  else if (config.auth !== "off") useTabToken();
  const panel = new SignInPanel(host);
  const account = new Account(panel);
  const show = () => {
    panel.show(credentials.state === "signed_out");
    account.show();
  };
  credentials.onChange(show);
  show();
  return account.element;
}

/** Tokens from the application that this one belongs to. */
class HostTokens {
  /** @type {string | null} */
  #newest = null;
  #timer = 0;

  /** @param {string} url */
  constructor(url) {
    this.url = url;
  }

  start() {
    this.askAgain();
    credentials.onChange(() => this.#plan());
  }

  /** As if nothing had been asked yet; what is signed out goes on with the answer. */
  askAgain() {
    setTokenSource(({ stale }) => this.#give(stale));
  }

  /** @param {string | null} stale */
  async #give(stale) {
    if (this.#newest === null || this.#newest === stale) this.#newest = await this.#ask();
    return this.#newest;
  }

  async #ask() {
    try {
      const answer = await fetch(this.url, { credentials: "include", cache: "no-store" });
      const { token } = await answer.json();
      return answer.ok && typeof token === "string" ? token : null;
    } catch {
      return null; // the panel says so, and offers another try
    }
  }

  #plan() {
    clearTimeout(this.#timer);
    const expires = claimsOf(credentials.token)?.exp;
    if (typeof expires !== "number") return;
    const wait = expires * 1_000 - EARLY_MILLISECONDS - Date.now();
    this.#timer = setTimeout(() => this.#renew(), Math.min(Math.max(wait, 1_000), LONGEST_TIMER));
  }

  /** Another token before this one ends. Should there be none yet, this one goes on to its end. */
  async #renew() {
    const old = credentials.token;
    if (old === null) return;
    const token = await this.#ask();
    if (token !== null && token !== old) {
      this.#newest = token;
      await credentials.renew(old);
    } else if (claimsOf(old)?.exp * 1_000 - Date.now() > 5_000) {
      this.#timer = setTimeout(() => this.#renew(), 5_000);
    }
  }
}

/** Asks for a token as long as the server wants one; everything goes on by itself afterwards. */
class SignInPanel {
  /** @type {string | null} */
  #tried = null;
  #field = el("input", {
    id: "token",
    type: "password",
    autocomplete: "off",
    spellcheck: "false",
    required: true,
    "aria-describedby": "token-fault token-hint",
  });
  #fault = el("p", { class: "fault", id: "token-fault", role: "alert", hidden: true });
  #dialog;

  /** @param {HostTokens | null} host */
  constructor(host) {
    const why = host
      ? "The application that this page belongs to gave no token that is taken here. You may try again, or give one."
      : "This Tailrace asks who you are. Give it a token; it is kept for this tab alone, and forgotten with it.";
    const again = host && el("button", { type: "button", class: "quiet", onclick: () => host.askAgain() }, "Try again");
    const form = el(
      "form",
      { onsubmit: (/** @type {Event} */ event) => this.#submit(event) },
      el("h2", { id: "sign-in-title" }, "Sign in"),
      el("p", {}, why),
      el(
        "div",
        { class: "field" },
        el("label", { for: "token" }, "Token"),
        this.#field,
        this.#fault,
        el("p", { class: "hint", id: "token-hint" }, "A JSON Web Token, as your operator or tailrace token gives it."),
      ),
      el("div", { class: "actions" }, again, el("button", {}, "Sign in")),
    );
    this.#dialog = el("dialog", { class: "dialog", id: "sign-in", "aria-labelledby": "sign-in-title" }, form);
    document.body.append(this.#dialog);
  }

  /** @param {boolean} isWanted */
  show(isWanted) {
    if (!isWanted) {
      this.#dialog.close();
      return;
    }
    this.#complain(this.#tried === null ? "" : "That token was not taken.");
    if (!this.#dialog.open) this.#dialog.showModal();
  }

  /** @param {Event} event */
  #submit(event) {
    event.preventDefault();
    const token = this.#field.value.trim();
    const expires = claimsOf(token)?.exp;
    if (!/^[\x21-\x7e]+$/.test(token)) this.#complain("That is no token: there are characters in it that none has.");
    else if (typeof expires === "number" && expires * 1_000 < Date.now()) {
      this.#complain(`That token has expired: ${full(expires * 1_000)}.`);
    } else {
      this.#tried = token;
      this.#field.value = "";
      this.#complain("");
      signIn(token);
    }
  }

  /** @param {string} text */
  #complain(text) {
    setText(this.#fault, text);
    setShown(this.#fault, text !== "");
    this.#field.setAttribute("aria-invalid", String(text !== ""));
  }
}

/** Who is signed in, and the way out. */
class Account {
  #who = el("p", { class: "wrap" });
  #until = el("p", { class: "dim small" });

  /** @param {SignInPanel} panel */
  constructor(panel) {
    const id = "account";
    const out = el("button", { type: "button", class: "quiet", onclick: () => this.#leave() }, "Sign out");
    this.popover = el("div", { id, class: "popover", popover: true }, el("h2", {}, "Signed in"), this.#who, this.#until, out);
    this.signIn = el("button", { type: "button", onclick: () => panel.show(true) }, "Sign in");
    this.button = el(
      "button",
      { type: "button", class: "plain", popovertarget: id, "aria-label": "Your account" },
      icon("person"),
    );
    this.element = el("div", { class: "account" }, this.signIn, this.button, this.popover);
  }

  show() {
    const claims = claimsOf(credentials.token);
    setShown(this.element, credentials.state !== "off");
    setShown(this.signIn, credentials.state === "signed_out");
    setShown(this.button, credentials.state === "signed_in");
    setText(this.#who, [claims?.sub, claims?.tenant].filter(Boolean).join(" · ") || "With a token that says no name.");
    setText(this.#until, typeof claims?.exp === "number" ? `Until ${full(claims.exp * 1_000)}` : "");
  }

  #leave() {
    this.popover.hidePopover();
    signOut();
    toast("You are signed out, and the token is forgotten.");
  }
}

/** What a token says of itself; null for what cannot be read. Nobody trusts it: the server decides. @param {string | null} token @returns {any} */
export function claimsOf(token) {
  try {
    const part = (token ?? "").split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(part), (letter) => letter.charCodeAt(0))));
  } catch {
    return null;
  }
}
