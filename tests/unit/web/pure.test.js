// Positions, pauses, statuses, clocks and targets: what needs neither a browser nor a server.

import assert from "node:assert/strict";
import { test } from "node:test";

import { pauseMs, retryAfterMs } from "../../../shared/web/backoff.js";
import { ServerClock } from "../../../shared/web/clock.js";
import { isAfter, isPosition } from "../../../shared/web/position.js";
import { combineStatuses, describeStatus, makeStatus } from "../../../shared/web/status.js";
import * as stream from "../../../shared/web/stream.js";
import { Target } from "../../../shared/web/target.js";

test("the exported names are those that the manual has", () => {
  assert.deepEqual(Object.keys(stream).sort(), [
    ...["Credentials", "Lines", "LiveResource", "Refused", "TERMINAL", "Unavailable", "ask", "backfill", "combineStatuses"],
    ...["credentials", "describeStatus", "follow", "isAfter", "isPosition", "parseSseChunk", "request", "setTokenSource"],
    ...["shouldStream", "signIn", "signOut", "streamSse", "useTabToken"],
  ]);
});

// ── positions ────────────────────────────────────────────────────────────────────────────────────────────────────

test("positions of one epoch are ordered by number, however large", () => {
  assert.ok(isAfter("a-10", "a-9"));
  assert.ok(!isAfter("a-9", "a-10"));
  assert.ok(!isAfter("a-9", "a-9"));
  assert.ok(isAfter("a-9007199254740993", "a-9007199254740992"));
});

test("a position of another epoch, or any where there was none, is news", () => {
  assert.ok(isAfter("b-1", "a-9"));
  assert.ok(isAfter("a-0", null));
});

test("words are no positions", () => {
  for (const text of ["start", "now", "", null, undefined, "a-", "-1", "a-01", "A-1", "a-1 "]) assert.ok(!isPosition(text));
  assert.ok(isPosition("k3f9a2-1042"));
});

// ── pauses ───────────────────────────────────────────────────────────────────────────────────────────────────────

test("a pause is anywhere below a bound that doubles up to a cap", () => {
  assert.equal(pauseMs(0, 1), 0);
  assert.deepEqual([1, 2, 3, 6, 7, 5000].map((failures) => pauseMs(failures, 1)), [500, 1000, 2000, 15000, 15000, 15000]);
  assert.equal(pauseMs(3, 0), 0);
  assert.equal(pauseMs(3, 0.5), 1000);
});

test("what the server asks for comes on top, up to five minutes", () => {
  assert.equal(pauseMs(1, 0.5, 2000), 2250);
  assert.equal(pauseMs(1, 0, 1e12), 300_000);
  assert.equal(pauseMs(1, 0, -5), 0);
});

test("Retry-After is seconds or a date", () => {
  const now = Date.parse("2026-11-28T12:00:00Z");
  assert.equal(retryAfterMs("7", now), 7000);
  assert.equal(retryAfterMs("Sat, 28 Nov 2026 12:00:09 GMT", now), 9000);
  assert.equal(retryAfterMs("Sat, 28 Nov 2026 11:00:00 GMT", now), 0);
  for (const header of [null, "", "soon"]) assert.equal(retryAfterMs(header, now), null);
});

// ── statuses ─────────────────────────────────────────────────────────────────────────────────────────────────────

test("a status is described in words that count down", () => {
  const words = (given, now = 0) => describeStatus(makeStatus(given), now);
  assert.equal(words({ phase: "reconnecting", retryAt: 3000 }), "Reconnecting in 3 s");
  assert.equal(words({ phase: "reconnecting", retryAt: 3000 }, 2001), "Reconnecting in 1 s");
  assert.equal(words({ phase: "reconnecting", retryAt: 3000 }, 3000), "Reconnecting");
  assert.equal(words({ phase: "ended", reason: "terminal", outcome: "timed_out" }), "Ended: timed out");
  assert.equal(words({ phase: "ended", reason: "access_revoked" }), "Ended: access revoked");
  assert.equal(words({ phase: "catching_up" }), "Catching up");
  assert.equal(words({ phase: "refused", problem: { type: "", title: "Not Found", status: 404, detail: "" } }), "Refused: Not Found");
});

test("several statuses are as good as the worst, and lag as the slowest", () => {
  const live = (lag) => makeStatus({ phase: "live", lagMilliseconds: lag });
  assert.equal(combineStatuses([live(3), live(20), makeStatus({ phase: "ended" })]).lagMilliseconds, 20);
  assert.equal(combineStatuses([live(3), makeStatus({ phase: "polling" }), makeStatus({ phase: "reconnecting" })]).phase, "reconnecting");
  assert.equal(combineStatuses([]).phase, "connecting");
});

// ── the clock ────────────────────────────────────────────────────────────────────────────────────────────────────

const SECOND = Date.parse("2026-11-28T12:00:00Z");
const at = (ms) => new Date(ms).toISOString();

test("clocks that may agree are taken to, and lag is what is between them", () => {
  const clock = new ServerClock();
  assert.equal(clock.lagMs(at(SECOND), SECOND + 40), null); // nothing is known yet
  clock.sawAnswer(new Date(SECOND).toUTCString(), SECOND + 300, SECOND + 350);
  assert.equal(clock.aheadMs, 0);
  assert.equal(clock.lagMs(at(SECOND), SECOND + 40), 40);
});

test("a clock that is wrong is found out to within what Date tells, and narrowed by every answer", () => {
  const clock = new ServerClock(); // this page's is a minute behind
  clock.sawAnswer(new Date(SECOND).toUTCString(), SECOND - 60_000, SECOND - 59_990);
  assert.ok(clock.aheadMs >= 59_990 && clock.aheadMs <= 62_000);
  clock.sawAnswer(new Date(SECOND + 1000).toUTCString(), SECOND - 59_200, SECOND - 59_190);
  assert.ok(clock.aheadMs >= 60_190);
});

test("an event from the future tells that the server's clock is ahead", () => {
  const clock = new ServerClock();
  clock.sawAnswer(new Date(SECOND).toUTCString(), SECOND, SECOND);
  assert.equal(clock.lagMs(at(SECOND + 1500), SECOND + 100), 0);
  assert.equal(clock.aheadMs, 1400);
});

test("a clock that was set is believed anew", () => {
  const clock = new ServerClock();
  clock.sawAnswer(new Date(SECOND).toUTCString(), SECOND, SECOND);
  clock.sawAnswer(new Date(SECOND).toUTCString(), SECOND + 3_600_000, SECOND + 3_600_000);
  assert.ok(clock.aheadMs <= -3_590_000);
});

// ── targets ──────────────────────────────────────────────────────────────────────────────────────────────────────

const ORIGIN = "https://tail.example";

const CHANNELS = [
  ["tasks/stream", "tasks", "tasks"],
  ["tasks/task_1/stream", "tasks", "task/task_1"],
  ["runs/stream", "runs", "runs"],
  ["runs/run_1/stream", "runs", "run/run_1"],
  ["sessions/a%20b/stream", "runs", "session/a b"],
  ["sessions/s/events", "runs", "session/s"],
  ["sessions/s/workers/7/stream", "runs", "session/s/worker/7"],
  ["previews/stream", "previews", "previews"],
  ["generations/g/preview/logs/stream", "previews", "preview/g"],
];
for (const [path, service, channel] of CHANNELS) {
  test(`${path} is ${channel} on the WebSocket of ${service}`, () => {
    const target = new Target(`${ORIGIN}/under/api/v1/${path}`, { after: "start" });
    assert.equal(target.channel, channel);
    assert.equal(target.socketUrl, `wss://tail.example/under/api/v1/${service}/ws`);
    assert.match(target.pollUrl("a-1", 5), /\/events\?/);
  });
}

test("a stream with parameters of its own goes over no shared connection", () => {
  for (const query of ["tail=500", "interval=0.5", "run=run_1", "after=start&max_ticks=3"]) {
    assert.equal(new Target(`${ORIGIN}/api/v1/runs/run_1/stream?${query}`).socketUrl, null);
  }
  assert.equal(new Target(`${ORIGIN}/elsewhere/stream`).socketUrl, null);
});

test("a run's own stream may share one with others, unless it asks for less than everything", () => {
  const url = `${ORIGIN}/api/v1/runs/run_1/stream`;
  assert.equal(new Target(url).runId, "run_1");
  assert.equal(new Target(url, { types: ["status"] }).runId, null);
  assert.equal(new Target(url, { lossless: true }).runId, null);
});

test("a position takes the place of where a stream was asked to begin", () => {
  const target = new Target(`${ORIGIN}/api/v1/generations/g/preview/logs/stream?tail=500&types=log`);
  assert.equal(new URL(target.streamUrl(null)).search, "?tail=500&types=log");
  assert.equal(new URL(target.streamUrl("a-7")).search, "?types=log");
  assert.equal(new URL(target.pollUrl("a-7", 100)).search, "?types=log&on_reset=reset&after=a-7&limit=100");
});
