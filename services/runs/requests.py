"""The bodies that the runs API takes and gives."""

from typing import Annotated, Any

from msgspec import Meta, Raw, Struct

from services.runs.model import FinishStatus, Mode, RunView
from services.runs.steps import Lease
from shared.edge.fields import Name, Reference, Text, check_depth


class CreateRun(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`task` is the prompt. `inline` starts in the accepting process, `queued` waits for any worker."""

    task: Annotated[str, Meta(min_length=1, max_length=100_000, pattern=r"^[^\x00]*$")]
    mode: Mode = "inline"
    runner: Name = "sample"
    workers: Annotated[int, Meta(ge=1, le=100)] = 1
    session_id: Reference | None = None
    task_id: Reference | None = None
    params: dict[str, Any] = {}
    timeout_seconds: Annotated[float, Meta(gt=0, le=7 * 86_400)] | None = None
    max_attempts: Annotated[int, Meta(ge=1, le=100)] = 3

    def __post_init__(self) -> None:
        check_depth("params", self.params)


class CreateBatch(CreateRun, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same run `count` times, each `stagger_ms` after the one before; they wait in the queue for their time."""

    mode: Mode = "queued"

    count: Annotated[int, Meta(ge=1, le=100)]
    stagger_ms: Annotated[int, Meta(ge=0, le=60_000)] = 300


class InputRun(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a waiting run is given: text, or any JSON value."""

    input: Any


class RunList(Struct, frozen=True):
    """Several runs at once."""

    data: list[RunView]


class LeaseRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`worker` names the caller in the run's events; it waits up to `wait_seconds` for a queued run."""

    runners: Annotated[list[Name], Meta(min_length=1, max_length=50)]
    worker: Name = "worker"
    wait_seconds: Annotated[float, Meta(ge=0, le=60)] = 0


class LeaseGiven(Struct, frozen=True):
    """A run to work on, and the lease to send with every call about it."""

    run: RunView
    lease: Lease
    cancel: bool


class LeaseRenewed(Struct, frozen=True):
    """`cancel`: stop working and finish with `cancelled`."""

    lease: Lease
    cancel: bool


class AppendEvents(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`producer_seq` numbers the first of `events`; a producer counts from 1 without holes."""

    events: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=1_000)]
    producer: Name | None = None
    producer_seq: Annotated[int, Meta(ge=0, le=2**62)] | None = None


class FinishRun(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the run ended."""

    status: FinishStatus
    error: Text | None = None
    output: Text | None = None


class RunnerView(Struct, frozen=True):
    """A runner of the service; `missing` says what is to be set before it can work here."""

    name: str
    missing: str | None


class RunnerList(Struct, frozen=True):
    """The runners of the service."""

    data: list[RunnerView]


class RunPage(Struct, frozen=True):
    """Newest first. `as_of` and the rows come from one snapshot: follow the feed from it."""

    data: list[RunView]
    next_cursor: str | None
    as_of: str


class RunDetail(RunView, frozen=True, kw_only=True):
    """A run with its stored events, oldest first; `events_next` is the position to read on from when there are more."""

    events: list[Raw]
    events_trimmed: bool
    events_next: str | None


class RunState(Struct, frozen=True):
    """The run after a change."""

    run: RunView
    cancel: bool
