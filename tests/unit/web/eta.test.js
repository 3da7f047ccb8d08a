// How long a task may still take: said only where it can be known.

import assert from "node:assert/strict";
import { test } from "node:test";

import { inWords, Pace } from "../../../services/tasks/web/eta.js";

/** @param {[number, number][]} steps seconds, and how much was done then */
function paceOf(steps) {
  const pace = new Pace();
  for (const [seconds, done] of steps) pace.add(seconds * 1_000, done);
  return pace;
}

/** @param {Pace} pace @param {number | null} total @param {number} seconds */
const seconds = (pace, total, seconds) => {
  const left = pace.remaining(total, seconds * 1_000);
  return left === null ? null : Math.round(left / 1_000);
};

const steady = paceOf([[0, 0], [10, 10], [20, 20], [30, 30]]);

test("a steady pace goes on", () => {
  assert.equal(seconds(steady, 100, 30), 70);
  assert.equal(seconds(steady, 100, 35), 65); // time goes by between two steps as well
});

test("nothing is said of what nobody knows", () => {
  assert.equal(seconds(new Pace(), 100, 0), null);
  assert.equal(seconds(paceOf([[0, 0], [10, 10]]), 100, 10), null); // one step is no pace
  assert.equal(seconds(steady, null, 30), null);
  assert.equal(seconds(steady, 30, 30), null);
  assert.equal(seconds(paceOf([[0, 0], [0.1, 10], [0.2, 20]]), 100, 0.2), null); // a burst
});

test("what stands still has no pace any more", () => {
  assert.equal(seconds(steady, 1_000, 74), 926);
  assert.equal(seconds(steady, 1_000, 76), null);
});

test("the newest pace counts", () => {
  const slow = Array.from({ length: 20 }, (_, index) => /** @type {[number, number]} */ ([index * 100, index]));
  const fast = Array.from({ length: 20 }, (_, index) => /** @type {[number, number]} */ ([2_000 + index, 20 + index]));
  assert.equal(seconds(paceOf([...slow, ...fast]), 139, 2_019), 100);
});

test("what begins again is a new pace, and the same news twice is none", () => {
  assert.equal(seconds(paceOf([[0, 50], [10, 60], [20, 0], [30, 1], [40, 2]]), 12, 40), 100);
  assert.equal(seconds(paceOf([[0, 0], [10, 10], [10, 10], [15, 10], [20, 20]]), 30, 20), 10);
});

test("a pace is joined by what another knows beyond it", () => {
  const pace = paceOf([[0, 0], [10, 10]]);
  pace.join(paceOf([[10, 10], [20, 20]]));
  assert.equal(seconds(pace, 30, 20), 10);
});

test("in words it is as coarse as it is uncertain", () => {
  for (const [left, wanted] of /** @type {[number | null, string][]} */ ([
    [null, ""],
    [Infinity, ""],
    [0, "a few seconds left"],
    [20, "less than a minute left"],
    [55, "about a minute left"],
    [180, "about 3 min left"],
    [5_000, "about 83 min left"],
    [7_200, "about 2 h left"],
    [86_400 * 3, "about 3 d left"],
  ])) {
    assert.equal(inWords(left === null ? null : left * 1_000), wanted);
  }
});
