// A resource that is fetched, followed, polled, and fetched anew.

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { Credentials, Lines, backfill, request, shouldStream } from "../../../shared/web/stream.js";
import { FAST, Recorder, linesFor } from "../../support/web/recorder.js";
import { ScriptedServer, event, frame, json, nothing, poll, problem, sse } from "../../support/web/scripted_server.js";

const RUN = "/api/v1/runs/run_1";
const LIST = "/api/v1/runs";

let server;
let recorder;

beforeEach(async () => {
  server = await ScriptedServer.start();
  recorder = new Recorder();
});

afterEach(async () => {
  recorder.following?.stop();
  await server.close();
  assert.deepEqual(server.surprises, []);
});

/** A run whose state is the numbers of its events. */
const run = (options = {}) =>
  recorder.resource({
    url: server.url + RUN,
    streamUrl: `${server.url}${RUN}/stream`,
    readState: (body) => [...body.events],
    applyEvent: (state, { n }) => [...state, n],
    ...options,
  });

const runAt = (seq, status = "running") =>
  json({ status, last_position: `e-${seq}`, events: Array.from({ length: seq }, (_, index) => index + 1) });

const state = () => recorder.following.state;

test("it fetches, and follows from where the answer stands", async () => {
  server.on(RUN, [runAt(2)]);
  server.on(`${RUN}/stream`, [sse((out) => out.hello("e-2", { resumed: true }).live("e-2").events(3, 4).end("e-4"))]);
  await run().phase("ended");
  assert.deepEqual(state(), [1, 2, 3, 4]);
  assert.equal(server.requests[1].headers["last-event-id"], "e-2");
  assert.deepEqual(recorder.kinds("change").map(([, what]) => what), [[1, 2], [1, 2, 3, 4]]); // once a batch
});

test("a list is followed from its as_of", async () => {
  server.on(LIST, [json({ data: [{ id: "run_1", status: "completed" }], as_of: "e-7" })]);
  server.on(`${LIST}/stream`, [sse((out, { headers }) => out.hello(headers["last-event-id"], { resumed: true }).events(8).live("e-8"))]);
  recorder.resource({ url: server.url + LIST, streamUrl: `${server.url}${LIST}/stream`, applyEvent: () => {} });
  await recorder.phase("live");
  assert.deepEqual(recorder.ids, ["e-8"]);
});

test("what a state is changed to in place counts as changed, and a mistake of the page's stops nothing", async () => {
  const thrown = [];
  globalThis.reportError = (error) => thrown.push(error.message); // what browsers have
  server.on(RUN, [runAt(0)]);
  server.on(`${RUN}/stream`, [sse((out) => out.hello("e-0").live("e-0").events(1, 2, 3))]);
  let calls = 0;
  const onChange = () => {
    if ((calls += 1) === 2) throw new Error("a mistake in painting");
  };
  const applyEvent = (state, { n }) => {
    if (n === 2) throw new Error("a mistake in applying");
    state.push(n);
  };
  run({ applyEvent, onChange });
  await recorder.phase("live");
  while (thrown.length < 2) await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(thrown, ["a mistake in applying", "a mistake in painting"]);
  assert.deepEqual(state(), [1, 3]);
  assert.equal(recorder.following.status.phase, "live");
});

test("one that is over has no stream, unless its history is asked for", async () => {
  server.on(RUN, runAt(2, "failed"));
  await run().phase("ended");
  assert.deepEqual([recorder.following.status.outcome, server.requests.length], ["failed", 1]);
  assert.deepEqual(state(), [1, 2]);

  server.on(`${RUN}/stream`, [sse((out) => out.hello("e-0").events(1, 2).live("e-2").end("e-2", { status: "failed" }))]);
  const whole = new Recorder().resource({
    ...{ url: server.url + RUN, streamUrl: `${server.url}${RUN}/stream`, after: "start" },
    ...{ readState: () => [], applyEvent: (state, { n }) => [...state, n] },
  });
  await whole.phase("ended");
  assert.deepEqual(whole.following.state, []); // the state had these already
});

test("should there be a stream", () => {
  assert.ok(shouldStream({ streamUrl: "/x", status: "running" }));
  assert.ok(shouldStream({ streamUrl: "/x" }));
  for (const status of ["succeeded", "completed", "failed", "cancelled", "timed_out", "stopped", "exited", "lost"]) {
    assert.ok(!shouldStream({ streamUrl: "/x", status }));
  }
  assert.ok(!shouldStream({ status: "running" }));
  assert.ok(!shouldStream({ streamUrl: null }));
});

// ── starting over ────────────────────────────────────────────────────────────────────────────────────────────────

const reset = { type: "reset", reason: "history_trimmed", requested: "e-2", oldest: 50, head: 60 };

test("after a reset a list is fetched anew, and followed from its new as_of", async () => {
  server.on(LIST, [json({ data: [], as_of: "e-2" }), json({ data: [], as_of: "e-60" })]);
  server.on(`${LIST}/stream`, [
    sse((out) => out.hello("e-2").frame("e-49", reset).events(50, 51)), // what is kept: the new state has it
    sse((out, { headers }) => {
      assert.equal(headers["last-event-id"], "e-60");
      out.hello("e-60", { resumed: true }).live("e-60").events(61);
    }),
  ]);
  recorder.resource({ url: server.url + LIST, streamUrl: `${server.url}${LIST}/stream`, applyEvent: () => {} });
  await recorder.until(() => recorder.ids.length > 0);
  assert.deepEqual(recorder.ids, ["e-61"]);
  assert.equal(recorder.kinds("reset").length, 1);
});

test("a resource that has been quiet for longer than history is kept starts over once, not for ever", async () => {
  server.on(RUN, [runAt(2), runAt(2)]); // its newest event has been trimmed
  server.on(`${RUN}/stream`, [
    sse((out) => out.hello("e-2").frame("e-49", reset)),
    sse((out, { query, headers }) => {
      assert.deepEqual([query.get("after"), headers["last-event-id"]], ["start", undefined]);
      out.hello("e-49").live("e-49").events(61).end("e-61");
    }),
  ]);
  await run().phase("ended");
  assert.deepEqual(state(), [1, 2, 61]);
});

test("a gap is dealt with by fetching the state anew; what happens meanwhile is neither lost nor doubled", async () => {
  const gap = { type: "gap", from_seq: 3, to_seq: 5, dropped: 3, by_type: {}, reason: "lag", backfill: `${RUN}/events?after=e-2&until=e-5` };
  let first;
  server.on(RUN, [
    runAt(2),
    (response) => {
      first.events(6, 7); // the state below was read before 7 was published, and after 6
      setTimeout(() => runAt(6)(response), 20);
    },
  ]);
  server.on(`${RUN}/stream`, [
    sse((out) => (first = out.hello("e-2", { resumed: true }).live("e-2").frame("e-5", gap))),
    sse((out, { headers }) => {
      assert.equal(headers["last-event-id"], "e-6");
      out.hello("e-6", { resumed: true }).events(7).live("e-7").events(8).end("e-8");
    }),
  ]);
  await run({ onGap: undefined }).phase("ended");
  assert.deepEqual(state(), [1, 2, 3, 4, 5, 6, 7, 8]);
});

test("a page that deals with gaps by itself fetches what was dropped", async () => {
  const gap = { type: "gap", from_seq: 3, to_seq: 5, dropped: 3, by_type: {}, reason: "lag", backfill: `${RUN}/events?after=e-2&until=e-5` };
  server.on(RUN, [runAt(2)]);
  server.on(`${RUN}/stream`, [sse((out) => out.hello("e-2", { resumed: true }).live("e-2").frame("e-5", gap))]);
  server.on(`${RUN}/events`, [poll([frame(3), frame(4), frame(5)], { next: "e-5" })]);
  await run().until(() => recorder.kinds("gap").length > 0);
  const [[, told]] = recorder.kinds("gap");
  assert.deepEqual((await backfill(told, { credentials: new Credentials() })).map(({ id }) => id), ["e-3", "e-4", "e-5"]);
});

test("another subject starts over, and nothing of the old one comes any more", async () => {
  let old;
  server.on(RUN, [runAt(1)]).on("/api/v1/runs/run_2", [json({ status: "running", last_position: "e-9", events: [9] })]);
  server.on(`${RUN}/stream`, [sse((out) => (old = out.hello("e-1", { resumed: true }).live("e-1")))]);
  server.on("/api/v1/runs/run_2/stream", [sse((out) => out.hello("e-9", { resumed: true }).live("e-9").events(10).end("e-10"))]);
  await run().phase("live");
  const addresses = { url: `${server.url}/api/v1/runs/run_2`, streamUrl: `${server.url}/api/v1/runs/run_2/stream` };
  recorder.following.update(addresses);
  assert.equal(state(), null);
  old.events(2);
  await recorder.phase("ended");
  assert.deepEqual(state(), [9, 10]);
  recorder.following.update(addresses); // the same: nothing happens
  assert.equal(recorder.following.status.phase, "ended");
});

test("refresh fetches anew and goes on", async () => {
  server.on(RUN, [runAt(1), runAt(3)]);
  server.on(`${RUN}/stream`, [
    sse((out) => out.hello("e-1", { resumed: true }).live("e-1")),
    sse((out) => out.hello("e-3", { resumed: true }).live("e-3")),
  ]);
  await run().phase("live");
  await Promise.all([recorder.following.refresh(), recorder.following.refresh()]);
  assert.deepEqual(state(), [1, 2, 3]);
  await server.came(`${RUN}/stream`, 2);
});

// ── failures ─────────────────────────────────────────────────────────────────────────────────────────────────────

test("a state that cannot be fetched now is fetched later; one that is refused is not", async () => {
  server.on(RUN, [problem(503, "away"), (response) => response.destroy(), runAt(1)]);
  server.on(`${RUN}/stream`, [sse((out) => out.hello("e-1", { resumed: true }).live("e-1"))]);
  run();
  await recorder.phase("reconnecting");
  recorder.following.retryNow();
  await recorder.until(() => server.requests.length === 2 && recorder.following.status.retryAt !== null);
  recorder.following.retryNow();
  await recorder.phase("live");

  const refused = new Recorder().resource({ url: `${server.url}/api/v1/runs/run_9`, streamUrl: `${server.url}/api/v1/runs/run_9/stream` });
  server.on("/api/v1/runs/run_9", [problem(404, "There is no such run.")]);
  await refused.phase("refused");
  assert.equal(refused.following.status.problem.detail, "There is no such run.");
});

test("signed out before anything was fetched, it goes on after sign-in", async () => {
  const credentials = new Credentials();
  const guarded = (answer) => (response, asked) =>
    asked.headers.authorization === "Bearer good" ? answer(response, asked) : problem(401, "a token is needed")(response);
  server.on(RUN, guarded(runAt(1))).on(`${RUN}/stream`, guarded(sse((out) => out.hello("e-1", { resumed: true }).live("e-1"))));
  await run({ lines: new Lines({ credentials, tuning: FAST }) }).phase("signed_out");
  assert.equal(credentials.state, "signed_out");
  credentials.use("good");
  await recorder.phase("live");
});

test("whoever signs in as somebody else sees nothing of what the first one saw", async () => {
  const credentials = new Credentials("ann");
  const whose = ({ headers }) => headers.authorization.replace("Bearer ", "");
  server.on(RUN, (response, asked) => json({ status: "running", last_position: "e-1", events: [whose(asked)] })(response));
  server.on(`${RUN}/stream`, (response, asked) => sse((out) => out.hello("e-1", { resumed: true }).live("e-1"))(response, asked));
  await run({ lines: new Lines({ credentials, tuning: FAST }) }).phase("live");
  assert.deepEqual(state(), ["ann"]);
  const noted = recorder.log.length;
  credentials.use("bob");
  assert.equal(state(), null);
  await recorder.phase("live", noted);
  assert.deepEqual(state(), ["bob"]);
});

test("stopped while it fetches, nothing is called any more", async () => {
  let answer;
  server.on(RUN, [(response) => (answer = response)]);
  run();
  await server.came(RUN);
  const noted = recorder.log.length;
  recorder.following.stop();
  await server.requests[0].left;
  answer.destroy();
  assert.equal(recorder.log.length, noted);
});

// ── without a url, without a stream ──────────────────────────────────────────────────────────────────────────────

test("without a url the state is what the stream tells, and a reset begins it anew", async () => {
  server.on(`${RUN}/stream`, [sse((out) => out.hello("e-0").events(1, 2).frame("f-0", reset).frame("f-1", event(7)).live("f-1").end("f-1"))]);
  await run({ url: null, initial: [] }).phase("ended");
  assert.deepEqual(state(), [7]);
});

test("without a stream it polls, changes only when something has changed, and ends with what it is about", async () => {
  const tagged = (seq, status) => (response, { headers }) => {
    if (headers["if-none-match"] === `"${seq}"`) return response.writeHead(304).end();
    json({ status, last_position: `e-${seq}` }, { ETag: `"${seq}"` })(response);
  };
  server.on(RUN, [tagged(1, "running"), tagged(1, "running"), problem(503, "away"), tagged(2, "running"), tagged(2, "running"), tagged(3, "failed")]);
  recorder.resource({ url: server.url + RUN, pollSeconds: 0.01 });
  while (recorder.following.status.phase !== "ended") {
    if (recorder.following.status.phase === "reconnecting") recorder.following.retryNow();
    await recorder.until(() => true);
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.deepEqual(recorder.kinds("change").map(([, what]) => what.last_position), ["e-1", "e-2", "e-3"]);
  assert.ok(recorder.phases.includes("polling"));
  assert.equal(recorder.following.status.outcome, "failed");
  assert.equal(server.requests.length, 6);
});

// ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────

test("a request carries the token, its JSON and its key; its refusal says why", async () => {
  const credentials = new Credentials("good");
  server.on("/x", [json({ id: 1 }), nothing, problem(429, "slow down", { "Retry-After": "7" }), (response) => response.destroy()]);
  assert.deepEqual(await request(`${server.url}/x`, { json: { a: 1 }, idempotencyKey: "k", credentials }), { id: 1 });
  const [{ method, headers }] = server.requests;
  assert.deepEqual([method, headers.authorization, headers["idempotency-key"], headers["content-type"]], ["POST", "Bearer good", "k", "application/json"]);
  assert.equal(await request(`${server.url}/x`, { method: "DELETE", credentials }), null);
  await assert.rejects(request(`${server.url}/x`, { credentials }), { name: "Refused", status: 429, retryAfterMs: 7000, message: "slow down" });
  await assert.rejects(request(`${server.url}/x`, { credentials }), { name: "Unavailable" });
});

test("a request that gets no answer in time is given up", async () => {
  server.on("/x", [() => {}]);
  await assert.rejects(request(`${server.url}/x`, { timeoutMs: 20, credentials: new Credentials() }), { name: "Unavailable" });
});
