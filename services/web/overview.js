// One domain at a glance: how many go on, and the newest few.

import { badge, setBadge } from "/web/shared/badge.js";
import { el, onChange, reconcile, setAttributes, setShown, setText } from "/web/shared/dom.js";
import { number, words } from "/web/shared/format.js";
import { icon } from "/web/shared/icons.js";
import { emptyState, waitingState } from "/web/shared/states.js";
import { isAfter, LiveResource, request } from "/web/shared/stream.js";
import { ago, setAgo } from "/web/shared/time.js";

/** @typedef {import("/web/start/domains.js").Domain} Domain */
/** @typedef {import("/web/start/domains.js").Item} Item */
/** @typedef {Map<string, Item>} Items */

const NEWEST = 5;
const KEPT = 100; // of those that have ended; what goes on is kept whole
const COUNTED = 500; // of each status that goes on; where there are more, the count says so
const AGAIN_MILLISECONDS = 1_000;

export class Overview {
  #isKnown = false;
  #isMore = false;
  #reload = 0;
  #paint = onChange(() => this.#show());
  #count = el("b", {});
  #what = el("span", {});
  #list = el("ol", { class: "newest" });
  #state = el("div", {});

  /** @param {Domain} domain @param {import("/web/shared/chip.js").ConnectionChip} connection */
  constructor(domain, connection) {
    this.domain = domain;
    const { name, path, sign } = domain;
    const id = `${name.toLowerCase()}-title`;
    this.element = el(
      "section",
      { class: "panel domain", id: name.toLowerCase(), "aria-labelledby": id },
      el(
        "div",
        { class: "panel-head" },
        icon(sign),
        el("h2", { id }, el("a", { href: path }, name)),
        el("span", { class: "dim small" }, el("a", { href: path }, "All", el("span", { class: "unseen" }, ` ${name.toLowerCase()}`))),
      ),
      el("p", { class: "meter" }, this.#count, this.#what),
      this.#list,
      this.#state,
    );
    this.resource = new LiveResource({
      url: `${domain.base}?limit=${KEPT}`,
      streamUrl: `${domain.base}/stream`,
      initial: new Map(),
      readState: (body) => this.#read(body),
      applyEvent: (items, event, frame) => this.#apply(items, event, frame),
      onChange: () => this.#paint(),
      onStatus: (status) => {
        this.#line.set(status);
        this.#paint();
      },
    });
    this.#line = connection.track(name, this.resource);
  }

  /** @type {import("/web/shared/chip.js").Line} */
  #line;

  start() {
    this.resource.start();
  }

  /** @param {any} body @returns {Items} */
  #read(body) {
    this.#isKnown = true;
    const items = new Map();
    for (const row of body.data) this.#put(items, row);
    if (body.next_cursor !== null) queueMicrotask(() => this.#loadActive(items));
    return items;
  }

  /** @param {Items} items @param {any} row */
  #put(items, row) {
    const item = this.domain.itemOf(row);
    const known = items.get(item.id);
    if (!known || isAfter(item.last_position, known.last_position)) items.set(item.id, item);
  }

  /** What goes on and is older than the list reaches. @param {Items} items */
  async #loadActive(items) {
    const pages = this.domain.active.map((status) =>
      request(`${this.domain.base}?status=${status}&limit=${COUNTED}`).catch(() => ({ data: [], next_cursor: "" })),
    );
    for (const { data, next_cursor } of await Promise.all(pages)) {
      for (const row of data) this.#put(items, row);
      this.#isMore ||= next_cursor !== null;
    }
    this.#paint();
  }

  /** @param {Items} items @param {any} event @param {{id: string}} frame */
  #apply(items, event, frame) {
    const id = this.domain.idOf(event);
    if (id === undefined) return;
    const known = items.get(id);
    if (known && !isAfter(frame.id, known.last_position)) return;
    const item = this.domain.apply(known, event);
    if (item === undefined) this.#readSoon();
    else if (item === null) items.delete(id);
    else items.set(id, { ...item, last_position: frame.id });
    if (items.size > COUNTED * 2) this.#forget(items);
  }

  /** Read the list anew, at most once a second. */
  #readSoon() {
    this.#reload ||= setTimeout(() => {
      this.#reload = 0;
      this.resource.refresh();
    }, AGAIN_MILLISECONDS);
  }

  /** @param {Items} items */
  #forget(items) {
    const over = [...items.values()].filter((item) => !this.domain.active.includes(item.status));
    for (const { id } of over.sort(byAge).slice(KEPT)) items.delete(id);
  }

  // ── painting ─────────────────────────────────────────────────────────────────────────────────────────────────

  #show() {
    const items = [...this.resource.state.values()].sort(byAge);
    const goesOn = (/** @type {Item} */ item) => this.domain.active.includes(item.status);
    // what goes on first, but in one order: nothing trades places
    const few = [...items.filter(goesOn), ...items.filter((item) => !goesOn(item))].slice(0, NEWEST).sort(byAge);
    reconcile(this.#list, few, { key: (item) => item.id, make: makeItem, update: updateItem });
    this.#showCount(items);
    const { status } = this.resource;
    const name = this.#isKnown ? (items.length ? "" : "nothing") : status.phase;
    if (this.#state.dataset.shown === name) return;
    this.#state.dataset.shown = name;
    const state = name === "" ? null : this.#isKnown ? emptyState({ title: "None yet", text: this.domain.nothing }) : waitingState(status, `the ${this.domain.one}s`);
    this.#state.replaceChildren(...(state ? [state] : []));
  }

  /** @param {Item[]} items */
  #showCount(items) {
    const { active } = this.domain;
    const [most, ...others] = active;
    const of = (/** @type {string} */ status) => items.filter((item) => item.status === status).length;
    setShown(/** @type {HTMLElement} */ (this.#count.parentElement), this.#isKnown);
    setText(this.#count, `${number(of(most))}${this.#isMore ? "+" : ""}`);
    const rest = others.map((status) => [of(status), words(status)]).filter(([count]) => count);
    setText(this.#what, [words(most), ...rest.map(([count, status]) => `${number(Number(count))} ${status}`)].join(" · "));
  }
}

/** @param {Item} one @param {Item} other */
const byAge = (one, other) => (one.id < other.id ? 1 : -1);

/** @param {Item} item */
function makeItem(item) {
  return el(
    "li",
    {},
    el(
      "a",
      { class: "row item", href: item.href },
      badge(item.status),
      ago(item.at, "ago dim small nums"),
      el("span", { class: "row-title cut" }),
      el("span", { class: "dim small cut" }),
    ),
  );
}

/** @param {HTMLElement} node @param {Item} item */
function updateItem(node, item) {
  const [status, time, title, note] = /** @type {any} */ (node.firstElementChild?.children);
  setBadge(status, item.status);
  setAgo(time, item.at);
  setText(title, item.title);
  setText(note, item.note);
  setAttributes(title, { title: item.title });
}
