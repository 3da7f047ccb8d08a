// An event of a run in words. Pure: texts only, whatever they look like.

import { words } from "/web/shared/format.js";

/** @typedef {import("./card.js").RunEvent} RunEvent */

const ENVELOPE = new Set(["type", "tenant", "ts", "run_id", "session_id", "stream_id", "node_id", "execution_id"]);
const LONGEST = 2_000;

/** What it says, beside its type and its time. @param {RunEvent} event @returns {string} */
export function phrase(event) {
  const own = PHRASES[event.type];
  return cut(own ? own(event) : rest(event));
}

/** @type {Record<string, (event: RunEvent) => string>} */
const PHRASES = {
  status: (event) =>
    joined(
      event.attempt > 1 && `attempt ${event.attempt}`,
      event.worker && `on ${event.worker}`,
      event.message,
      event.error,
    ),
  error: (event) => joined(event.node, event.code, event.message, !event.fatal && "the run goes on"),
  node_update: (event) => event.snippet ?? "",
  client_output_delta: (event) => event.text ?? "",
  llm_text_delta: (event) => event.text ?? "",
  node_internal_output: (event) => event.text ?? "",
  client_input_requested: (event) => joined(event.prompt, event.options?.length && `(${event.options.join(", ")})`),
  client_input_received: (event) => event.text ?? json(event.data?.input),
  llm_turn_complete: (event) =>
    joined(
      event.model,
      event.tokens_in !== undefined && `${event.tokens_in} tokens in`,
      event.tokens_out !== undefined && `${event.tokens_out} out`,
      event.stop_reason,
    ),
  tool_call_started: (event) => joined(event.tool, rest(event, ["tool", "call_id"])),
  tool_call_completed: (event) => joined(event.tool, event.is_error && "failed", rest(event, ["tool", "call_id", "is_error"])),
  node_loop_iteration: (event) => (event.iteration === undefined ? "" : `iteration ${event.iteration}`),
  execution_completed: (event) => (typeof event.output === "string" ? event.output : json(event.output)),
};

/** The fields that nothing else shows: `name: value, …`. @param {RunEvent} event @param {string[]} [shown] */
function rest(event, shown = []) {
  const fields = Object.entries(event).filter(([name]) => !ENVELOPE.has(name) && !shown.includes(name));
  if (fields.length === 1 && typeof fields[0][1] === "string") return fields[0][1];
  return fields.map(([name, value]) => `${words(name)}: ${typeof value === "string" ? value : json(value)}`).join(", ");
}

/** @param {unknown} value */
function json(value) {
  return value === undefined || value === null ? "" : JSON.stringify(value);
}

/** @param {...unknown} parts */
function joined(...parts) {
  return parts.filter(Boolean).join(" · ");
}

/** Between characters: half an emoji is none. @param {string} text */
function cut(text) {
  if (text.length <= LONGEST) return text;
  const end = text.charCodeAt(LONGEST - 1);
  return `${text.slice(0, end >= 0xd800 && end < 0xdc00 ? LONGEST - 1 : LONGEST)}…`;
}
