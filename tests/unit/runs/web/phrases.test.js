import assert from "node:assert/strict";
import { test } from "node:test";

import { served } from "../../../support/web/served.js";

const { phrase } = await served("runs/phrases.js");

const CASES = [
  [{ type: "status", status: "running", attempt: 2, worker: "w-1" }, "attempt 2 · on w-1"],
  [{ type: "status", status: "failed", attempt: 1, error: "no luck" }, "no luck"],
  [{ type: "error", fatal: true, code: "x", message: "gone" }, "x · gone"],
  [{ type: "client_input_requested", prompt: "Which?", options: ["a", 1] }, "Which? · (a, 1)"],
  [{ type: "client_input_received", data: { input: { a: 1 } } }, '{"a":1}'],
  [{ type: "tool_call_completed", tool: "ls", call_id: "c", is_error: true }, "ls · failed"],
  [{ type: "custom.vote", tenant: "t", ts: "now", run_id: "r", for: "plan b" }, "plan b"],
  [{ type: "context_usage_updated", tokens: 5, limit: 9 }, "tokens: 5, limit: 9"],
  [{ type: "execution_started", stream_id: "queen" }, ""],
  [{ type: "execution_completed", output: "<b>done</b>" }, "<b>done</b>"],
];

for (const [event, words] of CASES) {
  test(`${event.type} in words: ${words || "none"}`, () => assert.equal(phrase(event), words));
}

test("a long text is cut, but no character is halved", () => {
  const cut = phrase({ type: "error", fatal: true, message: `${"x".repeat(1_999)}😀 and more` });
  assert.equal(cut, `${"x".repeat(1_999)}…`);
});
