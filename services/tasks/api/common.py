"""What the handlers of the tasks service share."""

from services.tasks.backend import Backend
from services.tasks.lifecycle import NO_TASK
from shared.edge.admission import Connection
from shared.edge.ids import is_id
from shared.edge.problems import Missing

BASE = "/api/v1/tasks"


def backend_of(connection: Connection) -> Backend:
    """The service's parts."""
    backend: Backend = connection.app.state.backend
    return backend


def check_id(task_id: str) -> None:
    """One that cannot exist is refused in the same words as one that does not."""
    if not is_id("task", task_id):
        raise Missing(NO_TASK)
