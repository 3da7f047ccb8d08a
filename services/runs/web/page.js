// The page of runs: launch them, watch all of them at once, and one of them in full.

import { announce } from "/web/shared/announce.js";
import { clockOf } from "/web/shared/clock.js";
import { byId, onChange, reconcile, setShown, setText } from "/web/shared/dom.js";
import { plural, words } from "/web/shared/format.js";
import { startPage } from "/web/shared/page.js";
import { everySecond } from "/web/shared/time.js";

import { Board, MOST_CARDS } from "./board.js";
import { CardView } from "./card_view.js";
import { EndedView } from "./ended_view.js";
import { moveFocus } from "./keys.js";
import { LaunchView } from "./launch_view.js";
import { Overview } from "./overview.js";
import { RunView } from "./run_view.js";
import { RunsFeed } from "./runs_feed.js";
import { isOver } from "./statuses.js";

/** @typedef {import("./board.js").Frame} Frame */

const { connection } = await startPage();
const board = new Board();
const feed = new RunsFeed(board, {
  onChange: (frames) => {
    hear(frames);
    paint();
  },
  onStatus: (status) => {
    isLive = status.phase === "live";
    feedLine.set(status);
    paint();
  },
});
const feedLine = connection.track("All runs", feed);
const overview = new Overview(board);
const ended = new EndedView(board, feed);
const launch = new LaunchView((runs) => {
  board.clearEnded();
  board.learn(runs, true);
  paint();
});
const paint = onChange(show);
/** @type {Map<string, CardView>} */
const cards = new Map();
let isLive = false;
let shownChanges = -1;

/** Ages and rates are by the server's clock, not by the reader's. */
function serverNow() {
  return Date.now() + clockOf(location.href).aheadMs;
}

// ── what is shown ──────────────────────────────────────────────────────────────────────────────────────────────

function show() {
  const now = serverNow();
  reconcile(byId("cards"), board.slots, {
    key: (id) => id,
    make: (id) => {
      const view = new CardView(id);
      cards.set(id, view);
      return view.element;
    },
    update: (_, id) => {
      const card = board.cards.get(id);
      if (card) cards.get(id)?.update(card, now, isLive);
      cards.get(id)?.setOpen(id === open?.id);
    },
  });
  for (const id of cards.keys()) if (!board.slots.includes(id)) cards.delete(id);
  if (board.changes !== shownChanges) showAll();
  shownChanges = board.changes;
  ended.update(open?.id ?? null);
}

/** What only changes with who is here, and how each stands. */
function showAll() {
  setShown(byId("live-none"), board.slots.length === 0);
  setShown(byId("clear"), board.hasEndedCards);
  const hidden = board.live.length - board.slots.filter((id) => board.cards.get(id)?.isOver === false).length;
  setText(byId("live-more"), hidden > 0 ? `and ${plural(hidden, "more live run")} beyond the first ${MOST_CARDS}` : "");
  overview.update();
}

function tick() {
  const now = serverNow();
  for (const [id, view] of cards) {
    const card = board.cards.get(id);
    if (card) view.tick(card, now, isLive);
  }
  overview.tick(now);
  open?.tick();
}

/** Only what changes how a run stands is said aloud, and only when it happens. @param {Frame[]} frames */
function hear(frames) {
  for (const { event, live } of /** @type {(Frame & {live: boolean})[]} */ (frames)) {
    if (!live || event.type !== "status") continue;
    if (!isOver(event.status) && event.status !== "waiting_input") continue;
    announce(`${said(board.cards.get(event.run_id)?.run.task)}: ${words(event.status)}.`);
  }
}

/** @param {string | undefined} task */
function said(task) {
  return task ? task.slice(0, 60) : "A run";
}

// ── the run that is open ───────────────────────────────────────────────────────────────────────────────────────

/** @type {RunView | null} */
let open = null;
/** @type {{remove: () => void, set: (status: any) => void} | null} */
let openLine = null;
/** @type {string | null} where the focus was before */
let opener = null;

function route() {
  const id = decodeURIComponent(location.pathname.split("/")[2] ?? "") || null;
  if (id === (open?.id ?? null)) return;
  open?.stop();
  openLine?.remove();
  open = openLine = null;
  document.body.classList.toggle("is-open", id !== null);
  setShown(byId("run"), id !== null);
  if (id !== null) begin(id);
  else document.title = "Runs · Tailrace";
  paint();
}

/** @param {string} id */
function begin(id) {
  const line = connection.track("This run", { retryNow: () => open?.retryNow() });
  openLine = line;
  open = new RunView(id, {
    onStatus: (status) => (status.phase === "ended" ? line.remove() : line.set(status)),
    onOpen: (other) => go(other),
    onClose: () => go(null),
    now: serverNow,
  });
  byId("run").scrollTop = 0;
  document.title = `${id} · Runs · Tailrace`;
}

/** @param {string | null} id */
function go(id) {
  if (id !== null && open === null) opener = id;
  history.pushState(null, "", id === null ? "/runs" : `/runs/${id}`);
  route();
  if (id !== null) document.getElementById("run-title")?.focus();
  else focusOpener();
}

/** Back to where the run was opened. */
function focusOpener() {
  const link = /** @type {HTMLElement | null} */ (document.querySelector(`[data-run="${CSS.escape(opener ?? "")}"] a[data-open]`));
  link?.focus({ preventScroll: matchMedia("(min-width: 70rem)").matches });
}

document.addEventListener("click", (event) => {
  if (event.defaultPrevented || event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  const target = /** @type {Element} */ (event.target);
  const link = /** @type {HTMLAnchorElement | null} */ (target.closest('main a[href^="/runs"]'));
  const card = target.closest(".card");
  if (link) {
    event.preventDefault();
    go(decodeURIComponent(link.pathname.split("/")[2] ?? "") || null);
  } else if (card && !target.closest("button, input, form") && getSelection()?.isCollapsed) {
    go(/** @type {HTMLElement} */ (card).dataset.run ?? null);
  }
});
document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || document.querySelector("dialog[open], :popover-open")) return;
  const isWriting = /** @type {Element} */ (event.target).matches("input, textarea, select");
  if (event.key === "Escape" && open && !isWriting) go(null);
  else if (!isWriting) moveFocus(event);
});
addEventListener("popstate", route);
byId("clear").addEventListener("click", () => {
  board.clearEnded();
  paint();
});

feed.start();
everySecond(tick);
route();
launch.showRunners().catch(() => {}); // all of them can be chosen then, and the server says what is missing
