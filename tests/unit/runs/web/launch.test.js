import assert from "node:assert/strict";
import { test } from "node:test";

import { served } from "../../../support/web/served.js";

const { faults, launchOf } = await served("runs/launch.js");

const wish = (more) => ({ task: " a poem ", runner: "sample", count: 1, staggerMs: 300, workers: 2, ...more });

test("one run starts inline", () => {
  assert.deepEqual(launchOf(wish()), {
    url: "/api/v1/runs",
    json: { task: "a poem", runner: "sample", workers: 2, session_id: null, task_id: null, params: {}, mode: "inline" },
  });
});

test("several are a batch, one after the other", () => {
  const { url, json } = launchOf(wish({ count: 18, sessionId: "colony-7 ", taskId: "task_1" }));
  assert.equal(url, "/api/v1/runs/batch");
  assert.deepEqual([json.count, json.stagger_ms, json.session_id, json.task_id], [18, 300, "colony-7", "task_1"]);
});

test("a runner of one's own workers waits in the queue", () => {
  const { json } = launchOf(wish({ runner: "other", ownRunner: " directory " }));
  assert.deepEqual([json.runner, json.mode], ["directory", "queued"]);
});

test("parameters are an object, given as JSON", () => {
  assert.deepEqual(launchOf(wish({ params: ' {"words": 3} ' })).json.params, { words: 3 });
  for (const params of ["{", "3", "null", "[]"]) assert.ok(faults(wish({ params })).params, params);
});

test("what is wrong is said field by field", () => {
  assert.deepEqual(faults(wish()), {});
  const wrong = wish({ task: "  ", runner: "other", ownRunner: "", count: 19, staggerMs: -1, workers: NaN, params: "[1]" });
  assert.deepEqual(Object.keys(faults(wrong)), ["task", "ownRunner", "count", "staggerMs", "workers", "params"]);
});
