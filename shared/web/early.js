// What has to run before anything is painted, and when nothing else runs. A classic script: modules come later.
//
// Light or dark is kept as `tailrace.theme`: "light", "dark", or nothing, which is what the system says.
//
// Should a module not arrive (the network changes while the page is loading, the service restarts), the browser gives up
// on all of them, and for good. So the page is loaded again, a few times; `startPage` says that it has begun.
{
  const TRIES = 5;
  const FIRST_PAUSE_MILLISECONDS = 400;

  /** @param {() => any} work storage may be forbidden; then there is none */
  const stored = (work) => {
    try {
      return work();
    } catch {
      return null;
    }
  };

  const chosen = stored(() => localStorage.getItem("tailrace.theme"));
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;

  const giveUp = () => {
    const notice = document.createElement("p");
    notice.className = "notice";
    notice.dataset.tone = "bad";
    notice.setAttribute("role", "alert");
    notice.textContent = "A part of this page could not be loaded. Load the page anew.";
    document.getElementById("main")?.prepend(notice);
  };

  const onError = (/** @type {Event} */ { target }) => {
    if (!(target instanceof HTMLScriptElement)) return;
    const tries = Number(stored(() => sessionStorage.getItem("tailrace.tries")));
    const isKept = stored(() => (sessionStorage.setItem("tailrace.tries", String(tries + 1)), true));
    if (tries >= TRIES || !isKept) giveUp();
    else setTimeout(() => location.reload(), FIRST_PAUSE_MILLISECONDS * 2 ** tries);
  };
  addEventListener("error", onError, true); // it does not bubble
}
