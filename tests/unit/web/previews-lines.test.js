// Lines out of pieces, the store that holds some of them, which match, and how high rows are.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Heights } from "../../../services/previews/web/heights.js";
import { Line, LineStore } from "../../../services/previews/web/lines.js";
import { Matches, lets, queryOf } from "../../../services/previews/web/matches.js";
import { Scroll } from "../../../services/previews/web/scroll.js";
import { chance, piece, shuffled } from "./previews-model.js";

// ── lines ────────────────────────────────────────────────────────────────────────────────────────────────────────

test("a line grows in place, and its final piece stays whatever comes late", () => {
  const line = new Line(piece(1, { message: "50", partial: true, last: false, timestamp: "2026-01-01T00:00:01Z" }));
  assert.equal(line.text, "50");
  assert.ok(line.isGrowing);
  assert.ok(line.take(piece(1, { message: "75", partial: true, last: false, timestamp: "2026-01-01T00:00:02Z" })));
  assert.ok(!line.take(piece(1, { message: "60", partial: true, last: false, timestamp: "2026-01-01T00:00:01.5Z" })));
  assert.equal(line.text, "75");
  assert.ok(line.take(piece(1, { message: "100", timestamp: "2026-01-01T00:00:03Z" })));
  assert.ok(!line.take(piece(1, { message: "80", partial: true, last: false, timestamp: "2026-01-01T00:00:04Z" })));
  assert.deepEqual([line.text, line.isWhole, line.isGrowing], ["100", true, false]);
});

test("pieces give the same line in whatever order, and however often they come", () => {
  const random = chance(7);
  for (let round = 0; round < 300; round += 1) {
    const parts = 1 + Math.floor(random() * 4);
    const pieces = [];
    for (let part = 0; part < parts; part += 1) {
      const isLast = part === parts - 1;
      for (let state = 0; state < Math.floor(random() * 3); state += 1) {
        pieces.push(piece(9, { part, message: `p${part}s${state}`, partial: true, last: false, timestamp: `2026-01-01T00:00:0${part}.${state}Z` }));
      }
      pieces.push(piece(9, { part, message: `[${part}]`, last: isLast, level: part === 1 ? "ERROR" : "INFO" }));
    }
    const [first, ...rest] = shuffled([...pieces, ...pieces], random);
    const line = new Line(first);
    for (const each of rest) line.take(each);
    assert.equal(line.text, Array.from({ length: parts }, (_, part) => `[${part}]`).join(""));
    assert.ok(line.isWhole);
    assert.equal(line.level, parts > 1 ? "ERROR" : "INFO");
  }
});

test("a line whose beginning was dropped is not whole", () => {
  const line = new Line(piece(3, { part: 2, message: "end" }));
  assert.deepEqual([line.isWhole, line.isGrowing, line.text], [false, false, "end"]);
});

// ── the store ────────────────────────────────────────────────────────────────────────────────────────────────────

test("the store knows what it has not", () => {
  const store = new LineStore();
  for (const number of [10, 11, 14]) store.take(piece(number));
  store.bounds(1, 20);
  assert.deepEqual([store.first, store.last, store.count], [1, 20, 20]);
  assert.deepEqual(store.missing(1, 20), { from: 1, to: 9 });
  assert.deepEqual(store.missing(10, 20), { from: 12, to: 13 });
  assert.deepEqual(store.missing(14, 99), { from: 15, to: 20 });
  assert.equal(store.missing(10, 11), null);
});

test("what was asked for and did not come whole is not asked for again", () => {
  const store = new LineStore();
  store.take(piece(1, { part: 1, message: "the end of a line" }));
  store.bounds(1, 5);
  assert.deepEqual(store.missing(1, 5), { from: 1, to: 5 });
  store.settle(1, 3);
  assert.deepEqual(store.missing(1, 5), { from: 4, to: 5 });
});

test("lines that the stream has skipped are folded, but for those that are here", () => {
  const store = new LineStore();
  for (const number of [1, 2, 5, 9]) store.take(piece(number));
  const gaps = store.fold(3, 8);
  assert.deepEqual(gaps, [{ from: 3, to: 4 }, { from: 6, to: 8 }]);
  assert.equal(store.missing(1, 9), null);
  assert.equal(store.gapAt(7), gaps[1]);
  assert.deepEqual(store.fold(3, 8), []);
  store.unfold(gaps[0]);
  assert.deepEqual(store.missing(1, 9), { from: 3, to: 4 });
  assert.ok(store.release(7) && !store.release(7));
  assert.deepEqual(store.gaps, [{ from: 6, to: 6 }, { from: 8, to: 8 }]);
  store.fold(3, 4);
  store.bounds(1, 30);
  store.fold(9, 15);
  assert.deepEqual(store.gaps.at(-1), { from: 10, to: 15 });
  store.fold(16, 20);
  assert.deepEqual(store.gaps.at(-1), { from: 10, to: 20 }); // one row for what is one gap
});

test("the store is bounded: what is far away is forgotten, what is in sight, selected or newest stays", () => {
  const store = new LineStore(400_000);
  for (let number = 1; number <= 50_000; number += 1) {
    store.take(piece(number));
    store.forget(number - 40, number, { from: 300, to: 400 });
    assert.ok(store.size <= 400_000 + 200_000, `${store.size} at ${number}`);
  }
  assert.equal(store.missing(49_800, 50_000), null);
  assert.equal(store.missing(300, 400), null);
  assert.ok(store.missing(10_000, 10_001));
  assert.equal(store.count, 50_000);
});

// ── matches ──────────────────────────────────────────────────────────────────────────────────────────────────────

test("matches stay in order and single, in whatever order they are found", () => {
  const random = chance(3);
  for (let round = 0; round < 100; round += 1) {
    const matches = new Matches();
    const all = new Set();
    for (let step = 0; step < 10; step += 1) {
      const found = Array.from({ length: Math.floor(random() * 6) }, () => 1 + Math.floor(random() * 60));
      const before = [...matches.numbers];
      const { at, count, isOneRun } = matches.add(found);
      for (const number of found) all.add(number);
      assert.deepEqual(matches.numbers, [...all].sort((one, other) => one - other));
      assert.equal(count, matches.numbers.length - before.length);
      if (isOneRun) assert.deepEqual([...matches.numbers.slice(0, at), ...matches.numbers.slice(at + count)], before);
    }
  }
});

test("a filter decides as the service does, and says so in a query", () => {
  const filter = { level: "WARN", stream: "stderr", text: "DAM" };
  assert.ok(lets(filter, piece(1, { level: "ERROR", stream: "stderr", message: "the dam" })));
  assert.ok(!lets(filter, piece(1, { level: "INFO", stream: "stderr", message: "the dam" })));
  assert.ok(!lets(filter, piece(1, { level: "WARN", stream: "stdout", message: "the dam" })));
  assert.ok(!lets(filter, piece(1, { level: "WARN", stream: "stderr", message: "the weir" })));
  assert.equal(queryOf({ ...filter, text: "a b&c" }, { after: 3 }), "level=WARN&stream=stderr&q=a+b%26c&after=3");
});

// ── heights ──────────────────────────────────────────────────────────────────────────────────────────────────────

test("heights are those of a plain list, whatever is done to them", () => {
  const random = chance(11);
  const pick = (most) => Math.floor(random() * most);
  for (let round = 0; round < 60; round += 1) {
    const heights = new Heights(20);
    let plain = [];
    for (let step = 0; step < 60; step += 1) {
      const what = pick(5);
      if (what === 0) {
        const rows = pick(700);
        heights.resize(plain.length + rows);
        plain.push(...Array(rows).fill(20));
      } else if (what === 1 && plain.length) {
        const [row, height] = [pick(plain.length), pick(4) * 20];
        heights.set(row, height);
        plain[row] = height;
      } else if (what === 2) {
        const [at, rows] = [pick(plain.length + 1), pick(300)];
        heights.insert(at, rows);
        plain.splice(at, 0, ...Array(rows).fill(20));
      } else if (what === 3 && plain.length) {
        const from = pick(plain.length);
        const to = from + pick(plain.length - from + 1);
        heights.fill(from, to, 0);
        plain.fill(0, from, to);
      } else if (what === 4 && random() < 0.2) {
        plain = plain.slice(0, pick(plain.length + 1));
        heights.resize(plain.length);
      }
      const sum = (rows) => plain.slice(0, rows).reduce((total, each) => total + each, 0);
      assert.equal(heights.total, sum(plain.length));
      if (!plain.length) continue;
      const row = pick(plain.length);
      assert.equal(heights.offset(row), sum(row));
      const pixel = random() * heights.total;
      const at = heights.at(pixel);
      assert.ok(sum(at) <= pixel && (pixel < sum(at + 1) || at === plain.length - 1), `${pixel} is not in row ${at}`);
    }
  }
});

test("a change among half a million rows is not felt", () => {
  const heights = new Heights(20);
  heights.resize(500_000);
  const steps = 200_000;
  const began = process.cpuUsage().user;
  for (let step = 0; step < steps; step += 1) {
    heights.set((step * 7919) % 500_000, 20 + (step % 5) * 20);
    heights.at(heights.offset((step * 104_729) % 500_000));
  }
  const each = (process.cpuUsage().user - began) / steps;
  assert.ok(each < 50, `${each} µs of CPU`); // about 1; a sum over the rows would take some 500
});

// ── scrolling ────────────────────────────────────────────────────────────────────────────────────────────────────

test("more rows than a browser can scroll are reached from the first to the last", () => {
  const heights = new Heights(20);
  heights.resize(600_000);
  for (let row = 0; row < 600_000; row += 3) heights.set(row, 120);
  const scroll = new Scroll(heights);
  scroll.view = 800;
  assert.ok(scroll.height <= 12_000_000 && heights.total > 30_000_000);
  assert.equal(scroll.rows(0, 0).from, 0);
  assert.equal(scroll.rows(scroll.end, 0).to, 599_999);
  for (const row of [0, 1, 77_777, 300_000, 599_000]) {
    const scrolled = scroll.to(heights.offset(row));
    const { from, top } = scroll.rows(scrolled, 0);
    assert.ok(Math.abs(from - row) <= 1);
    assert.ok(Math.abs(top - scrolled) <= 120); // the row is drawn where it is looked for
  }
});

test("few rows are scrolled one to one", () => {
  const heights = new Heights(20);
  heights.resize(100);
  const scroll = new Scroll(heights);
  scroll.view = 200;
  assert.deepEqual([scroll.height, scroll.end, scroll.scale], [2000, 1800, 1]);
  assert.deepEqual(scroll.rows(105, 2), { from: 3, to: 17, top: 60 });
  assert.deepEqual(scroll.anchor(105), { row: 5, within: 5 });
  assert.equal(new Scroll(new Heights(20)).rows(0, 3).to, -1);
});
