// Many runs on one stream of server-sent events.

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { Recorder, linesFor } from "../../support/web/recorder.js";
import { ScriptedServer, event, frame, nothing, poll, problem, sse } from "../../support/web/scripted_server.js";

const ALL = "/api/v1/runs/stream";
const path = (number, end = "stream") => `/api/v1/runs/run_${number}/${end}`;
const of = (number, seq, more) => [`e-${seq}`, event(seq, { run_id: `run_${number}`, ...more })];
const ids = (...seqs) => seqs.map((seq) => `e-${seq}`);

let server;
let lines;
let recorders;

beforeEach(async () => {
  server = await ScriptedServer.start();
  lines = linesFor();
  recorders = [];
});

afterEach(async () => {
  recorders.forEach(({ following }) => following.stop());
  await server.close();
  assert.deepEqual(server.surprises, []);
});

function follow(number, options = {}) {
  const recorder = new Recorder().follow(server.url + path(number), { lines, ...options });
  recorders.push(recorder);
  return recorder;
}

/** Each run has one event before anybody looks: its own number. */
function withHistory(...numbers) {
  for (const number of numbers) {
    const history = [{ id: `e-${number}`, event: event(number, { run_id: `run_${number}` }) }];
    server.on(path(number, "events"), [poll(history, { next: `e-${10 + number}`, head: `e-${10 + number}` })]);
  }
}

test("runs that are followed together are read up by polling, then share one stream from the earliest position", async () => {
  withHistory(1, 2, 3);
  let out;
  server.on(ALL, [sse((stream) => (out = stream.hello("e-11", { resumed: true }).live("e-11")))]);
  const [one, two, three] = [follow(1), follow(2), follow(3)];
  await Promise.all([one, two, three].map((recorder) => recorder.phase("live")));
  const [request] = await server.came(ALL);
  assert.deepEqual(request.query.getAll("run"), ["run_1", "run_2", "run_3"]);
  assert.equal(request.headers["last-event-id"], "e-11");
  out.frame(...of(2, 12)).frame(...of(1, 14)).frame(...of(2, 15)); // the second has had 12
  await two.until(() => two.ids.length === 2);
  assert.deepEqual([one.ids, two.ids, three.ids], [ids(1, 14), ids(2, 15), ids(3)]);
  assert.equal(one.frames.at(-1).live, true);
  assert.equal(three.following.position, "e-15"); // what passed was none of its own: it need not be asked for again
});

test("one run alone has its own stream, and a second one joins it in another", async () => {
  server.on(path(1), [sse((out) => out.hello("e-0").events(1).live("e-1"))]);
  const one = await follow(1).phase("live").then(() => recorders[0]);
  server.on(path(1, "events"), [poll([], { next: "e-20" })]);
  withHistory(2);
  server.on(ALL, [sse((out) => out.hello("e-12", { resumed: true }).live("e-12").frame(...of(1, 21)))]);
  const two = follow(2);
  await one.until(() => one.ids.length === 2);
  assert.deepEqual([one.ids, two.ids], [ids(1, 21), ids(2)]);
  await server.requests[0].left;
});

test("a run's end is its own, and the others go on", async () => {
  withHistory(1, 2, 3);
  let out;
  server.on(ALL, [sse((stream) => (out = stream.hello("e-11", { resumed: true }).live("e-11")))]);
  const [one, two, three] = [follow(1), follow(2), follow(3)];
  await three.phase("live");
  out.frame(...of(1, 14, { status: "failed" })).frame(...of(2, 15, { type: "deleted" })).frame(...of(3, 16));
  await Promise.all([one.phase("ended"), two.phase("ended"), three.until(() => three.ids.length === 2)]);
  assert.deepEqual([one.following.status.outcome, two.following.status.reason], ["failed", "access_revoked"]);
  assert.deepEqual(one.ids, ids(1, 14));
  assert.equal(three.following.status.phase, "live");
  assert.equal((await server.came(ALL)).length, 1);
});

test("after a cut it goes on from the earliest position without reading anybody up again", async () => {
  withHistory(1, 2);
  server.on(ALL, [
    sse((out) => out.hello("e-11", { resumed: true }).live("e-11").frame(...of(1, 14)).cut()),
    sse((out) => out.hello("e-14", { resumed: true }).live("e-14").frame(...of(2, 15))),
  ]);
  const [one, two] = [follow(1), follow(2)];
  await two.until(() => two.ids.length === 2);
  assert.deepEqual([one.ids, two.ids], [ids(1, 14), ids(2, 15)]);
  assert.equal(server.requests[3].headers["last-event-id"], "e-14");
  assert.equal(server.requests.length, 4);
});

test("one that is not there, or over, is told so, and keeps nobody from theirs", async () => {
  server.on(path(1, "events"), [problem(404, "There is no such run.")]);
  server.on(path(2, "events"), [poll([frame(2)], { next: "e-12", ended: "completed" })]);
  withHistory(3, 4);
  server.on(ALL, [sse((out) => out.hello("e-13", { resumed: true }).live("e-13"))]);
  const [one, two, three, four] = [follow(1), follow(2), follow(3), follow(4)];
  await Promise.all([one.phase("refused"), two.phase("ended"), three.phase("live"), four.phase("live")]);
  assert.equal(two.following.status.outcome, "completed");
  assert.deepEqual(server.requests.at(-1).query.getAll("run"), ["run_3", "run_4"]);
});

test("one that goes missing while the others are cut off is found out by its twin", async () => {
  withHistory(1, 2, 3);
  server.on(path(1, "events"), [problem(404, "There is no such run.")]);
  for (const number of [2, 3]) server.on(path(number, "events"), [poll([], { next: "e-20" })]);
  server.on(ALL, [
    sse((out) => out.hello("e-11", { resumed: true }).live("e-11").cut()),
    problem(404, "There is no run run_1."),
    sse((out) => out.hello("e-20", { resumed: true }).live("e-20").frame(...of(2, 21))),
  ]);
  const [one, two] = [follow(1), follow(2), follow(3)];
  await Promise.all([one.phase("refused"), two.until(() => two.ids.length === 2)]);
  assert.deepEqual(server.requests.at(-1).query.getAll("run"), ["run_2", "run_3"]);
});

test("a gap is told to each with a backfill of its own, a reset to all", async () => {
  withHistory(1, 2);
  const gap = { type: "gap", from_seq: 14, to_seq: 16, dropped: 3, by_type: {}, reason: "lag", backfill: `/api/v1/runs/events?run=run_1&run=run_2&after=e-13&until=e-16` };
  const reset = { type: "reset", reason: "epoch_changed", requested: "e-16", oldest: 1, head: 1 };
  server.on(ALL, [sse((out) => out.hello("e-11", { resumed: true }).live("e-11").frame("e-16", gap).frame("f-0", reset))]);
  const [one, two] = [follow(1), follow(2)];
  await Promise.all([one, two].map((recorder) => recorder.until(() => recorder.kinds("reset").length > 0)));
  const [[, told]] = two.kinds("gap");
  assert.equal(told.backfill, `${server.url}${path(2, "events")}?after=e-13&until=e-16`);
  assert.equal(two.following.position, "f-0");
});

test("runs that ask for less than everything have streams of their own", async () => {
  for (const number of [1, 2]) server.on(path(number), [sse((out) => out.hello("e-0").live("e-0"))]);
  const both = [follow(1, { types: ["status"] }), follow(2, { types: ["status"] })];
  await Promise.all(both.map((recorder) => recorder.phase("live")));
  assert.equal(await server.openSockets, 2);
});
