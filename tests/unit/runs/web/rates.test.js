import assert from "node:assert/strict";
import { test } from "node:test";

import { served } from "../../../support/web/served.js";

const { Rates } = await served("runs/rates.js");

const T = 1_800_000_000_000;

/** Ten tokens a second for so many seconds, told ten times a second. */
function steady(seconds, rates = new Rates(), from = T) {
  for (let tenth = 0; tenth < seconds * 10; tenth += 1) rates.add(from + tenth * 100, 1);
  return rates;
}

test("a steady stream has its own rate", () => {
  assert.equal(steady(20).perSecond(T + 20_000), 10);
});

test("a rate is over the time there has been, not over five seconds of silence before", () => {
  assert.equal(steady(2).perSecond(T + 2_000), 10);
});

test("the first token is not a rate of a thousand", () => {
  const rates = new Rates();
  rates.add(T, 5);
  assert.equal(rates.perSecond(T + 1), 5);
});

test("a rate goes down to nothing when nothing more comes", () => {
  const rates = steady(10);
  assert.ok(rates.perSecond(T + 12_500) < 6);
  assert.equal(rates.perSecond(T + 16_000), 0);
});

test("nothing counted is a rate of nothing", () => {
  assert.equal(new Rates().perSecond(T), 0);
  assert.deepEqual(new Rates().series(T, 3), [0, 0, 0]);
});

test("a series has the tokens of each whole second, the newest last", () => {
  const rates = steady(3);
  assert.deepEqual(rates.series(T + 2_999, 5), [0, 0, 0, 10, 10]);
  assert.deepEqual(rates.series(T + 3_000, 5), [0, 0, 10, 10, 10]);
  assert.deepEqual(rates.series(T + 5_000, 5), [10, 10, 10, 0, 0]);
});

test("two workers whose events come out of order are both counted", () => {
  const rates = new Rates();
  rates.add(T + 3_000, 7);
  rates.add(T + 1_000, 4);
  assert.deepEqual(rates.series(T + 4_000, 4), [0, 4, 0, 7]);
});

test("a minute later nothing of the old is left in the ring", () => {
  const rates = steady(64);
  const later = T + 64_000 + 120_000;
  rates.add(later, 3);
  assert.deepEqual(rates.series(later + 1_000, 60), [...Array(59).fill(0), 3]);
  rates.add(T, 100); // far too old to be shown
  assert.equal(rates.series(later + 1_000, 60).reduce((sum, one) => sum + one), 3);
});

test("a counter that went down adds nothing", () => {
  const rates = new Rates();
  rates.add(T, -5);
  assert.equal(rates.perSecond(T + 1_000), 0);
});
