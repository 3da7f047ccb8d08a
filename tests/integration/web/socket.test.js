// Many streams on one WebSocket, and what is done where there can be none.

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { Credentials, Lines } from "../../../shared/web/stream.js";
import { FAST, Recorder } from "../../support/web/recorder.js";
import { ScriptedServer, frame, poll, problem, sse } from "../../support/web/scripted_server.js";
import { ended, greeting, live, scriptedSockets, told } from "../../support/web/scripted_socket.js";

const path = (number, end = "stream") => `/api/v1/runs/run_${number}/${end}`;

let server;
let sockets;
let credentials;
let recorders;
let lines;

beforeEach(async () => {
  server = await ScriptedServer.start();
  sockets = scriptedSockets();
  credentials = new Credentials();
  recorders = [];
  lines = linesWith({});
});

afterEach(async () => {
  recorders.forEach(({ following }) => following.stop());
  await sockets.until((socket) => socket.isClosed); // nothing is left open
  await server.close();
  assert.deepEqual(server.surprises, []);
});

function linesWith(tuning) {
  return new Lines({ credentials, tuning: { ...FAST, ...tuning }, WebSocket: sockets.WebSocket });
}

function follow(number, options = {}) {
  const recorder = new Recorder().follow(server.url + path(number), { transport: "auto", lines, ...options });
  recorders.push(recorder);
  return recorder;
}

/** The newest socket, open, when it was asked for so many streams. */
async function opened(count, number = sockets.all.length || 1) {
  const socket = (await sockets.number(number)).open();
  await sockets.until(() => socket.follows.length >= count);
  return socket;
}

const ids = (...seqs) => seqs.map((seq) => `e-${seq}`);

test("many streams share one connection, and each gets what is its own", async () => {
  const [one, two, three] = [follow(1), follow(2), follow(3, { after: "e-7", types: ["status"], lossless: true })];
  const socket = await opened(3);
  assert.equal(socket.url, `${server.url.replace("http", "ws")}/api/v1/runs/ws`);
  assert.deepEqual(socket.protocols, ["tailrace.v1"]);
  const [first, , third] = socket.follows;
  assert.deepEqual(first, { op: "follow", ref: first.ref, channel: "run/run_1" });
  assert.deepEqual(third, { op: "follow", ref: third.ref, channel: "run/run_3", after: "e-7", types: ["status"], lossless: true });
  const [a, b, c] = socket.follows.map(({ ref }) => ref);
  socket.tell(greeting(a, 0), live(a, 0), greeting(b, 0), live(b, 0), greeting(c, 7, true), live(c, 7));
  socket.tell(told(a, 8), told(b, 9), told(b, 10), told(a, 11), told(c, 12));
  await Promise.all([one, two, three].map((recorder) => recorder.phase("live")));
  assert.deepEqual([one.ids, two.ids, three.ids], [ids(8, 11), ids(9, 10), ids(12)]);
  socket.tell(ended(b, 10));
  await two.phase("ended");
  one.following.stop();
  await sockets.until(({ sent }) => sent.some(({ op, ref }) => op === "unfollow" && ref === a));
  assert.equal(sockets.all.length, 1);
});

test("what comes late of a stream that is followed no more, or of none, is nobody's", async () => {
  const one = follow(1);
  const two = follow(2);
  const socket = await opened(2);
  const [a, b] = socket.follows.map(({ ref }) => ref);
  socket.tell(greeting(a, 0), greeting(b, 0));
  one.following.stop();
  socket.tell(told(a, 1), told("999", 2), told(b, 3), { event: { type: "pong" } }, { event: { type: "bad_message", detail: "x" } });
  assert.deepEqual([one.ids, two.ids], [[], ids(3)]);
});

test("after a cut each goes on from its own position, on one new connection", async () => {
  const [one, two] = [follow(1), follow(2)];
  const socket = await opened(2);
  socket.tell(greeting("1", 0), live("1", 0), told("1", 5), greeting("2", 0), live("2", 0), told("2", 6));
  socket.cut();
  const next = await opened(2, 2);
  assert.deepEqual(next.follows.map(({ channel, after }) => [channel, after]), [["run/run_1", "e-5"], ["run/run_2", "e-6"]]);
  const [a, b] = next.follows.map(({ ref }) => ref);
  next.tell(greeting(a, 5, true), live(a, 5), told(a, 5), told(a, 7), greeting(b, 6, true), live(b, 6));
  assert.deepEqual(one.ids, ids(5, 7));
  assert.deepEqual(one.phases, ["connecting", "catching_up", "live", "reconnecting", "catching_up", "live"]);
  assert.deepEqual(two.phases.at(-1), "live");
});

test("a stream that is refused is refused alone", async () => {
  const [one, two] = [follow(1), follow(2)];
  const socket = await opened(2);
  const refusal = { type: "about:blank", title: "Not Found", status: 404, detail: "There is no such run." };
  socket.tell({ ref: "1", event: { type: "refused", problem: refusal } }, greeting("2", 0), live("2", 0));
  await one.phase("refused");
  assert.deepEqual(one.following.status.problem, refusal);
  assert.equal(two.following.status.phase, "live");
});

test("a stream that there is no room for polls, and is asked for again, while the others go on", async () => {
  lines = linesWith({ firstMs: 60_000, capMs: 60_000 });
  server.on(path(1, "events"), [poll([frame(1)], { next: "e-1" })]);
  const [one, two] = [follow(1), follow(2)];
  const socket = await opened(2);
  const refusal = { type: "about:blank", title: "Too Many Requests", status: 429, detail: "this tenant has enough" };
  socket.tell(greeting("2", 0), live("2", 0), { ref: "1", event: { type: "refused", problem: refusal } });
  await one.phase("polling");
  assert.deepEqual(one.ids, ids(1));
  assert.equal(one.following.status.why, "this tenant has enough");
  assert.equal(two.following.status.phase, "live");
});

test("a stream that ends for a while comes back by itself; a server that leaves takes all with it", async () => {
  server.on(path(1, "events"), poll([], { next: "e-1" }));
  const [one, two] = [follow(1), follow(2)];
  const socket = await opened(2);
  socket.tell(greeting("1", 0), live("1", 0), told("1", 1), greeting("2", 0), live("2", 0));
  socket.tell(ended("1", 1, { reason: "max_duration", final: false, retry_after_ms: 1 }));
  await sockets.until(({ follows }) => follows.length === 3);
  assert.deepEqual([socket.follows[2].channel, socket.follows[2].after], ["run/run_1", "e-1"]);
  socket.tell(ended("2", 0, { reason: "server_shutdown", final: false, retry_after_ms: 1 }));
  const next = await opened(2, 2);
  assert.ok(socket.isClosed);
  next.tell(...next.follows.flatMap(({ ref }) => [greeting(ref, 1, true), live(ref, 1)]));
  await Promise.all([one, two].map((recorder) => recorder.until(() => recorder.following.status.phase === "live")));
});

test("it does not go beyond what the server takes: 150 streams a connection, 180 messages in ten seconds", async () => {
  for (let number = 1; number <= 160; number += 1) follow(number);
  const [first, second] = [await opened(150, 1), await opened(10, 2)];
  assert.deepEqual([first.follows.length, second.follows.length], [150, 10]);
  for (const recorder of recorders.slice(0, 100)) recorder.following.stop();
  for (let number = 201; number <= 260; number += 1) follow(number);
  assert.ok(first.sent.length <= 180, `${first.sent.length} messages`);
});

test("what is followed and left at once is not even asked for", async () => {
  const one = follow(1);
  const socket = await sockets.number(1);
  const two = follow(2);
  two.following.stop();
  socket.open();
  await sockets.until(({ follows }) => follows.length > 0);
  assert.deepEqual(socket.follows.map(({ channel }) => channel), ["run/run_1"]);
  assert.equal(one.following.status.phase, "connecting");
});

test("the connection waits a little for the next one to follow, then it is closed", async () => {
  const one = follow(1);
  const socket = await opened(1);
  socket.tell(greeting("1", 0), live("1", 0));
  one.following.stop();
  const two = follow(2);
  await sockets.until(({ follows }) => follows.length === 2);
  assert.equal(sockets.all.length, 1);
  two.following.stop();
  await sockets.until(({ isClosed }) => isClosed);
});

test("silence is a cut", async () => {
  const one = follow(1);
  const socket = await opened(1);
  const hello = greeting("1", 0);
  hello.event.heartbeat_seconds = 0.01;
  socket.tell(hello, live("1", 0));
  await one.phase("reconnecting");
  assert.ok(one.statuses.some(({ why }) => why === "nothing was heard for too long"));
  await sockets.number(2);
});

// ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────

test("the token is a subprotocol, and a newer one goes over the open connection", async () => {
  credentials.use(({ stale }) => (stale === null ? "first" : "second"));
  follow(1);
  const socket = await opened(1);
  assert.deepEqual(socket.protocols, ["tailrace.v1", "bearer.first"]);
  await credentials.refresh();
  assert.deepEqual(socket.sent.at(-1), { op: "auth", token: "second" });
  assert.ok(!socket.isClosed);
});

test("a token that has expired is replaced, and all go on", async () => {
  credentials.use(({ stale }) => (stale === null ? "first" : "second"));
  const one = follow(1);
  const socket = await opened(1);
  socket.tell(greeting("1", 0), live("1", 0), told("1", 1));
  socket.tell(ended("1", 1, { reason: "token_expired", final: false, retry_after_ms: 60_000 }));
  const next = await opened(1, 2);
  assert.deepEqual([next.protocols[1], next.follows[0].after], ["bearer.second", "e-1"]);
  next.cut(4401);
  await one.phase("signed_out"); // a source that has no third one
});

test("a refused upgrade tells a browser nothing: the polling twin says why", async () => {
  credentials.use(({ stale }) => (stale === null ? "old" : "new"));
  const guarded = (response, { headers }) =>
    headers.authorization === "Bearer new" ? poll([], { next: "e-0" })(response) : problem(401, "expired")(response);
  server.on(path(1, "events"), guarded);
  follow(1);
  (await sockets.number(1)).cut();
  const next = await sockets.number(2);
  assert.deepEqual(next.protocols, ["tailrace.v1", "bearer.new"]);
});

test("of a refused upgrade the twin may say that the subject is not there", async () => {
  server.on(path(1, "events"), [problem(404, "There is no such run.")]);
  const one = follow(1);
  (await sockets.number(1)).cut();
  await one.phase("refused");
});

test("somebody else's token on an open connection means a new connection", async () => {
  credentials.use("ann");
  follow(1);
  const socket = await opened(1);
  socket.tell(greeting("1", 0), live("1", 0));
  socket.cut(4403);
  await sockets.number(2);
});

// ── where WebSockets do not get through ──────────────────────────────────────────────────────────────────────────

test("where they do not get through, streams go over server-sent events, and back when they do", async () => {
  server.on(path(1, "events"), poll([], { next: "e-0" }));
  let out;
  server.on(path(1), [sse((stream) => (out = stream.hello("e-0").live("e-0").events(1)))]);
  const one = follow(1);
  (await sockets.number(1)).cut();
  (await sockets.number(2)).cut(); // once may be chance
  await one.phase("live");
  assert.equal(one.following.status.transport, "sse");
  out.events(2);
  await one.until(() => one.ids.length === 2);

  const socket = (await sockets.number(3)).open().tell({ event: { type: "pong" } }); // it is tried again now and then
  await sockets.until(({ follows }) => follows.length > 0);
  assert.equal(socket.follows[0].after, "e-2");
  const { ref } = socket.follows[0];
  socket.tell(greeting(ref, 2, true), live(ref, 2), told(ref, 3));
  assert.deepEqual(one.ids, ids(1, 2, 3));
  assert.equal(one.following.status.transport, "websocket");
  await server.requests.find(({ path: asked }) => asked === path(1)).left;
});

test("a proxy that lets them be opened and nothing through is noticed too", async () => {
  lines = linesWith({ openMs: 10 });
  server.on(path(1, "events"), poll([], { next: "e-0" })).on(path(1), [sse((out) => out.hello("e-0").live("e-0"))]);
  const one = follow(1);
  for (const number of [1, 2]) (await sockets.number(number)).open();
  await one.phase("live");
  assert.equal(one.following.status.transport, "sse");
});

test("one who insists on WebSockets polls until they work", async () => {
  server.on(path(1, "events"), [poll([], { next: "e-0" }), poll([], { next: "e-0" }), poll([frame(1)], { next: "e-1" })]);
  server.on(path(1, "events"), poll([], { next: "e-1" }));
  const one = follow(1, { transport: "websocket" });
  (await sockets.number(1)).cut();
  (await sockets.number(2)).cut();
  await one.phase("polling");
  assert.deepEqual(one.ids, ids(1));
  const socket = await opened(1, 3);
  socket.tell(greeting(socket.ref("run/run_1"), 1, true), live(socket.ref("run/run_1"), 1));
  await one.phase("live");
});

test("without WebSockets in the browser, and for a stream with parameters of its own, it is server-sent events", async () => {
  const query = `${server.url}/api/v1/generations/g/preview/logs/stream?tail=5`;
  server.on("/api/v1/generations/g/preview/logs/stream", [sse((out) => out.hello("e-0").live("e-0"))]);
  const one = new Recorder().follow(query, { transport: "auto", lines });
  recorders.push(one);
  await one.phase("live");
  assert.equal(sockets.all.length, 0);
  one.following.stop();

  const none = new Lines({ credentials, tuning: FAST, WebSocket: null });
  server.on(path(2), [sse((out) => out.hello("e-0").live("e-0"))]);
  await follow(2, { lines: none }).phase("live");
  const last = follow(3); // so that there is a socket to be closed
  await opened(1);
  last.following.stop();
});
