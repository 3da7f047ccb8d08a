"""A task: the row that is kept, what is shown of it, what a caller may set, and what may follow which status."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from msgspec import Meta, Struct

from services.tasks.events import TERMINAL, Progress, Snapshot, Step, TaskStatus
from shared.edge.fields import Name, Reference, Text, check_depth
from shared.protocol.position import Position

NEXT: Mapping[TaskStatus, frozenset[TaskStatus]] = {
    "queued": frozenset({"running", "waiting_input", "succeeded", "failed", "cancelled"}),
    "running": frozenset({"queued", "waiting_input", "succeeded", "failed", "cancelled"}),
    "waiting_input": frozenset({"queued", "running", "succeeded", "failed", "cancelled"}),
    "succeeded": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}


class TaskFields(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a caller may set of a task, and later change by a merge patch."""

    title: Annotated[str, Meta(min_length=1, max_length=500, pattern=r"^[^\x00]*$")]
    kind: Name = "task"
    status: TaskStatus = "queued"
    progress: Progress = Progress()
    steps: Annotated[list[Step], Meta(max_length=500)] = []
    result: Any = None
    error: Text | None = None
    attempt: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    generation_id: Reference | None = None

    def __post_init__(self) -> None:
        check_depth("result", self.result)


class Task(Struct, frozen=True, kw_only=True):
    """One row. Times are the database's, in UTC. `rev` counts its changes from 1. `stops_runs`: a person has cancelled
    it, and its runs are to stop, those to come as well.
    """

    id: str
    tenant: str
    owner: str
    kind: str
    title: str
    status: TaskStatus
    progress: Progress
    steps: list[Step]
    result: Any
    error: str | None
    attempt: int
    rev: int
    created_at: datetime
    updated_at: datetime
    run_ids: list[str]
    generation_id: str | None
    preview_status: str | None
    stops_runs: bool
    last_seq: int

    @property
    def subject(self) -> str:
        return f"task/{self.id}"

    @property
    def is_over(self) -> bool:
        return self.status in TERMINAL


class TaskView(Struct, frozen=True, kw_only=True):
    """A task as the API shows it. `last_position` is the position of its newest snapshot."""

    id: str
    tenant: str
    kind: str
    title: str
    status: TaskStatus
    progress: Progress
    steps: list[Step]
    result: Any
    error: str | None
    attempt: int
    rev: int
    created_at: datetime
    updated_at: datetime
    run_ids: list[str]
    generation_id: str | None
    preview_status: str | None
    last_position: str


_SHOWN = tuple(name for name in TaskView.__struct_fields__ if name not in ("id", "last_position"))


def view(task: Task, epoch: str) -> TaskView:
    """What is shown of it."""
    shown = {name: getattr(task, name) for name in _SHOWN}
    return TaskView(id=task.id, last_position=str(Position(epoch, task.last_seq)), **shown)


def snapshot_of(task: Task) -> Snapshot:
    """The event that tells of its present state."""
    shown = {name: getattr(task, name) for name in _SHOWN}
    return Snapshot(ts=task.updated_at, task_id=task.id, **shown)
