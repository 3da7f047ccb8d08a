"""The tasks service's part of the event schema."""

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, Struct

from shared.protocol.schema import Delivery, Event, Schema

TaskStatus = Literal["queued", "running", "waiting_input", "succeeded", "failed", "cancelled"]
TERMINAL = frozenset({"succeeded", "failed", "cancelled"})

_BOUNDS = Meta(ge=0, le=2**53 - 1)  # what JavaScript can hold
Amount = Annotated[int, _BOUNDS] | Annotated[float, _BOUNDS]
Label = Annotated[str, Meta(max_length=500, pattern=r"^[^\x00]*$")]
Moment = Annotated[datetime, Meta(tz=True)]  # without a zone each reader would take it for its own (RFC 3339)


class Progress(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far the work is: `done` of `total` (null: nobody knows) `unit`s, and what it is at now."""

    done: Amount = 0
    total: Amount | None = None
    unit: Annotated[str, Meta(max_length=40, pattern=r"^[^\x00]*$")] | None = None
    message: Label | None = None


class Step(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the work. `status` is a word of the worker's own, such as `pending`, `running`, `done`, `failed`."""

    name: Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
    status: Annotated[str, Meta(min_length=1, max_length=40, pattern=r"^[^\x00]*$")] = "pending"
    message: Label | None = None
    started_at: Moment | None = None
    finished_at: Moment | None = None


class Snapshot(Event, frozen=True, kw_only=True, tag="snapshot"):
    """The whole task as it is now; only the newest matters. A terminal one is the task's last."""

    delivery: ClassVar[Delivery] = Delivery.LATEST

    task_id: str
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


class Deleted(Event, frozen=True, kw_only=True, tag="deleted"):
    """The task is gone, and its snapshots with it. Its last event."""

    task_id: str


SCHEMA = Schema([Snapshot, Deleted])
