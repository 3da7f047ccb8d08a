import assert from "node:assert/strict";
import { test } from "node:test";

import { served } from "../../../support/web/served.js";

const { Card } = await served("runs/card.js");

const T = Date.parse("2026-11-20T12:00:00Z");
const ROW = {
  ...{ id: "run_1", task: "a poem", runner: "sample", status: "queued", attempt: 1, error: null, output: null },
  ...{ tokens_in: 0, tokens_out: 0, snippet: null, started_at: null, finished_at: null, last_position: "e-1" },
  last_activity_at: "2026-11-20T12:00:00Z",
};

const at = (seconds) => new Date(T + seconds * 1_000).toISOString();
const status = (word, seconds, more) => ({
  ...{ type: "status", status: word, attempt: 1, tokens_in: 0, tokens_out: 0, ts: at(seconds) },
  ...more,
});
const update = (seconds, more) => ({ type: "node_update", node: "writer", ts: at(seconds), ...more });

/** A card of a new run, with these events at e-2, e-3 … */
function told(...events) {
  const card = new Card("run_1");
  card.learn(ROW, true);
  events.forEach((event, place) => card.apply(event, `e-${place + 2}`));
  return card;
}

test("a run is followed from the queue to its end", () => {
  const card = told(status("running", 1), update(2, { tokens_out: 10, snippet: "Once" }));
  assert.deepEqual([card.status, card.tokensOut, card.snippet, card.isOver], ["running", 10, "Once", false]);
  assert.equal(card.duration(T + 3_000), 2_000);
  card.apply(status("completed", 5, { tokens_out: 12, output: "Once upon", snippet: "Once upon" }), "e-9");
  assert.deepEqual([card.status, card.tokensOut, card.output, card.isOver], ["completed", 12, "Once upon", true]);
  assert.equal(card.duration(T + 99_000), 4_000);
});

test("an event that was taken in already changes nothing", () => {
  const card = told(update(1, { tokens_out: 10 }));
  const { changes } = card;
  assert.equal(card.apply(update(1, { tokens_out: 50 }), "e-2"), false);
  assert.equal(card.apply(status("failed", 1), "e-1"), false);
  assert.deepEqual([card.changes, card.tokensOut, card.status], [changes, 10, "queued"]);
});

test("tokens per second come from counters that are cumulative", () => {
  const card = told(...Array.from({ length: 50 }, (_, tenth) => update(tenth / 10, { tokens_out: 3 * (tenth + 1) })));
  assert.equal(Math.round(card.rates.perSecond(T + 5_000)), 30);
  assert.deepEqual(card.rates.series(T + 5_000, 3), [30, 30, 30]);
});

test("the workers of a run are counted together", () => {
  const card = told(
    update(1, { worker_id: "w1", tokens_out: 5 }),
    update(1, { worker_id: "w2", tokens_out: 7 }),
    update(2, { worker_id: "w1", tokens_out: 9 }),
  );
  assert.equal(card.tokensOut, 16);
  assert.equal(card.place.worker, "w1");
});

test("a node that works on the result has the word before one that does not", () => {
  const card = told(
    update(1, { node: "supervisor", snippet: "I plan" }),
    update(2, { snippet: "Once upon" }),
    update(3, { node: "supervisor", snippet: "I wait" }),
  );
  assert.equal(card.snippet, "Once upon");
  assert.equal(card.place.node, "supervisor");
});

test("pieces of text grow into the snippet", () => {
  const card = told(
    { type: "llm_text_delta", text: "Once ", ts: at(1), stream_id: "worker:7" },
    { type: "llm_text_delta", text: "upon", ts: at(2), stream_id: "worker:7" },
  );
  assert.equal(card.snippet, "Once upon");
  assert.equal(card.place.worker, "7");
});

test("a run that asks is answered, and goes on", () => {
  const card = told(
    status("running", 1),
    { type: "client_input_requested", prompt: "Which river?", options: ["Rhine", "Elbe"], ts: at(2) },
    status("waiting_input", 2),
  );
  assert.deepEqual(card.question, { prompt: "Which river?", options: ["Rhine", "Elbe"] });
  card.apply({ type: "client_input_received", text: "Elbe", ts: at(9) }, "e-8");
  assert.equal(card.question, null);
});

test("a run that says nothing for long has stalled, one that waits or has ended has not", () => {
  const running = told(status("running", 1));
  assert.equal(running.isStalled(T + 10_000), false);
  assert.equal(running.isStalled(T + 20_000), true);
  assert.equal(told(status("waiting_input", 1)).isStalled(T + 60_000), false);
  assert.equal(told(status("completed", 1)).isStalled(T + 60_000), false);
  assert.equal(told().isStalled(T + 60_000), false);
});

test("trouble is over with the next sign of work", () => {
  const card = told({ type: "error", fatal: false, code: "upstream_429", message: "busy", ts: at(1) });
  assert.deepEqual(card.trouble, { code: "upstream_429", message: "busy" });
  card.apply(update(2), "e-5");
  assert.equal(card.trouble, null);
});

test("a run that is queued again has not started", () => {
  const card = told(status("running", 1), status("queued", 40, { attempt: 2 }));
  assert.deepEqual([card.startedAt, card.attempt, card.duration(T + 50_000)], [null, 2, null]);
});

test("what the list says of a run that the feed has told of is its prompt, not how it stands", () => {
  const card = new Card("run_1");
  card.apply(status("running", 1), "e-5");
  card.learn({ ...ROW, status: "completed", last_position: "e-90" });
  assert.deepEqual([card.status, card.position, card.run.task, card.isKnown], ["running", "e-5", "a poem", true]);
});

test("a run that was under way when the page came is not complete, one from the queue is", () => {
  const card = new Card("run_1");
  card.learn({ ...ROW, status: "running", tokens_out: 40, snippet: "so far" });
  assert.deepEqual([card.isComplete, card.tokensOut, card.snippet], [false, 40, "so far"]);
  card.apply(update(3, { tokens_out: 20 }), "e-7");
  assert.equal(card.tokensOut, 40); // of which worker they are is not known
  const queued = new Card("run_2");
  queued.learn({ ...ROW, id: "run_2" });
  assert.equal(queued.isComplete, true);
});
