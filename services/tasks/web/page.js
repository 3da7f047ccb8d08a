// The pages of tasks: the board at /tasks, and one task at /tasks/<id>.

import { byId, setShown } from "/web/shared/dom.js";
import { startPage } from "/web/shared/page.js";
import { startRouter } from "/web/shared/router.js";

import { Board } from "/web/tasks/board.js";
import { askForTask } from "/web/tasks/create.js";
import { TaskView } from "/web/tasks/task.js";

const { connection } = await startPage();
const board = new Board(byId("board"), connection);
/** @type {TaskView | null} */
let view = null;

byId("new-task").addEventListener("click", () => askForTask());

startRouter("/tasks", ({ id, query }) => {
  setShown(byId("board"), id === null);
  setShown(byId("task"), id !== null);
  if (id === null) board.show(query.get("status"));
  else board.hide();
  if (view?.id === id) return;
  view?.close();
  view = id === null ? null : new TaskView(byId("task"), id, connection);
  if (view === null) document.title = "Tasks · Tailrace";
});
