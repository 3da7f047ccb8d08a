import assert from "node:assert/strict";
import { test } from "node:test";

import { served } from "../../../support/web/served.js";

const { Chain, workerOf } = await served("runs/chain.js");

/** Events at e-1, e-2 … */
function chain(...events) {
  const made = new Chain();
  events.forEach((event, place) => made.take({ id: `e-${place + 1}`, event: { ts: "2026-11-20T12:00:00Z", ...event } }));
  return made;
}

/** Each group as its name and its rows: title, text and how many frames are in it. */
const shown = (made) =>
  Object.fromEntries(
    [...made.groups].map(([name, group]) => [name, group.rows.map((row) => [row.title, row.text, row.frames.length])]),
  );

const delta = (text, more) => ({ type: "llm_text_delta", text, ...more });
const update = (node, snippet, more) => ({ type: "node_update", node, snippet, ...more });

test("pieces of one thing grow one row", () => {
  assert.deepEqual(shown(chain(delta("Once "), delta("upon "), delta("a time"))), {
    "": [["llm text delta", "Once upon a time", 3]],
  });
});

test("payloads that look like nothing are kept", () => {
  assert.deepEqual(shown(chain(delta("0"), delta(""), delta("0"))), { "": [["llm text delta", "00", 3]] });
});

test("updates of one node are one row, with the newest words", () => {
  const made = chain(
    update("supervisor", "I plan", { phase: "plan" }),
    update("writer", "Once", { iteration: 1, tokens_out: 1 }),
    update("writer", "Once upon", { iteration: 2, tokens_out: 1200 }),
    update("writer", undefined, { iteration: 3, tokens_out: 1201 }),
  );
  assert.deepEqual(shown(made), { "": [["supervisor", "I plan", 1], ["writer", "Once upon", 3]] });
  assert.equal(made.groups.get("").rows[1].facts, "iteration 3 · 1,201 tokens");
});

test("an attempt begins a row of its own", () => {
  assert.deepEqual(shown(chain(update("w", "a", { attempt: 1 }), update("w", "b", { attempt: 2 }))), {
    "": [["w", "a", 1], ["w", "b", 1]],
  });
});

test("what happens in between ends a growing row", () => {
  const made = chain(delta("a"), { type: "error", fatal: false, code: "x", message: "busy" }, delta("b"));
  assert.deepEqual(shown(made)[""], [
    ["llm text delta", "a", 1],
    ["error", "x · busy · the run goes on", 1],
    ["llm text delta", "b", 1],
  ]);
});

test("two speakers in one group grow apart, and an update between pieces does not cut them", () => {
  const made = chain(
    delta("a", { node_id: "n1" }),
    delta("x", { node_id: "n2" }),
    update("writer", "s"),
    delta("b", { node_id: "n1" }),
    delta("y", { node_id: "n2" }),
  );
  assert.deepEqual(shown(made)[""].map(([, text]) => text), ["ab", "xy", "s"]);
});

test("workers have groups of their own, and the run has one", () => {
  const made = chain(
    { type: "status", status: "running", attempt: 1 },
    update("writer", "a", { worker_id: "writer-1" }),
    update("writer", "b", { worker_id: "writer-2" }),
    { type: "tool_call_started", stream_id: "worker:writer-1", tool: "read_file", path: "README.md" },
    { type: "client_output_delta", stream_id: "queen", text: "hello" },
  );
  assert.deepEqual(Object.keys(shown(made)), ["", "writer-1", "writer-2", "queen"]);
  assert.deepEqual(shown(made)["writer-1"][1], ["tool call started", "read_file · README.md", 1]);
  assert.equal(workerOf({ type: "error", node: "writer" }), "");
});

test("the same frames in the order of the log are one group", () => {
  const made = chain(update("n", "a", { worker_id: "1" }), update("n", "b", { worker_id: "2" }));
  made.regroup(false);
  assert.deepEqual([...made.groups.keys()], [""]);
  assert.equal(made.frames.length, 2);
  made.regroup(true);
  assert.deepEqual([...made.groups.keys()], ["1", "2"]);
});

test("a frame that was there already is not there twice", () => {
  const made = chain(delta("a"));
  assert.equal(made.take({ id: "e-1", event: delta("a") }), null);
  assert.equal(made.frames.length, 1);
});

test("a gap has a row in its place, and what it left out comes there", () => {
  const made = chain(delta("a"));
  const gap = { type: "gap", from_seq: 2, to_seq: 5, dropped: 2, by_type: { llm_text_delta: 2 } };
  made.take({ id: "e-5", event: gap });
  made.take({ id: "e-6", event: delta("z") });
  assert.deepEqual(shown(made)[""].map(([title]) => title), ["llm text delta", "skipped", "llm text delta"]);
  made.fill([made.frames[1]], [
    { id: "e-3", event: delta("b") },
    { id: "e-5", event: delta("c") },
    { id: "e-1", event: delta("a") },
  ]);
  assert.deepEqual(shown(made), { "": [["llm text delta", "abcz", 4]] });
  assert.equal(made.position, "e-6");
});

test("gaps that follow each other are one row", () => {
  const made = chain(delta("a"));
  for (const seq of [5, 9]) made.take({ id: `e-${seq}`, event: { type: "gap", dropped: 2, by_type: {} } });
  assert.deepEqual(shown(made)[""].map(([title, , count]) => [title, count]), [["llm text delta", 1], ["skipped", 2]]);
});

test("the newest frame of an open row stays in sight, and the ones before can be looked at", () => {
  const [row] = chain(delta("a"), delta("b"), delta("c")).groups.get("").rows;
  assert.equal(row.shown.event.text, "c");
  row.back = 2;
  assert.equal(row.shown.event.text, "a");
  row.back = 9;
  assert.equal(row.shown.event.text, "a");
});

test("ten thousand events are folded in less time than a frame or two", () => {
  const made = new Chain();
  for (let place = 0; place < 10_000; place += 1) {
    made.take({ id: `e-${place}`, event: place % 2 ? delta("word ") : update("writer", "so far", { iteration: place }) });
  }
  assert.equal(made.groups.get("").rows.length, 2);
  assert.equal(made.frames.length, 10_000);
});
