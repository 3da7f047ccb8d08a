// All runs that the page knows: rows of the list, and the events of the feed that follows it. Pure.

import { Card } from "./card.js";
import { placed } from "./slots.js";

export const MOST_CARDS = 60;

/** @typedef {import("./card.js").Run} Run */
/** @typedef {import("./card.js").RunEvent} RunEvent */
/** @typedef {{id: string, event: RunEvent}} Frame `id` is its position */

export class Board {
  /** @type {Map<string, Card>} */
  cards = new Map();
  /** @type {string[]} the ids of the live cards, by their place */
  slots = [];
  /** counts what changes more than a live card: who is here, and how each stands */
  changes = 0;
  /** @type {Set<string>} those that the feed has told of and the API has not */
  unknown = new Set();
  /** @type {Map<string, Frame[]>} what comes while a card's history is read */
  #waiting = new Map();
  /** @type {Set<string>} */
  #forgone = new Set();
  /** @type {Set<string>} deleted: a list that was read before may still name them */
  #gone = new Set();

  /** Forget everything: the log has begun anew. */
  clear() {
    this.cards.clear();
    this.unknown.clear();
    this.#waiting.clear();
    this.slots = [];
    this.changes += 1;
  }

  /** Rows of a list, or the answer to a launch, whose runs are new. @param {Run[]} runs @param {boolean} [areNew] */
  learn(runs, areNew = false) {
    for (const run of runs) {
      if (this.#gone.has(run.id)) continue;
      this.#card(run.id).learn(run, areNew);
      this.unknown.delete(run.id);
    }
    this.#place();
  }

  /** Keep `most` of those that have ended, the newest; the id of the oldest that is left, null if none had to go.
   * @param {number} most */
  forget(most) {
    const over = this.ended(null, "");
    for (const { id } of over.slice(most)) if (!this.slots.includes(id)) this.cards.delete(id);
    return over.length > most ? over[most - 1].id : null;
  }

  /** A frame of the feed; the card that it changed, if it did. @param {Frame} frame */
  take(frame) {
    const { event } = frame;
    const id = event.run_id;
    if (!id || this.#gone.has(id)) return null; // of a session and of no run, or of one that is deleted
    if (event.type === "deleted") return this.#drop(id);
    const known = this.cards.get(id);
    const card = known ?? this.#card(id);
    if (!known) card.isComplete = isFirst(event); // else it is an old run that lies beyond the list
    if (!card.isKnown) this.unknown.add(id);
    this.#waiting.get(id)?.push(frame);
    if (!card.apply(event, frame.id)) return null;
    if (!known || event.type === "status") this.#place();
    return card;
  }

  /** Keep what comes from now on: its history is being read. @param {string} id */
  awaitHistory(id) {
    this.#waiting.set(id, []);
  }

  /** Its events from the first on, as far as they had come; then those that came meanwhile.
   * @param {string} id @param {Frame[]} history */
  giveHistory(id, history) {
    const known = this.cards.get(id);
    const since = this.#waiting.get(id) ?? [];
    this.#waiting.delete(id);
    if (!known) return;
    const card = new Card(id);
    for (const frame of [...history, ...since]) card.apply(frame.event, frame.id);
    if (known.isKnown) card.know(known.run);
    card.changes = known.changes + 1;
    this.cards.set(id, card);
    this.#place();
  }

  /** Live runs whose counters are not their workers' own, since the page came later than they.  */
  get incomplete() {
    return this.slots.filter((id) => {
      const card = this.cards.get(id);
      return card && !card.isComplete && !card.isOver && !this.#waiting.has(id) && !this.#forgone.has(id);
    });
  }

  /** There is too much of it, or it cannot be had: the card stays as it is. @param {string} id */
  forgoHistory(id) {
    this.#waiting.delete(id);
    this.#forgone.add(id);
  }

  get live() {
    return [...this.cards.values()].filter((card) => !card.isOver).sort(byAge);
  }

  /** Those that have ended, newest first; of one status, or all. @param {string | null} status @param {string} oldest */
  ended(status, oldest) {
    const wanted = (/** @type {Card} */ card) => card.isOver && card.isKnown && card.id >= oldest && (!status || card.status === status);
    return [...this.cards.values()].filter(wanted).sort((one, other) => byAge(other, one));
  }

  get hasEndedCards() {
    return this.slots.some((id) => this.cards.get(id)?.isOver === true);
  }

  /** Take the cards of runs that have ended off the board; the others move together. */
  clearEnded() {
    this.slots = this.slots.filter((id) => this.cards.get(id)?.isOver === false);
    this.#place();
  }

  #card(/** @type {string} */ id) {
    let card = this.cards.get(id);
    if (!card) this.cards.set(id, (card = new Card(id)));
    return card;
  }

  #drop(/** @type {string} */ id) {
    const card = this.cards.get(id) ?? null;
    this.#gone.add(id);
    this.cards.delete(id);
    this.unknown.delete(id);
    this.#waiting.delete(id);
    this.slots = this.slots.filter((one) => one !== id);
    this.changes += 1;
    return card;
  }

  #place() {
    this.changes += 1;
    const overSince = (/** @type {string} */ id) => {
      const card = this.cards.get(id);
      return card?.isOver ? (card.finishedAt ?? 0) : null;
    };
    this.slots = placed(this.slots, this.live.map((card) => card.id), overSince, MOST_CARDS);
  }
}

/** What a run begins with. @param {RunEvent} event */
function isFirst(event) {
  return event.type === "status" && event.status === "queued" && event.attempt === 1 && !event.message;
}

/** Ids grow with time. @param {Card} one @param {Card} other */
function byAge(one, other) {
  return one.id < other.id ? -1 : Number(one.id > other.id);
}
