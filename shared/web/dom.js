// Building and changing the page. Whatever comes in as a string goes into the DOM as text and nothing else.
//
//   el(tag, props, ...children)     a new element
//   setText(node, text)             changes a text only if it differs: a selection survives, nothing flickers
//   setAttributes(node, attributes) the same for attributes; false, null and undefined remove
//   setShown(node, isShown)         hides by the attribute `hidden`
//   reconcile(parent, items, …)     a list by keys: what stays keeps its element, its focus and its place
//   byId(id)                        an element that has to be there
//   onChange(task)                  runs it once before the next painting, however often it was asked for

/** @typedef {Node | string | number | null | undefined | false} Child */
/** @typedef {Record<string, unknown>} Props */

const LINKS = /^(\/(?!\/)|#|\?|https?:\/\/)/;

/**
 * A new element. Of `props`, `class` and `dataset` are what they are in HTML and in the DOM, a function is a listener
 * (`onclick`), `true` an empty attribute, and false, null and undefined leave it out.
 *
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Props} [props]
 * @param {...(Child | Child[])} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function el(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), /** @type {EventListener} */ (value));
    else if (name === "dataset") Object.assign(element.dataset, value);
    else setAttribute(element, name, value);
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== false) {
      element.append(typeof child === "number" ? String(child) : child);
    }
  }
  return element;
}

/** @param {Element} node @param {string} name @param {unknown} value */
function setAttribute(node, name, value) {
  if (value === null || value === undefined || value === false) {
    node.removeAttribute(name);
    return;
  }
  const text = value === true ? "" : String(value);
  // an address from elsewhere may lead to a page, and run nothing
  if (name === "href" && !LINKS.test(text)) throw new TypeError(`no link: ${text.slice(0, 100)}`);
  if (node.getAttribute(name) !== text) node.setAttribute(name, text);
}

/** @param {Element} node @param {Props} attributes */
export function setAttributes(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) setAttribute(node, name, value);
}

/** @param {Node} node @param {string | number | null | undefined} text */
export function setText(node, text) {
  const wanted = text === null || text === undefined ? "" : String(text);
  if (node.textContent !== wanted) node.textContent = wanted;
}

/** @param {HTMLElement} node @param {boolean} isShown */
export function setShown(node, isShown) {
  if (node.hidden === isShown) node.hidden = !isShown;
}

/**
 * Make the children of `parent` those of `items`, in that order. An element stays with its key: `make` is called for a
 * new one, `update` for each; only what is out of place is moved.
 *
 * @template T
 * @param {Element} parent
 * @param {Iterable<T>} items
 * @param {{key: (item: T) => string, make: (item: T) => HTMLElement, update?: (node: HTMLElement, item: T) => void}} how
 */
export function reconcile(parent, items, { key, make, update }) {
  const wanted = new Map([...items].map((item) => [key(item), item]));
  const known = new Map();
  for (const child of [...parent.children]) {
    const name = /** @type {HTMLElement} */ (child).dataset.key ?? "";
    if (wanted.has(name)) known.set(name, child);
    else child.remove();
  }
  let place = parent.firstElementChild;
  for (const [name, item] of wanted) {
    const node = known.get(name) ?? make(item);
    node.dataset.key = name;
    if (node === place) place = node.nextElementSibling;
    else parent.insertBefore(node, place);
    update?.(node, item);
  }
}

/** @param {string} id @returns {HTMLElement} */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found;
}

/**
 * A function that asks for `task` to be run once before the next painting; in a hidden tab, where nothing is painted,
 * within a second.
 *
 * @param {() => void} task
 * @returns {() => void}
 */
export function onChange(task) {
  let isAsked = false;
  const run = () => {
    if (!isAsked) return;
    isAsked = false;
    task();
  };
  return () => {
    if (isAsked) return;
    isAsked = true;
    if (document.visibilityState === "visible") requestAnimationFrame(run);
    setTimeout(run, 1000);
  };
}
