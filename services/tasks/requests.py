"""The bodies that the tasks API takes and gives."""

from typing import get_type_hints

from msgspec import UNSET, Struct, UnsetType, defstruct

from services.tasks.model import TaskFields, TaskView


class CreateTask(TaskFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new task, `queued` or already `running`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.status not in ("queued", "running"):
            raise ValueError(f"a task begins queued or running, not {self.status}")


# What a merge patch may say: any of the fields, and null for its default. For the document alone: it is the merged task
# that is checked.
TaskPatch = defstruct(
    "TaskPatch",
    [
        (name, kind | None | UnsetType, UNSET)
        for name, kind in get_type_hints(TaskFields, include_extras=True).items()
        if name in TaskFields.__struct_fields__
    ],
    forbid_unknown_fields=True,
)


class TaskPage(Struct, frozen=True):
    """Newest first. `as_of` and the rows come from one snapshot: follow the feed from it."""

    data: list[TaskView]
    next_cursor: str | None
    as_of: str
