// An output against a service: what is read when, gaps, filters, searching.

import assert from "node:assert/strict";
import { test } from "node:test";

import { EVERYTHING } from "../../../services/previews/web/matches.js";
import { Output } from "../../../services/previews/web/output.js";
import { Search } from "../../../services/previews/web/search.js";
import { Listener, Service, chance, piece, until } from "./previews-model.js";

/** @param {number} count @param {(line: number) => object} [more] */
const lines = (count, more = () => ({})) => Array.from({ length: count }, (_, at) => piece(at + 1, more(at + 1)));

function opened(pieces, bound) {
  const service = new Service(pieces);
  const listener = new Listener();
  const output = new Output((query) => service.read(query), listener, bound);
  return { service, listener, output };
}

const isQuiet = (output) => () => !output.isReading;

test("what is looked at is read, and what is not is not", async () => {
  const { service, output, listener } = opened(lines(5000));
  output.take(service.pieces.slice(-200));
  await output.page({ tail: 1 });
  assert.equal(output.count, 5000);
  assert.ok(listener.told.includes("inserted 0 4800"));
  output.look(2500, 2550);
  await until(isQuiet(output));
  assert.equal(output.store.missing(2501, 2551), null);
  assert.ok(output.store.missing(1, 1000));
  assert.equal(output.store.at(2520)?.text, "line 2520");
  const asked = service.asked.length;
  output.look(2500, 2550);
  await until(isQuiet(output));
  assert.equal(service.asked.length, asked);
});

test("a service that is away is asked again, and it is told", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const { service, output, listener } = opened(lines(1000));
  await output.page({ tail: 1 });
  service.away = 1;
  output.look(0, 30);
  await until(() => listener.told.includes("troubled the database is away"));
  t.mock.timers.tick(2000);
  await until(isQuiet(output));
  assert.equal(listener.told.at(-1)?.startsWith("troubled"), true);
  assert.equal(output.store.missing(1, 31), null);
});

test("what the stream has skipped is one row, and filled when it is asked for", async () => {
  const { service, output, listener } = opened(lines(1000));
  output.take(service.pieces.slice(0, 100));
  output.skip();
  output.take(service.pieces.slice(900));
  assert.deepEqual(output.store.gaps, [{ from: 101, to: 900 }]);
  assert.ok(listener.told.includes("folded"));
  output.look(90, 950);
  await until(isQuiet(output));
  assert.ok(service.asked.every((query) => query === "tail=200")); // the newest, in case none is to come
  await output.fillGap(output.store.gaps[0]);
  await until(isQuiet(output));
  assert.equal(output.store.missing(1, 1000), null);
  assert.deepEqual(output.store.gaps, []);
});

test("what was skipped at the end is told as well, though no line comes after it", async () => {
  const { service, output } = opened(lines(1000));
  output.take(service.pieces.slice(0, 100));
  output.skip();
  output.skip();
  await until(() => output.count === 1000);
  assert.deepEqual(output.store.gaps, [{ from: 101, to: 800 }]);
  assert.equal(output.store.at(1000)?.text, "line 1000");
  output.take(service.pieces.slice(600)); // it was only late
  assert.deepEqual(output.store.gaps, [{ from: 101, to: 600 }]);
});

test("nothing is shown twice or missing, however stream and pages overlap", async () => {
  for (let seed = 1; seed <= 40; seed += 1) {
    const random = chance(seed);
    const { service, output } = opened([]);
    for (let line = 1; line <= 400; ) {
      const burst = 1 + Math.floor(random() * 60);
      const pieces = Array.from({ length: Math.min(burst, 401 - line) }, (_, at) => piece(line + at));
      line += pieces.length;
      service.pieces.push(...pieces);
      if (random() < 0.2) output.skip();
      else output.take([...pieces, ...pieces.slice(-2)]);
      if (random() < 0.3) output.look(Math.floor(random() * 100), 300);
      if (random() < 0.3) await new Promise((resolve) => setImmediate(resolve));
    }
    output.take([piece(401)]);
    service.pieces.push(piece(401));
    await output.page({ tail: 1 });
    for (const gap of [...output.store.gaps]) await output.fillGap(gap);
    output.look(0, 400);
    await until(() => !output.isReading && output.store.missing(1, 401) === null);
    const texts = Array.from({ length: output.count }, (_, row) => output.store.at(output.numberAt(row))?.text);
    assert.deepEqual(texts, lines(401).map((each) => each.message), `seed ${seed}`);
  }
});

test("a filter shows what matches, goes back as far as it is looked at, and takes in what comes", async () => {
  const { service, output } = opened(lines(6000, (line) => ({ level: line % 3 === 0 ? "ERROR" : "INFO" })));
  output.take(service.pieces.slice(-200));
  await output.show({ ...EVERYTHING, level: "ERROR" }, null);
  assert.equal(output.numberAt(output.count - 1), 6000);
  assert.ok(output.count >= 500 && output.count < 2000);
  while (output.matches?.moreBefore) {
    output.look(0, 30);
    await until(isQuiet(output));
  }
  assert.equal(output.count, 2000);
  assert.equal(output.numberAt(0), 3);
  output.take([piece(6001), piece(6002, { level: "ERROR" })]);
  assert.equal(output.numberAt(output.count - 1), 6002);
  await output.show(EVERYTHING, null);
  assert.equal(output.count, 6002);
});

test("a filter keeps the place, and goes on from there in both directions", async () => {
  const { output } = opened(lines(9000, (line) => ({ stream: line % 2 ? "stdout" : "stderr" })));
  await output.page({ tail: 1 });
  await output.show({ ...EVERYTHING, stream: "stderr" }, 4001);
  assert.equal(output.numberAt(output.rowOf(4001)), 4002);
  assert.ok(output.matches?.moreAfter && output.matches.moreBefore);
  for (let round = 0; output.matches?.moreAfter && round < 20; round += 1) {
    output.look(output.count - 20, output.count - 1);
    await until(isQuiet(output));
  }
  assert.equal(output.numberAt(output.count - 1), 9000);
});

test("what matches in a gap of the stream is read at once under a filter", async () => {
  const { service, output } = opened(lines(500, (line) => ({ level: line % 10 ? "INFO" : "WARN" })));
  output.take(service.pieces.slice(0, 100));
  await output.show({ ...EVERYTHING, level: "WARN" }, null);
  service.pieces.push(...Array.from({ length: 300 }, (_, at) => piece(501 + at, { level: (501 + at) % 10 ? "INFO" : "WARN" })));
  output.skip();
  output.take([service.pieces[799]]);
  await until(() => output.count === 80);
  assert.equal(output.numberAt(79), 800);
});

test("lines are given for copying when they are here, or read for it, with those of gaps", async () => {
  const { service, output } = opened(lines(3000));
  output.take(service.pieces.slice(0, 10));
  output.skip();
  output.take(service.pieces.slice(2950));
  assert.equal(output.linesBetween(0, 9)?.length, 10);
  assert.equal(output.linesBetween(0, 2999), null);
  const all = await output.allBetween(0, 2999);
  assert.deepEqual(all.map((line) => line.text), service.pieces.map((each) => each.message));
});

// ── searching ────────────────────────────────────────────────────────────────────────────────────────────────────

test("a search finds what is not here, steps through all hits and around at the ends", async () => {
  const { service, output } = opened(lines(5000, (line) => ({ message: line % 500 === 0 ? `a Needle ${line}` : "hay" })));
  output.take(service.pieces.slice(-100));
  const search = new Search(output);
  assert.equal(await search.begin("needle", 4700), 4500);
  assert.equal(search.words, "9 of 10");
  assert.equal(await search.step(1), 5000);
  assert.equal(await search.step(1), 500);
  assert.equal(await search.step(-1), 5000);
  assert.equal(await search.begin("nothing has this", 4700), 0);
  assert.equal(search.words, "No line has it");
  assert.equal(await search.step(1), 0);
  search.end();
  assert.equal(search.words, "");
});

test("hits beyond a page are found step by step, and those that come are hits too", async () => {
  const { service, output } = opened(lines(1000));
  output.take(service.pieces.slice(-10));
  const search = new Search(output);
  await search.begin("line", 1000);
  assert.equal(search.hits.numbers.length, 200);
  for (let step = 0; step < 450; step += 1) await search.step(-1);
  assert.equal(search.current, 550);
  const next = piece(1001);
  service.pieces.push(next);
  output.take([next]);
  search.take([next]);
  assert.equal(search.hits.numbers.at(-1), 1001);
});

test("what comes is a hit by its text, whatever its colours", async () => {
  const { service, output } = opened([piece(1)]);
  const search = new Search(output);
  await search.begin("red water", 1);
  for (const message of ["\x1b[31mred\x1b[0m water", "31m of water"]) {
    const next = piece(service.pieces.length + 1, { message });
    service.pieces.push(next);
    output.take([next]);
    search.take([next]);
  }
  assert.deepEqual(search.hits.numbers, [2]);
});
