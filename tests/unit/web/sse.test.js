// Server-sent events out of bytes that are cut anywhere.

import assert from "node:assert/strict";
import { test } from "node:test";

import { parseSseChunk } from "../../../shared/web/sse.js";
import { seeded } from "../../support/web/chance.js";

const encoder = new TextEncoder();

/** What a whole stream says, handed over in these chunks. */
function parse(chunks) {
  let state;
  const messages = [];
  for (const chunk of chunks) {
    const parsed = parseSseChunk(chunk, state);
    state = parsed.state;
    messages.push(...parsed.messages);
  }
  return { messages, state };
}

const message = (data, { id = "", event = "message" } = {}) => ({ id, event, data });

const CASES = [
  ["one line of data", "data: hello\n\n", [message("hello")]],
  ["the payload 0", "data: 0\n\n", [message("0")]],
  ["an empty payload", "data:\n\ndata\n\ndata: \n\n", [message(""), message(""), message("")]],
  ["two lines of data", "data: a\ndata: b\n\n", [message("a\nb")]],
  ["two empty lines of data", "data\ndata\n\n", [message("\n")]],
  ["one space after the colon is no data", "data:  a\n\ndata:b\n\n", [message(" a"), message("b")]],
  ["a colon in the data", "data: a: b\n\n", [message("a: b")]],
  ["ids stay until there is another", "id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n", [
    ...[message("a", { id: "1" }), message("b", { id: "1" }), message("c")],
  ]],
  ["an id with NUL is ignored", "id: 1\ndata: a\n\nid: 2\0\ndata: b\n\n", [message("a", { id: "1" }), message("b", { id: "1" })]],
  ["event names do not stay", "event: status\ndata: a\n\ndata: b\n\n", [message("a", { event: "status" }), message("b")]],
  ["what has no data is no message", "id: 7\nevent: x\n\n\n\n: comment\n\nretry: 5\n\ndata: a\n\n", [message("a", { id: "7" })]],
  ["fields nobody knows", "data: a\nsize: 4\nDATA: b\n\n", [message("a")]],
  ["all line ends", "data: a\r\n\r\ndata: b\r\rdata: c\n\ndata: d\r\n\n", ["a", "b", "c", "d"].map((data) => message(data))],
  ["a byte order mark at the beginning only", "\uFEFFdata: a\n\n\uFEFFdata: b\n\ndata: \uFEFFc\n\n", [message("a"), message("\uFEFFc")]],
  ["characters of all lengths", "data: aé€😀\n\n", [message("aé€😀")]],
  ["a message that never ends", "data: a\n\ndata: b\n", [message("a")]],
  ["nothing", "", []],
];

for (const [name, text, expected] of CASES) {
  const bytes = encoder.encode(text);

  test(`${name}: whole`, () => assert.deepEqual(parse([bytes]).messages, expected));

  test(`${name}: cut at every place`, () => {
    for (let cut = 0; cut <= bytes.length; cut += 1) {
      assert.deepEqual(parse([bytes.subarray(0, cut), bytes.subarray(cut)]).messages, expected, `cut at ${cut}`);
    }
  });

  test(`${name}: byte by byte, and as text character by character`, () => {
    assert.deepEqual(parse([...bytes].map((byte) => Uint8Array.of(byte))).messages, expected);
    assert.deepEqual(parse(text.split("")).messages, expected);
  });
}

test("any stream cut anywhere, with bytes that are no characters, is as the whole of it", () => {
  const pieces = ["data", "id", "event", "retry", ":", " ", "\n", "\r", "\r\n", "\n\n", "0", "é", "€", "😀", "\0", "\uFEFF"];
  for (let seed = 1; seed <= 400; seed += 1) {
    const chance = seeded(seed);
    const text = Array.from({ length: 60 }, () => pieces[chance.below(pieces.length)]).join("");
    const bytes = encoder.encode(text);
    for (let broken = chance.below(4); broken > 0; broken -= 1) bytes[chance.below(bytes.length)] = 0x80 + chance.below(0x80);
    const chunks = [];
    for (let from = 0; from < bytes.length; ) {
      const to = from + 1 + chance.below(7);
      chunks.push(bytes.subarray(from, to));
      from = to;
    }
    const [cut, whole] = [parse(chunks), parse([bytes])];
    assert.deepEqual(cut.messages, whole.messages, `seed ${seed}`);
    assert.equal(cut.state.id, whole.state.id, `seed ${seed}`);
    assert.equal(cut.state.retry, whole.state.retry, `seed ${seed}`);
  }
});

test("a line feed behind a carriage return belongs to it, also in the next chunk, and only there", () => {
  assert.deepEqual(parse(["data: a\r", "\n\r", "\ndata: b\r", "\n", "\n"]).messages, [message("a"), message("b")]);
  assert.deepEqual(parse(["data: a\r", "", "\n", "\n"]).messages, [message("a")]);
});

test("it is pure: the same state and chunk give the same, as often as one likes", () => {
  const { state } = parseSseChunk("id: 1\ndata: a\nda");
  const before = structuredClone(state);
  const first = parseSseChunk("ta: b\n\ndata: c", state);
  assert.deepEqual(parseSseChunk("ta: b\n\ndata: c", state), first);
  assert.deepEqual(state, before);
  assert.deepEqual(first.messages, [message("a\nb", { id: "1" })]);
});

test("retry is a number of milliseconds or nothing", () => {
  assert.equal(parse(["retry: 2143\n"]).state.retry, 2143);
  assert.equal(parse(["retry: 2143\nretry: soon\nretry: -1\nretry: 1.5\nretry:\n"]).state.retry, 2143);
  assert.equal(parse(["data: a\n\n"]).state.retry, null);
});

test("it tells how much it holds", () => {
  assert.equal(parse(["data: a\n\n"]).state.unfinished, 0);
  assert.ok(parse(["data: abc\ndata: de", "fg"]).state.unfinished >= 7);
});

test("a long line that comes in many chunks is searched for its end once, not with every chunk", (context) => {
  let searched = 0;
  const split = String.prototype.split;
  context.mock.method(String.prototype, "split", function (...how) {
    searched += this.length;
    return split.apply(this, how);
  });
  const { messages } = parse(["data: ", ...Array.from({ length: 1_000 }, () => "x".repeat(200)), "\n\n"]);
  assert.equal(messages[0].data.length, 200_000);
  assert.equal(searched, 200_008);
});
