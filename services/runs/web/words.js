// How a run stands, in words. Pure.

import { duration, number, relative } from "/web/shared/format.js";

/** @typedef {import("./card.js").Card} Card */

/** Where its work stands: `writer · sample · iteration 12 · write`. @param {Card} card */
export function placeOf(card) {
  const { node, agent, worker, iteration, phase } = card.place;
  if (card.isOver) return "";
  if (card.status === "queued") return "waits for a worker";
  const parts = [worker && worker !== node ? `${worker}: ${node}` : node, agent, iteration !== null && `iteration ${iteration}`, phase];
  return parts.filter(Boolean).join(" · ");
}

/** How long it has been silent, or when it ended. While nobody is connected that is not known.
 * @param {Card} card @param {number} now @param {boolean} isLive */
export function silenceOf(card, now, isLive) {
  if (card.isOver) return card.finishedAt === null ? "" : relative(card.finishedAt, Math.max(now, card.finishedAt));
  if (!card.lastActivityAt) return "";
  if (!isLive) return "";
  return relative(card.lastActivityAt, Math.max(now, card.lastActivityAt));
}

/** Tokens per second: now, or on the whole when it has ended. @param {Card} card @param {number} now */
export function rateOf(card, now) {
  if (card.startedAt === null) return "–";
  if (!card.isOver) return rate(card.rates.perSecond(now));
  const took = card.duration(now);
  return rate(took ? (card.tokensOut * 1_000) / took : 0);
}

/** @param {number} perSecond */
export function rate(perSecond) {
  return perSecond < 99.95 ? perSecond.toFixed(1) : number(Math.round(perSecond));
}

/** A run that has ended, in short: `sample · 39 tokens · 6.1 s`. @param {Card} card */
export function factsOf(card) {
  const took = card.duration(0);
  const tokens = card.tokensIn + card.tokensOut;
  return [
    card.run.runner,
    card.attempt > 1 && `attempt ${card.attempt}`,
    tokens > 0 && `${number(card.tokensIn)} in, ${number(card.tokensOut)} out`,
    took !== null && duration(took),
  ].filter(Boolean).join(" · ");
}
