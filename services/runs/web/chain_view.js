// The event chain in the page. However long it is, only the rows near what is in sight are in the document: rows stand
// in blocks, and a block that is far away is empty and as high as it was.

import { el, reconcile, setAttributes, setShown, setText } from "/web/shared/dom.js";
import { number, plural } from "/web/shared/format.js";

import { RowView } from "./row_view.js";

const BLOCK = 25; // filling one and laying it out takes less than a frame
const ROW_PIXELS = 30; // what a row is thought to measure until it has been seen
const AHEAD = "800px 0px";

/** @typedef {import("./chain.js").Chain} Chain */
/** @typedef {import("./chain.js").Group} Group */
/** @typedef {import("./chain.js").Row} Row */
/** @typedef {import("./chain.js").Frame} Frame */

export class ChainView {
  element = el("div", { class: "chain" });
  /** @type {Map<Group, GroupView>} */
  #groups = new Map();
  /** @type {WeakMap<Element, BlockView>} */
  #blocks = new WeakMap();
  /** @type {Set<BlockView>} near, and not filled yet */
  #toFill = new Set();
  #isFilling = false;
  /** @type {IntersectionObserver} */
  #observer;

  /**
   * @param {Chain} chain
   * @param {Element | null} scroller what the chain scrolls in; null: the page
   * @param {(gaps: Frame[]) => void} onFill what gaps have left out is wanted
   */
  constructor(chain, scroller, onFill) {
    this.chain = chain;
    this.onFill = onFill;
    this.#observer = new IntersectionObserver((entries) => this.#seen(entries), { root: scroller, rootMargin: AHEAD });
  }

  /** Show what has changed. */
  update() {
    for (const [group, view] of this.#groups) {
      if (this.chain.groups.get(group.name) !== group) this.#drop(group, view);
    }
    const isAlone = this.chain.groups.size === 1;
    for (const group of this.chain.groups.values()) {
      let view = this.#groups.get(group);
      if (!view) this.#groups.set(group, (view = this.#begin(group)));
      view.update(isAlone);
    }
  }

  stop() {
    this.#toFill.clear();
    this.#observer.disconnect();
    this.element.remove();
  }

  /** @param {Group} group */
  #begin(group) {
    const view = new GroupView(group, this.onFill, (block) => {
      this.#blocks.set(block.element, block);
      this.#observer.observe(block.element);
    });
    this.element.append(view.element);
    return view;
  }

  /** @param {Group} group @param {GroupView} view */
  #drop(group, view) {
    this.#groups.delete(group);
    for (const block of view.blocks) {
      this.#observer.unobserve(block.element);
      this.#toFill.delete(block);
    }
    view.element.remove();
  }

  /** One block a frame is filled, beginning with what is in sight: all at once would be a long task.
   * @param {IntersectionObserverEntry[]} entries */
  #seen(entries) {
    for (const entry of entries.sort((one, other) => distance(one) - distance(other))) {
      const block = this.#blocks.get(entry.target);
      if (!block) continue;
      this.#toFill.delete(block);
      if (entry.isIntersecting) this.#toFill.add(block);
      else block.setNear(false);
    }
    this.#fill();
  }

  #fill() {
    const [block] = this.#toFill;
    if (!block || this.#isFilling) return;
    this.#toFill.delete(block);
    block.setNear(true);
    this.#isFilling = true;
    requestAnimationFrame(() => {
      this.#isFilling = false;
      this.#fill();
    });
  }
}

/** From the middle of what is in sight. @param {IntersectionObserverEntry} entry */
function distance({ boundingClientRect: box, rootBounds: root }) {
  return root ? Math.abs(box.top + box.height / 2 - root.top - root.height / 2) : 0;
}

class GroupView {
  /** @type {BlockView[]} */
  blocks = [];
  #name = el("span", { class: "group-name cut" });
  #facts = el("span", { class: "group-facts nums" });
  #button = el("button", { type: "button", class: "group-head", "aria-expanded": "true" }, this.#name, this.#facts);
  #body = el("div", { class: "group-body" });

  /** @param {Group} group @param {(gaps: Frame[]) => void} onFill @param {(block: BlockView) => void} onBlock */
  constructor(group, onFill, onBlock) {
    this.group = group;
    this.onFill = onFill;
    this.onBlock = onBlock;
    this.#button.addEventListener("click", () => this.#toggle());
    this.element = el("section", { class: "group", "data-worker": group.name }, el("h4", {}, this.#button), this.#body);
  }

  /** @param {boolean} isAlone */
  update(isAlone) {
    const { group } = this;
    setText(this.#name, nameOf(group, isAlone));
    const tokens = group.counters.tokensOut ? ` · ${number(group.counters.tokensOut)} tokens out` : "";
    setText(this.#facts, `${plural(group.events, "event")}${tokens}`);
    while (this.blocks.length * BLOCK < group.rows.length) {
      const block = new BlockView(group.rows, this.blocks.length * BLOCK, this.onFill);
      this.blocks.push(block);
      this.#body.append(block.element);
      this.onBlock(block);
    }
    for (const block of this.blocks) block.update();
  }

  #toggle() {
    this.group.isOpen = !this.group.isOpen;
    setShown(this.#body, this.group.isOpen);
    setAttributes(this.#button, { "aria-expanded": String(this.group.isOpen) });
  }
}

/** @param {Group} group @param {boolean} isAlone */
function nameOf({ name }, isAlone) {
  if (name === "") return isAlone ? "All events" : "The run itself";
  return /^\d+$/.test(name) ? `Worker ${name}` : name;
}

class BlockView {
  element = el("ol", { class: "block" });
  #isNear = false;
  #isFilled = false;
  #height = 0;
  /** @type {WeakMap<HTMLElement, RowView>} */
  #views = new WeakMap();

  /** @param {Row[]} rows @param {number} first @param {(gaps: Frame[]) => void} onFill */
  constructor(rows, first, onFill) {
    this.rows = rows;
    this.first = first;
    this.onFill = onFill;
    this.update();
  }

  /** @param {boolean} isNear */
  setNear(isNear) {
    this.#isNear = isNear;
    this.update();
  }

  update() {
    if (this.#isNear) this.#fill();
    else if (this.#isFilled) this.#empty();
    else if (!this.#height) this.#setHeight(this.#size * ROW_PIXELS);
  }

  get #size() {
    return Math.min(BLOCK, this.rows.length - this.first);
  }

  #fill() {
    this.#isFilled = true;
    this.#setHeight(0);
    const rows = this.rows.slice(this.first, this.first + BLOCK).map((row, place) => ({ row, place }));
    reconcile(this.element, rows, {
      key: ({ place }) => String(place),
      make: ({ row }) => {
        const view = new RowView(row, this.onFill);
        this.#views.set(view.element, view);
        return view.element;
      },
      update: (node) => this.#views.get(node)?.update(),
    });
  }

  /** Not while somebody is at work in it. */
  #empty() {
    const selection = getSelection();
    if (this.element.contains(document.activeElement)) return;
    if (selection && !selection.isCollapsed && selection.containsNode(this.element, true)) return;
    this.#height = this.element.offsetHeight;
    this.#isFilled = false;
    this.#setHeight(this.#height);
    this.element.replaceChildren();
  }

  /** @param {number} pixels none: as high as its rows */
  #setHeight(pixels) {
    const height = pixels ? `${pixels}px` : "";
    if (this.element.style.height !== height) this.element.style.height = height;
  }
}
