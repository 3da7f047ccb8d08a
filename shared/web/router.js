// Going from place to place within a page without loading it anew. Links stay links: they can be copied, opened in
// another tab, and gone back from.
//
//   startRouter("/tasks", (place) => …)   calls it now and at each change: {id, query, isFirst}
//   goTo("/tasks/task_01j…")              by a script; {replace: true} leaves no trace in the history

/** @typedef {{id: string | null, query: URLSearchParams, isFirst: boolean}} Place */

/** @type {((isFirst: boolean) => void) | null} */
let show = null;

/** @param {string} base @param {(place: Place) => void} onPlace */
export function startRouter(base, onPlace) {
  const isHere = (/** @type {URL} */ url) =>
    url.origin === location.origin && (url.pathname === base || url.pathname.startsWith(`${base}/`));
  show = (isFirst) => {
    const rest = location.pathname.slice(base.length + 1);
    onPlace({ id: rest ? decodeURIComponent(rest) : null, query: new URLSearchParams(location.search), isFirst });
  };
  document.addEventListener("click", (click) => {
    const link = /** @type {Element} */ (click.target).closest?.("a[href]");
    if (!(link instanceof HTMLAnchorElement) || !isPlain(click) || link.target || link.hasAttribute("download")) return;
    const url = new URL(link.href);
    if (!isHere(url) || url.hash) return; // a place on this page is the browser's to find
    click.preventDefault();
    goTo(url.pathname + url.search);
  });
  addEventListener("popstate", () => show?.(false));
  show(true);
}

/** @param {string} path @param {{replace?: boolean}} [options] */
export function goTo(path, { replace = false } = {}) {
  if (path === location.pathname + location.search) return;
  const isAnotherPage = path.split("?")[0] !== location.pathname;
  if (replace) history.replaceState(null, "", path);
  else history.pushState(null, "", path);
  show?.(false);
  if (!isAnotherPage || replace) return;
  scrollTo(0, 0);
  document.getElementById("main")?.focus({ preventScroll: true }); // what is read next is the new place
}

/** @param {MouseEvent} click */
function isPlain(click) {
  return click.button === 0 && !click.defaultPrevented && !(click.ctrlKey || click.metaKey || click.shiftKey || click.altKey);
}
