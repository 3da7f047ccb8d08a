// What all live runs do together: how many, how fast.

import { byId, setText } from "/web/shared/dom.js";
import { number } from "/web/shared/format.js";

import { SparkView } from "./spark_view.js";
import { rate } from "./words.js";

const SECONDS_SHOWN = 60;

/** @typedef {import("./board.js").Board} Board */

export class Overview {
  #spark = new SparkView("large");

  /** @param {Board} board */
  constructor(board) {
    this.board = board;
    byId("total-spark").append(this.#spark.element);
  }

  update() {
    const counts = new Map();
    for (const { status } of this.board.cards.values()) counts.set(status, (counts.get(status) ?? 0) + 1);
    const count = (/** @type {string[]} */ ...statuses) => statuses.reduce((sum, one) => sum + (counts.get(one) ?? 0), 0);
    setText(byId("total-running"), number(count("running", "cancelling")));
    setText(byId("total-queued"), number(count("queued")));
    setText(byId("total-waiting"), number(count("waiting_input")));
    byId("total-waiting").parentElement?.classList.toggle("is-wanted", count("waiting_input") > 0);
  }

  /** @param {number} now by the server's clock */
  tick(now) {
    const series = Array(SECONDS_SHOWN).fill(0);
    let perSecond = 0;
    for (const card of this.board.cards.values()) {
      if (card.finishedAt !== null && now - card.finishedAt > SECONDS_SHOWN * 1_000) continue;
      if (!card.isOver) perSecond += card.rates.perSecond(now);
      card.rates.series(now, SECONDS_SHOWN).forEach((value, place) => (series[place] += value));
    }
    setText(byId("total-rate"), rate(perSecond));
    this.#spark.draw(series);
  }
}
