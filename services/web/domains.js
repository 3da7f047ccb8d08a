// What tasks, runs and previews are to the start page: where they are, what counts as going on, what an event changes.

/**
 * @typedef {{id: string, title: string, status: string, note: string, at: string, href: string, last_position: string}} Item
 * @typedef {object} Domain
 * @property {string} name
 * @property {string} one
 * @property {string} base of its API; also of its list and stream
 * @property {string} path of its page
 * @property {string} sign
 * @property {string} nothing what to say where there is none
 * @property {string[]} active the statuses that go on, the one to show first
 * @property {(row: any) => Item} itemOf from a row of the list
 * @property {(event: any) => string | undefined} idOf whose event it is
 * @property {(item: Item | undefined, event: any) => Item | null | undefined} apply the item after an event; null when it is
 *   gone, undefined where the list has to say what it is
 */

/** @type {Domain} */
const tasks = {
  name: "Tasks",
  one: "task",
  base: "/api/v1/tasks",
  path: "/tasks",
  sign: "task",
  nothing: "A task is a long piece of work that people watch.",
  active: ["running", "waiting_input", "queued"],
  itemOf: (task) => ({
    id: task.id,
    title: task.title,
    status: task.status,
    note: progressOf(task.progress),
    at: task.updated_at,
    href: `/tasks/${task.id}`,
    last_position: task.last_position,
  }),
  idOf: (event) => event.task_id,
  apply: (_, event) => {
    if (event.type === "deleted") return null;
    return tasks.itemOf({ ...event, id: event.task_id, last_position: "" });
  },
};

/** @param {{done: number, total: number | null, unit: string | null}} progress */
function progressOf({ done, total, unit }) {
  return total === null ? "" : `${done} of ${total}${unit ? ` ${unit}` : ""}`;
}

/** @type {Domain} */
const runs = {
  name: "Runs",
  one: "run",
  base: "/api/v1/runs",
  path: "/runs",
  sign: "run",
  nothing: "A run is one execution by one or more workers.",
  active: ["running", "waiting_input", "cancelling", "queued"],
  itemOf: (run) => ({
    id: run.id,
    title: run.task,
    status: run.status,
    note: run.error ?? run.snippet ?? "",
    at: run.last_activity_at,
    href: `/runs/${run.id}`,
    last_position: run.last_position,
  }),
  idOf: (event) => event.run_id,
  apply: (item, event) => {
    if (event.type === "deleted") return null;
    if (!item) return undefined; // what it is about stands in the list alone
    const { snippet = null, error = null } = event;
    if (event.type === "status") return { ...item, status: event.status, note: error ?? snippet ?? item.note, at: event.ts };
    return { ...item, note: snippet ?? item.note, at: event.ts };
  },
};

/** @type {Domain} */
const previews = {
  name: "Previews",
  one: "preview",
  base: "/api/v1/previews",
  path: "/previews",
  sign: "preview",
  nothing: "A preview is a generated program, started for a person to try.",
  active: ["running", "unhealthy", "starting", "preparing", "stopping"],
  itemOf: (preview) => ({
    id: preview.id,
    title: preview.generation_id,
    status: preview.status,
    note: preview.kind,
    at: preview.stopped_at ?? preview.started_at ?? preview.created_at,
    href: `/previews/${encodeURIComponent(preview.generation_id)}`,
    last_position: preview.last_position,
  }),
  idOf: (event) => event.preview_id,
  apply: (item, event) => ({
    id: event.preview_id,
    title: event.generation_id,
    status: event.status,
    note: event.kind ?? item?.note ?? "",
    at: event.ts,
    href: `/previews/${encodeURIComponent(event.generation_id)}`,
    last_position: "",
  }),
};

export const DOMAINS = Object.freeze([tasks, runs, previews]);
