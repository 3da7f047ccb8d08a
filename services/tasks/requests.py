"""The bodies that the tasks API takes and gives."""

from msgspec import Struct

from services.tasks.model import TaskFields, TaskView


class CreateTask(TaskFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new task, `queued` or already `running`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.status not in ("queued", "running"):
            raise ValueError(f"a task begins queued or running, not {self.status}")


class TaskPage(Struct, frozen=True):
    """Newest first. `as_of` and the rows come from one snapshot: follow the feed from it."""

    data: list[TaskView]
    next_cursor: str | None
    as_of: str
