// What can be done to a task, each after a question.

import { toast } from "/web/shared/announce.js";
import { confirmed } from "/web/shared/dialog.js";
import { request } from "/web/shared/stream.js";

const url = (/** @type {string} */ id) => `/api/v1/tasks/${encodeURIComponent(id)}`;

/** @param {string} id @param {string} title */
export async function cancelTask(id, title) {
  const text = "It ends as cancelled, and its runs are asked to stop. This cannot be taken back.";
  if (await confirmed({ title: `Cancel “${title}”?`, text, action: "Cancel the task", stay: "Let it go on" })) {
    await tried(() => request(`${url(id)}/cancel`, { method: "POST" }), "The task was not cancelled");
  }
}

/** Whether it is gone. @param {string} id @param {string} title */
export async function deleteTask(id, title) {
  const text = "It is removed with its history. Its runs stay as they are.";
  if (!(await confirmed({ title: `Delete “${title}”?`, text, action: "Delete the task" }))) return false;
  return await tried(() => request(url(id), { method: "DELETE" }), "The task was not deleted");
}

/** @param {() => Promise<unknown>} work @param {string} otherwise */
async function tried(work, otherwise) {
  try {
    await work();
    return true;
  } catch (error) {
    toast(`${otherwise}: ${/** @type {Error} */ (error).message}`, { tone: "bad" });
    return false;
  }
}
