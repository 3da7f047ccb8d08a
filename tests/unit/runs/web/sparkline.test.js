import assert from "node:assert/strict";
import { test } from "node:test";

import { served } from "../../../support/web/served.js";

const { sparkline } = await served("runs/sparkline.js");

test("the highest value touches the top, nothing the bottom", () => {
  const { line, highest } = sparkline([0, 5, 10], { width: 20, height: 12 });
  assert.equal(line, "M0 11L10 6L20 1");
  assert.equal(highest, 10);
});

test("the area is closed at the bottom", () => {
  assert.equal(sparkline([1, 1], { width: 8, height: 4 }).area, "M0 1L8 1L8 4L0 4Z");
});

test("a trickle stays low", () => {
  assert.equal(sparkline([1, 1], { width: 8, height: 12, least: 10 }).line, "M0 10L8 10");
});

test("one value is no line", () => {
  assert.deepEqual(sparkline([4], { width: 8, height: 4 }), { line: "", area: "", highest: 4 });
});
