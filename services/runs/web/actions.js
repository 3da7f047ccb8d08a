// What a person does to a run. A refusal is shown in the server's own words.

import { toast } from "/web/shared/announce.js";
import { confirmed } from "/web/shared/dialog.js";
import { request } from "/web/shared/stream.js";

const RUNS = "/api/v1/runs";

/** @typedef {import("./card.js").Run} Run */

/** Asks it to stop. @param {string} id */
export async function cancel(id) {
  return await told("The run was not cancelled", () => request(`${RUNS}/${id}/cancel`, { method: "POST" }));
}

/** Starts one like it; the new run, or null. @param {string} id @returns {Promise<Run | null>} */
export async function retry(id) {
  const idempotencyKey = newKey();
  return await told("The run was not retried", () => request(`${RUNS}/${id}/retry`, { method: "POST", idempotencyKey }));
}

/** Gives it what it waits for. @param {string} id @param {unknown} input */
export async function answer(id, input) {
  return await told("The answer was not taken", () => request(`${RUNS}/${id}/input`, { json: { input } }));
}

/** Removes it for good, when that is what is wanted; whether it was. @param {string} id @param {string} task */
export async function remove(id, task) {
  const isWanted = await confirmed({
    title: "Delete this run?",
    text: `“${task.length > 120 ? `${task.slice(0, 120)}…` : task}” and all its events will be gone. This cannot be undone.`,
    action: "Delete it",
  });
  if (!isWanted) return false;
  const isDone = await told("The run was not deleted", async () => {
    await request(`${RUNS}/${id}`, { method: "DELETE" });
    return true;
  });
  return isDone === true;
}

/** An idempotency key. A page that came over plain HTTP from another machine has no `randomUUID`. */
export function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** What `work` gives, or null when it was refused, and said. @template T @param {string} failure @param {() => Promise<T>} work */
async function told(failure, work) {
  try {
    return await work();
  } catch (error) {
    toast(`${failure}: ${/** @type {Error} */ (error).message}`, { tone: "bad" });
    return null;
  }
}
