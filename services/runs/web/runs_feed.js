// Keeps the board current: the list, then the feed from where the list ends, on one connection for all runs.

import { LiveResource, request } from "/web/shared/stream.js";

import { LIVE } from "./statuses.js";

const RUNS = "/api/v1/runs";
const PAGE = 50;
const MOST_LIVE = 200; // of each status, beside those of the newest page
const MOST_ENDED = 1_000; // that are kept; older ones are a press of “Older runs” away
const HISTORY_PAGE = 1_000;
const HISTORY_PAGES = 20; // a longer history is not read for a card
const TOGETHER_MILLISECONDS = 50; // runs that begin together are asked for together

/** @typedef {import("./board.js").Board} Board */
/** @typedef {import("./board.js").Frame} Frame */
/** @typedef {import("/web/shared/status.js").Status} Status */

export class RunsFeed {
  /** What each filter has of the list: the id that its next page begins below; null when there is none.
   * @type {Map<string, string | null>} */
  #cursors = new Map();
  #asking = false;
  #reading = false;

  /**
   * @param {Board} board
   * @param {{onChange: (frames: Frame[]) => void, onStatus: (status: Status) => void}} listener
   */
  constructor(board, { onChange, onStatus }) {
    this.board = board;
    this.onChange = onChange;
    this.resource = new LiveResource({
      url: `${RUNS}?limit=${PAGE}`,
      streamUrl: `${RUNS}/stream`,
      initial: board,
      readState: (page) => this.#begin(page),
      applyEvent: (_, _event, frame) => void board.take(frame),
      onChange: (_, frames) => this.#changed(frames),
      onGap: () => {}, // statuses are never skipped, and counters are cumulative
      onStatus,
    });
  }

  start() {
    this.resource.start();
  }

  retryNow() {
    this.resource.retryNow();
  }

  /** The id down to which the list of runs that have ended is known. @param {string | null} status */
  oldest(status) {
    return this.#cursors.get(status ?? "") ?? this.#cursors.get("") ?? "";
  }

  /** Whether a page of this filter has been read. @param {string | null} status */
  knows(status) {
    return this.#cursors.has(status ?? "");
  }

  /** @param {string | null} status */
  hasMore(status) {
    return this.knows(status) && this.#cursors.get(status ?? "") !== null;
  }

  /** Another page of runs that have ended. @param {string | null} status */
  async more(status) {
    const key = status ?? "";
    const query = new URLSearchParams({ limit: String(PAGE) });
    const cursor = this.#cursors.get(key);
    if (status) query.set("status", status);
    if (cursor) query.set("cursor", cursor);
    const page = await request(`${RUNS}?${query}`);
    this.board.learn(page.data);
    this.#cursors.set(key, page.next_cursor);
    this.#changed([]);
  }

  /** The first page of the list, at the start and after a reset. @param {any} page */
  #begin(page) {
    this.board.clear();
    this.board.learn(page.data);
    this.#cursors = new Map([["", page.next_cursor]]);
    if (page.next_cursor) this.#olderLive();
    return this.board;
  }

  /** Live runs that are older than the newest page. The feed has gone on meanwhile: what it told is not told again. */
  async #olderLive() {
    for (const status of LIVE) {
      const page = await request(`${RUNS}?status=${status}&limit=${MOST_LIVE}`).catch(() => null);
      if (page) this.board.learn(page.data);
    }
    this.#changed([]);
  }

  /** @param {Frame[]} frames */
  #changed(frames) {
    if (frames.length) this.#forget();
    this.onChange(frames);
    if (this.board.unknown.size) this.#ask();
    if (this.board.incomplete.length) this.#readHistories();
  }

  /** A page that is open all day sees more runs than anybody looks at. */
  #forget() {
    if (this.board.cards.size < 2 * MOST_ENDED) return;
    const oldest = this.board.forget(MOST_ENDED);
    if (oldest) for (const key of this.#cursors.keys()) this.#cursors.set(key, oldest);
  }

  /** The prompts of runs that were started elsewhere. */
  async #ask() {
    if (this.#asking) return;
    this.#asking = true;
    await new Promise((resolve) => setTimeout(resolve, TOGETHER_MILLISECONDS));
    try {
      const page = await request(`${RUNS}?limit=${PAGE}`);
      this.board.learn(page.data);
      for (const id of [...this.board.unknown]) await this.#askFor(id);
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 1_000)); // the chip tells how the service is
    }
    this.#asking = false;
    this.#changed([]);
  }

  /** @param {string} id */
  async #askFor(id) {
    if (!this.board.unknown.has(id)) return;
    try {
      this.board.learn([await request(`${RUNS}/${id}`)]);
    } catch (error) {
      if (/** @type {any} */ (error).status !== 404) throw error;
      this.board.unknown.delete(id); // deleted: the feed is about to say so
    }
  }

  /** One after the other: the page works without them, with the sums that the list gave. */
  async #readHistories() {
    if (this.#reading) return;
    this.#reading = true;
    for (let [id] = this.board.incomplete; id; [id] = this.board.incomplete) {
      this.board.awaitHistory(id);
      const history = await historyOf(id).catch(() => null);
      if (history) this.board.giveHistory(id, history);
      else this.board.forgoHistory(id);
      this.onChange([]);
    }
    this.#reading = false;
  }
}

/** All events of a run so far; null when there are too many. @param {string} id @returns {Promise<Frame[] | null>} */
async function historyOf(id) {
  /** @type {Frame[]} */
  const frames = [];
  let after = "start";
  for (let count = 0; count < HISTORY_PAGES; count += 1) {
    const page = await request(`${RUNS}/${id}/events?after=${after}&limit=${HISTORY_PAGE}`);
    frames.push(...page.data);
    if (page.data.length < HISTORY_PAGE) return frames;
    after = page.next;
  }
  return null;
}
