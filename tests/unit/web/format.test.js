// Numbers and times in words.

import assert from "node:assert/strict";
import { test } from "node:test";

import { bytes, duration, number, plural, relative, shortId, words } from "../../../shared/web/format.js";

/** @param {(value: any) => string} format @param {[any, string][]} table */
function check(format, table) {
  for (const [value, wanted] of table) assert.equal(format(value), wanted);
}

test("a duration has two units at most, and what is as long as a minute is one", () => {
  check(duration, [
    [-5, "0 ms"],
    [0, "0 ms"],
    [840.4, "840 ms"],
    [999.6, "1.0 s"],
    [1_000, "1.0 s"],
    [9_940, "9.9 s"],
    [9_960, "10 s"],
    [59_400, "59 s"],
    [59_600, "1 min"],
    [200_000, "3 min 20 s"],
    [3_600_000, "1 h"],
    [7_500_000, "2 h 5 min"],
    [86_400_000 * 3 + 3_600_000 * 4, "3 d 4 h"],
  ]);
});

test("how long ago is said coarsely, and what is to come as well", () => {
  const now = Date.parse("2026-11-28T12:00:00Z");
  check((seconds) => relative(now - seconds * 1_000, now), [
    [0, "just now"],
    [1.9, "just now"],
    [12, "12 s ago"],
    [59.9, "59 s ago"],
    [60, "1 min ago"],
    [3_599, "59 min ago"],
    [7_200, "2 h ago"],
    [86_400 * 2, "2 d ago"],
    [-3, "in 3 s"],
  ]);
  assert.equal(relative("2026-11-28T11:59:00Z", now), "1 min ago");
});

test("numbers are grouped, sizes have a unit, and one of a thing is one", () => {
  check(number, [[0, "0"], [1234567, "1,234,567"], [0.25, "0.3"]]);
  check(bytes, [[0, "0 B"], [999, "999 B"], [1_400, "1.4 kB"], [999_960, "1.0 MB"], [3_000_000, "3.0 MB"], [2.5e9, "2.5 GB"]]);
  check((count) => plural(count, "run"), [[0, "0 runs"], [1, "1 run"], [1_000, "1,000 runs"]]);
  assert.equal(plural(2, "try", "tries"), "2 tries");
});

test("names become words, and ids short", () => {
  assert.equal(words("waiting_input"), "waiting input");
  assert.equal(shortId("run_01m7wcj1qnsjq3bvp93wqmyk9v"), "run_…qmyk9v");
  assert.equal(shortId("nonsense"), "nonsense");
});
