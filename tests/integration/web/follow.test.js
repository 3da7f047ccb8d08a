// Following a stream of server-sent events against servers that do everything wrong.

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { Credentials, Lines, streamSse } from "../../../shared/web/stream.js";
import { FAST, Recorder, linesFor } from "../../support/web/recorder.js";
import { ScriptedServer, Sse, event, frame, html, json, nothing, poll, problem, sse } from "../../support/web/scripted_server.js";

const STREAM = "/api/v1/runs/run_1/stream";
const POLLS = "/api/v1/runs/run_1/events";
const id = (...seqs) => seqs.map((seq) => `e-${seq}`);

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

const follow = (options) => recorder.follow(server.url + STREAM, options);

// ── coming back ──────────────────────────────────────────────────────────────────────────────────────────────────

test("history is told from news, and the end is the end", async () => {
  server.on(STREAM, [
    sse((out) => out.hello("e-0").events(1, 2).live("e-2", 2).events(3).end("e-3", { status: "completed" })),
  ]);
  await follow().phase("ended");
  assert.deepEqual(recorder.ids, id(1, 2, 3));
  assert.deepEqual(recorder.frames.map(({ live }) => live), [false, false, true]);
  assert.deepEqual(recorder.phases, ["connecting", "catching_up", "live", "ended"]);
  const { reason, outcome } = recorder.following.status;
  assert.deepEqual({ reason, outcome }, { reason: "terminal", outcome: "completed" });
  assert.equal(recorder.kinds("end").length, 1);
});

test("cut off anywhere in the bytes of a stream, nothing is lost and nothing comes twice", async () => {
  const whole = [];
  const tape = { writeHead() {}, write: (text) => whole.push(text), end() {} };
  new Sse(tape).hello("e-0").events(1, 2).live("e-2").events(3, 4);
  const bytes = Buffer.from(whole.join("").replace('"n":2', '"n":2,"text":"é€😀"'));
  // What follows after the cut is what a server sends to one that comes back with the last id that it has seen.
  const resume = sse((out, { headers }) => {
    const from = Number((headers["last-event-id"] ?? "e-0").split("-")[1]);
    const rest = [1, 2, 3, 4, 5].filter((seq) => seq > from);
    out.hello(`e-${from}`, { resumed: "last-event-id" in headers }).events(...rest).live("e-5").end("e-5");
  });
  for (let cut = 0; cut <= bytes.length; cut += 7) {
    const half = (response) => {
      response.writeHead(200, { "Content-Type": "text/event-stream" });
      response.write(bytes.subarray(0, cut));
      setTimeout(() => response.destroy(), 1);
    };
    server.on(`${STREAM}${cut}`, [half, resume]);
    const one = new Recorder().follow(`${server.url}${STREAM}${cut}`, { transport: "sse", lines: linesFor() });
    await one.phase("ended");
    assert.deepEqual(one.ids, id(1, 2, 3, 4, 5), `cut at ${cut}`);
  }
});

test("what comes twice is handed over once", async () => {
  server.on(STREAM, [
    sse((out) => out.hello("e-0").events(1, 2).live("e-2").events(3).cut()),
    sse((out) => out.hello("e-3", { resumed: true }).events(2, 3, 4).live("e-4").events(4, 5).end("e-5")),
  ]);
  await follow().phase("ended");
  assert.deepEqual(recorder.ids, id(1, 2, 3, 4, 5));
});

test("it comes back with the id of a bookmark, and of a hello that begins a stream", async () => {
  server.on(STREAM, [
    sse((out) => out.hello("e-7").cut()),
    sse((out) => out.hello("e-7", { resumed: true }).live("e-7").frame("e-20", { type: "bookmark" }).cut()),
    sse((out) => out.hello("e-20", { resumed: true }).live("e-20").end("e-20")),
  ]);
  await follow({ after: "now" }).phase("ended");
  assert.deepEqual(server.requests.map(({ headers }) => headers["last-event-id"]), [undefined, "e-7", "e-20"]);
  assert.deepEqual(server.requests.map(({ query }) => query.get("after")), ["now", null, null]);
});

test("the id of a hello that goes on elsewhere is not trusted: a cut before the reset loses no reset", async () => {
  server.on(STREAM, [
    sse((out) => out.hello("e-0").events(5).live("e-5").cut()),
    sse((out) => out.hello("f-0").cut()), // a reset would have followed
    sse((out, { headers }) => {
      assert.equal(headers["last-event-id"], "e-5");
      const reset = { type: "reset", reason: "epoch_changed", requested: "e-5", oldest: 1, head: 1 };
      out.hello("f-0").frame("f-0", reset).frame("f-1", event(1)).live("f-1").end("f-1");
    }),
  ]);
  await follow().phase("ended");
  assert.deepEqual(recorder.ids, ["e-5", "f-1"]);
  assert.deepEqual(recorder.kinds("frames", "reset").map(([kind]) => kind), ["frames", "reset", "frames"]);
});

test("after a reset to an earlier position of the same epoch everything is handed over again", async () => {
  const reset = { type: "reset", reason: "unknown_position", requested: "e-9", oldest: 1, head: 3 };
  server.on(STREAM, [sse((out) => out.hello("e-9").frame("e-0", reset).events(1, 2, 3).live("e-3").end("e-3"))]);
  await follow({ after: "e-9" }).phase("ended");
  assert.deepEqual(recorder.ids, id(1, 2, 3));
});

test("a gap has its place between the frames, and says where what was dropped is", async () => {
  const gap = { type: "gap", from_seq: 3, to_seq: 5, dropped: 3, by_type: { status: 3 }, reason: "lag", backfill: `${POLLS}?after=e-2&until=e-5` };
  server.on(STREAM, [sse((out) => out.hello("e-0").live("e-0").events(1, 2).frame("e-5", gap).events(6).end("e-6"))]);
  await follow().phase("ended");
  const told = recorder.kinds("frames", "gap").flatMap(([kind, what]) => (kind === "gap" ? [what.backfill] : what));
  assert.deepEqual(told, [...id(1, 2), `${server.url}${POLLS}?after=e-2&until=e-5`, ...id(6)]);
});

test("the pause is what retry asks for and some chance, and shown to whoever counts it down", async () => {
  server.on(STREAM, [sse((out) => out.hello("e-0").live("e-0").cut(), { retry: 60_000 }), sse((out) => out.hello("e-0").end("e-0"))]);
  const before = Date.now();
  follow();
  await recorder.until(() => recorder.following.status.retryAt !== null);
  assert.equal(recorder.following.status.phase, "reconnecting");
  assert.ok(recorder.following.status.retryAt >= before + 60_000);
  recorder.following.retryNow();
  await recorder.phase("ended");
});

test("a server that leaves says when to be back", async () => {
  server.on(STREAM, [
    sse((out) => out.hello("e-0").live("e-0").end("e-0", { reason: "server_shutdown", final: false, retry_after_ms: 30_000 })),
    sse((out) => out.hello("e-0").end("e-0")),
  ]);
  follow();
  await recorder.until(() => recorder.following.status.retryAt !== null);
  assert.ok(recorder.following.status.retryAt >= Date.now() + 20_000);
  assert.match(recorder.following.status.why, /server shutdown/);
  recorder.following.retryNow();
  await recorder.phase("ended");
});

test("silence of two and a half heartbeats is a cut", async () => {
  server.on(STREAM, [
    sse((out) => out.hello("e-0", { heartbeat: 0.01 }).live("e-0")), // and not a word more
    sse((out) => out.hello("e-0", { resumed: true }).end("e-0")),
  ]);
  await follow().phase("ended");
  assert.ok(recorder.statuses.some(({ why }) => why === "nothing was heard for too long"));
  await server.requests[0].left; // and let go of
});

test("heartbeats without an event are no silence", async () => {
  let out;
  server.on(STREAM, [sse((stream) => (out = stream.hello("e-0", { heartbeat: 0.5 }).live("e-0")))]);
  await follow().phase("live");
  for (let beats = 0; beats < 8; beats += 1) {
    await new Promise((resolve) => setTimeout(resolve, 200)); // the heartbeat itself
    out.raw(":\n");
  }
  out.events(1).end("e-1");
  await recorder.phase("ended");
  assert.equal(server.requests.length, 1);
});

// ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────

for (const status of [400, 403, 404]) {
  test(`${status} is the end of trying, with the reason`, async () => {
    server.on(STREAM, [problem(status, "no, for this reason")]);
    await follow().phase("refused");
    assert.equal(recorder.following.status.problem.status, status);
    assert.equal(recorder.following.status.why, "no, for this reason");
    assert.equal(server.requests.length, 1);
  });
}

test("204 is the end", async () => {
  server.on(STREAM, [nothing]);
  await follow({ after: "e-3" }).phase("ended");
  assert.equal(server.requests[0].headers["last-event-id"], "e-3");
});

test("429 waits as long as it is told to, polls meanwhile, and streams again", async () => {
  server.on(STREAM, [
    problem(429, "too many streams", { "Retry-After": "60" }),
    sse((out, { headers }) => {
      assert.equal(headers["last-event-id"], "e-2");
      out.hello("e-2", { resumed: true }).live("e-2").events(3).end("e-3");
    }),
  ]);
  server.on(POLLS, [poll([frame(1), frame(2)], { next: "e-2" })]).on(POLLS, poll([], { next: "e-2" }));
  await follow().phase("polling");
  assert.deepEqual(recorder.ids, id(1, 2));
  assert.equal(recorder.following.status.transport, "polling");
  assert.ok(recorder.following.status.retryAt >= Date.now() + 50_000);
  recorder.following.retryNow();
  await recorder.phase("ended");
  assert.deepEqual(recorder.ids, id(1, 2, 3));
});

for (const [name, refusal] of [
  ["a proxy's page of 502", html(502)],
  ["a page of HTML with 200", html(200)],
  ["503 without Retry-After", problem(503, "the database is away")],
]) {
  test(`${name} is no end, and polling goes on as long as it lasts`, async () => {
    let streams = 0;
    server.on(STREAM, (response, request) => {
      if ((streams += 1) < 5) return refusal(response);
      return sse((out) => out.hello(request.headers["last-event-id"], { resumed: true }).live("e-9").end("e-9"))(response, request);
    });
    server.on(POLLS, [poll([frame(1)], { next: "e-1", head: "e-4" }), poll([frame(4)], { next: "e-4" })]);
    server.on(POLLS, poll([], { next: "e-9" }));
    const lines = linesFor({ tuning: { firstMs: 60, capMs: 60 } });
    await follow({ lines }).phase("ended");
    assert.deepEqual(recorder.ids, id(1, 4));
    assert.ok(recorder.phases.includes("polling"));
  });
}

test("when nothing works it says that it reconnects, and when", async () => {
  const port = server.url;
  await server.close();
  recorder.follow(port + STREAM);
  await recorder.until(() => recorder.statuses.length > 3);
  assert.ok(recorder.statuses.every(({ phase }) => phase === "reconnecting" || phase === "connecting"));
  assert.equal(recorder.following.status.why, "the server cannot be reached");
  server = await ScriptedServer.start();
});

test("a stream that is accepted and then held back by a proxy is polled meanwhile", async () => {
  let out;
  server.on(STREAM, [sse((stream) => (out = stream))]);
  server.on(POLLS, [poll([frame(1)], { next: "e-1" })]).on(POLLS, poll([], { next: "e-1" }));
  follow({ lines: linesFor({ tuning: { slowMs: 10 } }) });
  await recorder.phase("polling");
  assert.deepEqual(recorder.ids, id(1));
  out.hello("e-0").events(1, 2).live("e-2"); // it lets go of all of it at last
  await recorder.phase("live");
  assert.deepEqual(recorder.ids, id(1, 2));
});

test("while it polls, what was there before is history and what comes then is news", async () => {
  server.on(STREAM, problem(503, "no streams here"));
  server.on(POLLS, [poll([frame(1)], { next: "e-1" }), poll([frame(2)], { next: "e-2" })]).on(POLLS, poll([], { next: "e-2" }));
  follow({ lines: linesFor({ tuning: { firstMs: 60_000, capMs: 60_000 } }) });
  await recorder.until(() => recorder.ids.length === 2);
  assert.deepEqual(recorder.frames.map(({ live }) => live), [false, true]);
});

test("a poll tells of the end, of a reset, and of what it will never get", async () => {
  server.on(STREAM, problem(503, "no streams here"));
  const reset = { id: "f-0", event: { type: "reset", reason: "epoch_changed", requested: "e-9", oldest: 1, head: 2 } };
  server.on(POLLS, [poll([reset, { id: "f-1", event: event(1) }], { next: "f-2", head: "f-2", ended: "failed" })]);
  await follow({ after: "e-9" }).phase("ended");
  assert.deepEqual(recorder.kinds("reset", "frames", "end").map(([kind]) => kind), ["reset", "frames", "end"]);
  assert.equal(recorder.following.status.outcome, "failed");

  const other = new Recorder().follow(`${server.url}/api/v1/runs/run_2/stream`);
  server.on("/api/v1/runs/run_2/stream", problem(503, "no streams here")).on("/api/v1/runs/run_2/events", [problem(404, "no such run")]);
  await other.phase("refused");
});

// ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────

const wants = (token, answer) => (response, request) =>
  request.headers.authorization === `Bearer ${token}` ? answer(response, request) : problem(401, "another token")(response);

test("401 asks for a new token, once, and goes on", async () => {
  const asked = [];
  const source = ({ stale }) => (asked.push(stale), stale === null ? "old" : "new");
  server.on(STREAM, wants("new", sse((out) => out.hello("e-0").events(1).live("e-1").end("e-1"))));
  await follow({ lines: new Lines({ credentials: new Credentials(source), tuning: FAST }) }).phase("ended");
  assert.deepEqual(asked, [null, "old"]);
  assert.equal(server.requests.length, 2);
  assert.ok(!recorder.phases.includes("signed_out"));
});

test("twenty streams and requests that are refused together ask for one token", async () => {
  let asked = 0;
  const source = async ({ stale }) => {
    asked += 1;
    await new Promise((resolve) => setTimeout(resolve, 20)); // all of them are refused meanwhile
    return stale === null ? "old" : "new";
  };
  const lines = new Lines({ credentials: new Credentials(source), tuning: FAST });
  const paths = Array.from({ length: 20 }, (_, number) => `/api/v1/sessions/s${number}/stream`);
  for (const path of paths) server.on(path, wants("new", sse((out) => out.hello("e-0").live("e-0").end("e-0"))));
  const recorders = paths.map((path) => new Recorder().follow(server.url + path, { lines }));
  await Promise.all(recorders.map((one) => one.phase("ended")));
  assert.equal(asked, 2);
});

test("without a token that the server takes it is signed out, asks nobody any more, and goes on after sign-in", async () => {
  const credentials = new Credentials("bad");
  server.on(STREAM, wants("good", sse((out) => out.hello("e-0").events(1).live("e-1").end("e-1"))));
  await follow({ lines: new Lines({ credentials, tuning: FAST }) }).phase("signed_out");
  assert.equal(credentials.state, "signed_out");
  assert.equal(server.requests.length, 1);
  credentials.use("good");
  await recorder.phase("ended");
  assert.equal(server.requests.length, 2);
});

test("a source whose every token is refused is not asked without pause", async () => {
  let asked = 0;
  server.on(STREAM, problem(401, "never"));
  follow({ lines: new Lines({ credentials: new Credentials(() => `token-${(asked += 1)}`), tuning: { ...FAST, firstMs: 1e6, capMs: 1e6 } }) });
  await recorder.until(() => recorder.following.status.retryAt !== null);
  assert.ok(asked <= 4, `asked ${asked} times`);
});

test("a source that fails is asked again after a pause", async () => {
  let asked = 0;
  const source = () => {
    if ((asked += 1) < 3) throw new Error("the identity provider is away");
    return "good";
  };
  server.on(STREAM, wants("good", sse((out) => out.hello("e-0").live("e-0").end("e-0")))).on(POLLS, poll([], { next: "e-0" }));
  await follow({ lines: new Lines({ credentials: new Credentials(source), tuning: FAST }) }).phase("ended");
  assert.ok(recorder.statuses.some(({ why }) => why.includes("the identity provider is away")));
});

test("a token that expires under a stream is replaced without a failure", async () => {
  const source = ({ stale }) => (stale === null ? "first" : "second");
  server.on(STREAM, [
    wants("first", sse((out) => out.hello("e-0").live("e-0").events(1).end("e-1", { reason: "token_expired", final: false, retry_after_ms: 60_000 }))),
    wants("second", sse((out) => out.hello("e-1", { resumed: true }).live("e-1").events(2).end("e-2"))),
  ]);
  await follow({ lines: new Lines({ credentials: new Credentials(source), tuning: FAST }) }).phase("ended");
  assert.deepEqual(recorder.ids, id(1, 2));
});

test("whoever signs in as somebody else gets that person's stream", async () => {
  const credentials = new Credentials("ann");
  server.on(STREAM, wants("ann", sse((out) => out.hello("e-0").live("e-0"))));
  server.on(STREAM, wants("bob", sse((out) => out.hello("e-0").live("e-0").end("e-0"))));
  await follow({ lines: new Lines({ credentials, tuning: FAST }) }).phase("live");
  server.requests.length = 0;
  credentials.use("bob");
  await recorder.until(() => server.requests.length > 0);
  assert.equal(server.requests[0].headers.authorization, "Bearer bob");
});

// ── stopping ─────────────────────────────────────────────────────────────────────────────────────────────────────

test("after stop nothing is called any more, and the connection is closed", async () => {
  let out;
  server.on(STREAM, [sse((stream) => (out = stream.hello("e-0").live("e-0").events(1)))]);
  await follow().until(() => recorder.ids.length === 1);
  const noted = recorder.log.length;
  recorder.following.stop();
  out.events(2);
  await server.requests[0].left;
  assert.equal(recorder.log.length, noted);
  assert.equal(recorder.following.status.phase, "stopped");
});

test("stopped within a callback, the rest of the batch is not handed over", async () => {
  const gap = { type: "gap", from_seq: 2, to_seq: 2, dropped: 1, by_type: {}, reason: "lag", backfill: "/x" };
  server.on(STREAM, [sse((out) => out.hello("e-0").live("e-0").events(1).frame("e-2", gap).events(3))]);
  await follow({ onGap: () => recorder.following.stop() }).until(() => recorder.ids.length === 1);
  await server.requests[0].left;
  assert.deepEqual(recorder.ids, id(1));
});

test("callbacks come after follow has returned", async () => {
  server.on(STREAM, [sse((out) => out.hello("e-0").end("e-0"))]);
  follow();
  assert.deepEqual(recorder.log, []);
  await recorder.phase("ended");
});

// ── one connection by hand ───────────────────────────────────────────────────────────────────────────────────────

test("streamSse yields whatever an event stream carries, 0 and nothing included", async () => {
  server.on("/any", [sse((out) => (out.raw("data: 0\n\ndata:\n\nid: 7\nevent: x\ndata: y\n\n"), out.response.end()))]);
  const told = [];
  for await (const message of streamSse(`${server.url}/any`, { credentials: new Credentials("t"), lastEventId: "3" })) told.push(message);
  assert.deepEqual(told.map(({ data }) => data), ["0", "", "y"]);
  assert.deepEqual(told[2], { id: "7", event: "x", data: "y" });
  const [{ headers }] = server.requests;
  assert.deepEqual([headers.authorization, headers["last-event-id"], headers.accept], ["Bearer t", "3", "text/event-stream"]);
});

test("streamSse asks once for a new token, throws refusals, and ends at 204", async () => {
  const credentials = new Credentials(({ stale }) => (stale === null ? "old" : "new"));
  server.on("/any", [problem(401, "another"), sse((out) => (out.raw("data: a\n\n"), out.response.end())), problem(404, "no such thing"), nothing]);
  const read = async () => {
    const told = [];
    for await (const { data } of streamSse(`${server.url}/any`, { credentials })) told.push(data);
    return told;
  };
  assert.deepEqual(await read(), ["a"]);
  await assert.rejects(read, { name: "Refused", status: 404, message: "no such thing" });
  assert.deepEqual(await read(), []);
});
