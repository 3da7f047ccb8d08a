import assert from "node:assert/strict";
import { test } from "node:test";

import { served } from "../../../support/web/served.js";

const { Board, MOST_CARDS } = await served("runs/board.js");
const { placed } = await served("runs/slots.js");

const TS = "2026-11-20T12:00:00Z";

const row = (id, status = "queued", more = {}) => ({
  ...{ id, task: `task of ${id}`, runner: "sample", status, attempt: 1, tokens_in: 0, tokens_out: 0, snippet: null },
  ...{ error: null, output: null, started_at: TS, finished_at: status === "completed" ? TS : null },
  ...{ last_activity_at: TS, last_position: "e-10", ...more },
});
const frame = (seq, id, type, more = {}) => ({ id: `e-${seq}`, event: { type, run_id: id, ts: TS, ...more } });
const status = (seq, id, word, more = {}) =>
  frame(seq, id, "status", { status: word, attempt: 1, tokens_in: 0, tokens_out: 0, ...more });

function board(...rows) {
  const made = new Board();
  made.learn(rows);
  return made;
}

test("live runs are cards, oldest first; those that have ended are rows, newest first", () => {
  const made = board(row("r4", "running"), row("r3", "completed"), row("r2", "running"), row("r1", "failed"));
  assert.deepEqual(made.slots, ["r2", "r4"]);
  assert.deepEqual(made.ended(null, "").map((card) => card.id), ["r3", "r1"]);
  assert.deepEqual(made.ended("failed", "").map((card) => card.id), ["r1"]);
  assert.deepEqual(made.ended(null, "r2").map((card) => card.id), ["r3"]);
});

test("a card keeps its place when its run has ended", () => {
  const made = board(row("r1"), row("r2"), row("r3"));
  made.take(status(11, "r1", "completed"));
  assert.deepEqual(made.slots, ["r1", "r2", "r3"]);
  assert.deepEqual(made.ended(null, "").map((card) => card.id), ["r1"]);
});

test("a new run takes the place of the one that has been over for longest", () => {
  const made = board(row("r1"), row("r2"), row("r3"));
  made.take(status(11, "r3", "completed", { ts: "2026-11-20T12:00:01Z" }));
  made.take(status(12, "r2", "completed", { ts: "2026-11-20T12:00:02Z" }));
  made.learn([row("r4")], true);
  assert.deepEqual(made.slots, ["r1", "r2", "r4"]);
  made.learn([row("r5"), row("r6")], true);
  assert.deepEqual(made.slots, ["r1", "r5", "r4", "r6"]);
});

test("cards that are over go when they are cleared, and the others stay in order", () => {
  const made = board(row("r1"), row("r2"), row("r3"));
  made.take(status(11, "r2", "failed"));
  assert.equal(made.hasEndedCards, true);
  made.clearEnded();
  assert.deepEqual(made.slots, ["r1", "r3"]);
  assert.equal(made.hasEndedCards, false);
});

test("there are no more cards than places", () => {
  const many = Array.from({ length: MOST_CARDS + 5 }, (_, place) => row(`r${String(place).padStart(3, "0")}`));
  assert.equal(board(...many).slots.length, MOST_CARDS);
  assert.deepEqual(placed(["a"], ["a", "b"], () => null, 1), ["a"]);
});

test("a run that the feed tells of is asked for, and told completely", () => {
  const made = board();
  made.take(status(11, "r1", "queued"));
  assert.deepEqual([...made.unknown], ["r1"]);
  made.take(status(12, "r1", "running"));
  made.take(frame(13, "r1", "node_update", { node: "writer", tokens_out: 4 }));
  made.learn([row("r1", "completed", { last_position: "e-40", tokens_out: 9 })]);
  const card = made.cards.get("r1");
  assert.deepEqual([made.unknown.size, card.status, card.tokensOut, card.run.task], [0, "running", 4, "task of r1"]);
  assert.deepEqual(made.incomplete, []);
});

test("events of sessions, and of runs that are deleted, are passed over", () => {
  const made = board();
  assert.equal(made.take(frame(11, undefined, "client_output_delta")), null);
  assert.equal(made.take(frame(13, "r0", "deleted")), null);
  assert.equal(made.take(frame(14, "r0", "node_update", { node: "n" })), null);
  made.learn([row("r0", "completed")]); // of a list that was read before
  assert.equal(made.cards.size, 0);
});

test("an old run that lies beyond the list is asked for, with its history", () => {
  const made = board();
  made.take(frame(12, "r0", "node_update", { node: "n", tokens_out: 7 }));
  assert.deepEqual([...made.unknown], ["r0"]);
  assert.deepEqual(made.incomplete, ["r0"]);
  made.forgoHistory("r0");
  assert.deepEqual(made.incomplete, []);
});

test("an event that is in the row already changes nothing", () => {
  const made = board(row("r1", "completed"));
  assert.equal(made.take(status(9, "r1", "running")), null);
  assert.equal(made.cards.get("r1").status, "completed");
});

test("a deleted run is gone from everywhere", () => {
  const made = board(row("r1"), row("r2"));
  assert.equal(made.take(frame(11, "r1", "deleted"))?.id, "r1");
  assert.deepEqual([made.slots, [...made.cards.keys()]], [["r2"], ["r2"]]);
});

test("history makes a card complete; what came meanwhile is applied once", () => {
  const made = board(row("r1", "running", { last_position: "e-13", tokens_out: 12 }));
  assert.deepEqual(made.incomplete, ["r1"]);
  made.awaitHistory("r1");
  assert.deepEqual(made.incomplete, []);
  const update = (seq, worker, tokens) =>
    frame(seq, "r1", "node_update", { node: "writer", worker_id: worker, tokens_out: tokens });
  made.take(update(14, "w1", 9));
  made.take(update(15, "w2", 8));
  assert.equal(made.cards.get("r1").tokensOut, 12);
  made.giveHistory("r1", [status(10, "r1", "running"), update(12, "w1", 5), update(13, "w2", 7), update(14, "w1", 9)]);
  const card = made.cards.get("r1");
  assert.deepEqual([card.tokensOut, card.isComplete, card.position, card.run.task], [17, true, "e-15", "task of r1"]);
  made.take(update(16, "w1", 10));
  assert.equal(made.cards.get("r1").tokensOut, 18);
});

test("history of a run that was deleted meanwhile brings nothing back", () => {
  const made = board(row("r1", "running"));
  made.awaitHistory("r1");
  made.take(frame(11, "r1", "deleted"));
  made.giveHistory("r1", [status(10, "r1", "running")]);
  assert.equal(made.cards.size, 0);
});

test("of those that have ended the newest are kept, and those that still have a card", () => {
  const rows = Array.from({ length: 9 }, (_, place) => row(`r${place}`));
  const made = board(...rows);
  rows.forEach(({ id }, place) => place !== 8 && made.take(status(11 + place, id, "completed")));
  made.slots = ["r0", "r8"];
  assert.equal(made.forget(3), "r5");
  assert.deepEqual([...made.cards.keys()], ["r0", "r5", "r6", "r7", "r8"]);
  assert.deepEqual(made.ended(null, "r5").map((card) => card.id), ["r7", "r6", "r5"]);
  assert.equal(made.forget(4), null);
});
