// Colours, starters, drafts of files, and a preview's state in words.

import assert from "node:assert/strict";
import { test } from "node:test";

import { plainOf, spansOf } from "../../../services/previews/web/ansi.js";
import { Draft } from "../../../services/previews/web/draft.js";
import { STARTERS, argumentsOf, environmentOf, lineOf, newName } from "../../../services/previews/web/starters.js";
import { after, endOf, fromEvent, progressOf } from "../../../services/previews/web/words.js";
import { chance } from "./previews-model.js";

/** @param {string} text */
const shown = (text) => spansOf(text).map(({ text: part, classes, ink, paper }) => [part, classes, ink || paper].filter(Boolean).join("|"));

// ── colours ──────────────────────────────────────────────────────────────────────────────────────────────────────

for (const [text, spans] of [
  ["plain", ["plain"]],
  ["", []],
  ["\x1b[31mred\x1b[0m plain", ["red|ink-1", " plain"]],
  ["\x1b[1;4;92mthree\x1b[mnone", ["three|bold underline ink-10", "none"]],
  ["\x1b[31;42mon green\x1b[39mdefault", ["on green|ink-1 paper-2", "default|paper-2"]],
  ["\x1b[38;5;208morange\x1b[38;5;9mred", ["orange|ink|#ff8700", "red|ink-9"]],
  ["\x1b[38;5;244mgrey", ["grey|ink|#808080"]],
  ["\x1b[38;2;1;2;3mtrue\x1b[48:2::255:0:9mpaper", ["true|ink|#010203", "paper|ink paper|#010203"]],
  ["\x1b[38;2;1;2;999mwrong", ["wrong"]],
  ["\x1b[4:3mcurly\x1b[4:0mnot", ["curly|underline", "not"]],
  ["\x1b[58;5;1;3mslanted", ["slanted|italic"]],
  ["\x1b[8mhidden text is shown", ["hidden text is shown"]],
  ["\x1b[7minverse\x1b[27mnot", ["inverse|inverse", "not"]],
  ["\x1b[2mfaint\x1b[1mboth\x1b[22mnone", ["faint|faint", "both|bold faint", "none"]],
  ["<b>\x1b[31m<script>", ["<b>", "<script>|ink-1"]],
  ["abc\u202edef", ["abc", "\u202e|turning", "def"]],
  ["\x1b[31ma\u2066b", ["a|ink-1", "\u2066|ink-1 turning", "b|ink-1"]],
  ["\x1b[31", ["\x1b[31"]],
]) {
  test(`colours of ${JSON.stringify(text)}`, () => assert.deepEqual(shown(text), spans));
}

test("spans put together are the text without its colours, whatever it is", () => {
  const random = chance(5);
  const bits = ["\x1b[", "m", "31", ";", "38;5;", "a", "<", "\u202e", "\x1b[0m", "é", "\x1b", "😀", ":", "48;2;"];
  for (let round = 0; round < 2000; round += 1) {
    const text = Array.from({ length: Math.floor(random() * 12) }, () => bits[Math.floor(random() * bits.length)]).join("");
    assert.equal(spansOf(text).map((span) => span.text).join(""), plainOf(text));
  }
});

// ── starters ─────────────────────────────────────────────────────────────────────────────────────────────────────

test("each starter has what its kind needs, in files within the limits of a request", () => {
  assert.deepEqual(STARTERS.map((starter) => starter.kind).sort(), ["asgi", "command", "node", "static"]);
  for (const { kind, entry, files, command } of STARTERS) {
    assert.ok(Object.keys(files).length >= 1 && JSON.stringify(files).length < 50_000);
    if (kind === "asgi") assert.ok(`${entry.split(":")[0]}.py` in files);
    if (kind === "node") assert.ok(entry in files);
    if (kind === "command") assert.ok(command && command[1] in files);
  }
});

test("a command's line is words, which quotes keep together, and back", () => {
  assert.deepEqual(argumentsOf(`python -c "print(\\"a b\\")" 'it''s' x=1`), ["python", "-c", `print("a b")`, "it", "s", "x=1"]);
  assert.deepEqual(argumentsOf("  "), []);
  for (const words of [["a", "b c"], ['say "hi"', "\\"], ["", "x"]]) assert.deepEqual(argumentsOf(lineOf(words)), words);
});

test("an environment is NAME=value lines", () => {
  assert.deepEqual(environmentOf("A=1\n\n# no\n B = two=2 \nEMPTY="), { A: "1", B: "two=2", EMPTY: "" });
  assert.throws(() => environmentOf("A=1\nnonsense"), /nonsense/);
});

test("names differ, and are names", () => {
  assert.match(newName("app", 0), /^app-0000$/);
  assert.match(newName("app", 0.999999), /^app-[0-9a-z]{4}$/);
});

// ── drafts ───────────────────────────────────────────────────────────────────────────────────────────────────────

test("a draft sends what has changed, and null for what is gone", () => {
  const draft = new Draft({ "a.py": "a", "b.py": "b", "c.py": "c" });
  assert.ok(!draft.hasChanges);
  draft.files["a.py"] = "A";
  draft.rename("b.py", "d/b.py");
  draft.remove("c.py");
  assert.deepEqual(draft.changes, { "a.py": "A", "d/b.py": "b", "b.py": null, "c.py": null });
  assert.deepEqual(draft.names, ["a.py", "d/b.py"]);
  draft.saved({ ...draft.files });
  assert.ok(!draft.hasChanges);
});

test("a name that cannot be is told why", () => {
  const draft = new Draft({ "a.py": "" });
  for (const name of ["", "a.py", "/etc/x", "../x", "a//b", "./a", "a\\b", "a\n"]) assert.notEqual(draft.fault(name), "", name);
  for (const name of ["b.py", "static/style.css", "größe.txt"]) assert.equal(draft.fault(name), "", name);
});

// ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────

const PREVIEW = { id: "prv_1", generation_id: "g", status: "running", kind: "asgi", attempt: 1, tail: [] };

for (const [fields, title, text] of [
  [{ status: "exited", exit: { code: 3, signal: null } }, "Ended: exit code 3", ""],
  [{ status: "exited", exit: { code: null, signal: "SIGKILL" } }, "Ended: SIGKILL", ""],
  [{ status: "failed", exit: { code: 1, signal: null }, message: "it ended before it answered" }, "Failed: exit code 1", "It ended before it answered."],
  [{ status: "failed", exit: null, message: "There is no file x among the preview's files." }, "Failed", "There is no file x among the preview's files."],
  [{ status: "stopped", exit: { code: null, signal: "SIGTERM" }, message: "stopped" }, "Stopped", "It ended with SIGTERM."],
  [{ status: "stopped", exit: { code: 0, signal: null }, message: "stopped: its time was over" }, "Stopped", "Stopped: its time was over."],
]) {
  test(`${title} is told for ${JSON.stringify(fields)}`, () => {
    const end = endOf({ ...PREVIEW, ...fields });
    assert.deepEqual([end?.title, end?.text], [title, text]);
  });
}

test("what has not ended has no end, and every status has words", () => {
  for (const status of ["preparing", "starting", "running", "unhealthy", "stopping"]) {
    assert.equal(endOf({ ...PREVIEW, status }), null);
    assert.notEqual(progressOf({ ...PREVIEW, status }), "");
  }
  for (const status of ["stopped", "exited", "failed", "lost"]) assert.notEqual(endOf({ ...PREVIEW, status })?.title, "");
});

test("events move a preview on, and a new attempt forgets how the last one ended", () => {
  const event = { type: "preview_status", preview_id: "prv_1", generation_id: "g", kind: "asgi", ts: "2026-01-01T00:00:00Z" };
  let preview = after(PREVIEW, { ...event, status: "exited", attempt: 1, exit: { code: 3 } });
  assert.equal(endOf(preview)?.title, "Ended: exit code 3");
  preview = after({ ...preview, tail: ["boom"] }, { ...event, status: "preparing", attempt: 2 });
  assert.deepEqual([preview.exit, preview.tail, preview.attempt], [null, [], 2]);
  assert.equal(after(preview, { ...event, preview_id: "prv_2", status: "running", attempt: 1 }), preview);
  assert.equal(fromEvent({ ...event, status: "running", attempt: 1 }).status, "running");
});
