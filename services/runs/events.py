"""The runs service's part of the event schema."""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from services.runs.agent_events import AGENT_TYPES, WORKER_PREFIX, AgentEvent
from shared.protocol.schema import Delivery, Event, Schema

MAX_SNIPPET_CHARACTERS = 200

Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]  # what JavaScript can hold
WorkerId = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+(?!\n)$")]

RunStatus = Literal["queued", "running", "waiting_input", "cancelling", "completed", "failed", "cancelled", "timed_out"]
TERMINAL = frozenset({"completed", "failed", "cancelled", "timed_out"})


class RunEvent(Event, frozen=True, kw_only=True, omit_defaults=True):
    """An event of one run."""

    run_id: str


class Status(RunEvent, frozen=True, kw_only=True, omit_defaults=True, tag="status"):
    """The run is in this status now. A terminal one is the run's last event."""

    status: RunStatus
    attempt: int
    message: str | None = None
    worker: str | None = None
    error: str | None = None
    output: str | None = None
    task_id: str | None = None
    session_id: str | None = None
    tokens_in: int
    tokens_out: int
    snippet: str | None = None


class NodeUpdate(RunEvent, frozen=True, kw_only=True, omit_defaults=True, tag="node_update"):
    """Where a worker of the run stands. Counters are cumulative per worker and attempt."""

    delivery: ClassVar[Delivery] = Delivery.SHEDDABLE

    node: str
    agent: str | None = None
    worker_id: WorkerId | None = None
    iteration: Count | None = None
    phase: str | None = None
    tokens_in: Count | None = None
    tokens_out: Count | None = None
    elapsed_ms: Count | None = None
    model: str | None = None
    estimated: bool = False  # the token counts are a guess: the model's provider gave none
    attempt: Count | None = None
    snippet: str | None = None


class Error(RunEvent, frozen=True, kw_only=True, omit_defaults=True, tag="error"):
    """Something went wrong with the work; the run goes on unless `fatal`."""

    fatal: bool
    code: str
    message: str
    attempt: Count | None = None
    node: str | None = None


class Deleted(RunEvent, frozen=True, kw_only=True, omit_defaults=True, tag="deleted"):
    """The run is gone, and its events with it. Its last event."""


SCHEMA = Schema([Status, NodeUpdate, Error, Deleted, *AGENT_TYPES])
RUN_TYPES = ("status", "node_update", "error", "deleted")

# what a worker may append; `status` and `deleted` are the service's own words
AGENT_TYPE_NAMES = tuple(str(event.__struct_config__.tag) for event in AGENT_TYPES)
WORKER_TYPES = ("node_update", "error", *(name for name in AGENT_TYPE_NAMES if name != "client_input_received"))


def worker_of(event: Event) -> str | None:
    """The worker that an event is indexed under: who reports it, or whose chatter it is."""
    if isinstance(event, NodeUpdate):
        return event.worker_id
    if isinstance(event, AgentEvent) and event.stream_id is not None and event.stream_id.startswith(WORKER_PREFIX):
        return event.stream_id.removeprefix(WORKER_PREFIX)
    return None


def cut_snippet(text: str) -> str:
    """At most MAX_SNIPPET_CHARACTERS, cut between characters."""
    return text[:MAX_SNIPPET_CHARACTERS]
