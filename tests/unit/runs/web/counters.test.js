import assert from "node:assert/strict";
import { test } from "node:test";

import { served } from "../../../support/web/served.js";

const { Counters } = await served("runs/counters.js");

/** The sums after these updates: `[worker, tokens_in, tokens_out, more]`. */
function counted(...updates) {
  const counters = new Counters();
  for (const [worker, tokensIn, tokensOut, more] of updates) {
    counters.count({ worker_id: worker, tokens_in: tokensIn, tokens_out: tokensOut, ...more }, 1);
  }
  return [counters.tokensIn, counters.tokensOut];
}

test("counters are cumulative per worker", () => {
  assert.deepEqual(counted(["a", 10, 1], ["a", 10, 5], ["b", 20, 2]), [30, 7]);
});

test("an update that does not count changes nothing", () => {
  assert.deepEqual(counted(["a", 10, 5], ["a", undefined, undefined]), [10, 5]);
});

test("a count that lies behind does not take back what was counted", () => {
  assert.deepEqual(counted(["a", 10, 5], ["a", 8, 4]), [10, 5]);
});

test("another attempt begins at nothing and adds to the one before", () => {
  assert.deepEqual(counted(["a", 10, 5, { attempt: 1 }], ["a", 3, 2, { attempt: 2 }]), [13, 7]);
});

test("a guess is replaced by the next count, whatever that is", () => {
  assert.deepEqual(counted(["a", 10, 50, { estimated: true }], ["a", 12, 40]), [12, 40]);
  const counters = new Counters();
  counters.count({ tokens_out: 5, estimated: true }, 1);
  assert.equal(counters.estimated, true);
  counters.count({ tokens_out: 5 }, 1);
  assert.equal(counters.estimated, false);
});
