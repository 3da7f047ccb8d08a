"""The steps of a run's life, as values: what may follow what, who holds a lease, and the events that tell of it."""

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from msgspec import Struct, structs

from services.runs.agent_events import AgentEvent
from services.runs.events import TERMINAL, Deleted, Error, RunStatus, Status, worker_of
from services.runs.model import NEXT, FinishStatus, Mode, Run
from services.runs.summary import Summary, summarise
from shared.edge.problems import BadInput, Conflict, Forbidden
from shared.protocol.record import DELETED, Draft
from shared.protocol.schema import Built


class NewRun(Struct, frozen=True, kw_only=True):
    """What a caller decides about a run."""

    tenant: str
    owner: str
    task: str
    mode: Mode
    runner: str
    session_id: str | None = None
    task_id: str | None = None
    workers: int = 1
    params: dict[str, Any] = {}
    timeout_seconds: float | None = None
    max_attempts: int = 3
    retry_of: str | None = None
    delay_seconds: float = 0.0


class Lease(Struct, frozen=True):
    """The right to work on a run until `expires_at`, which renewing extends."""

    token: str
    expires_at: datetime


class Created(Struct, frozen=True):
    """`answer` is the JSON of the list of runs as they were stored; `leases` are those to work on now."""

    answer: bytes
    leases: Sequence[tuple[Run, Lease]] = ()


class Appended(Struct, frozen=True):
    """`position` is that of the newest stored event; `stored` counts the new ones, repeats are not among them."""

    stored: int
    position: str
    next_producer_seq: int | None
    cancel: bool


class Batch(Struct, frozen=True):
    """Events of one producer; `producer_seq` numbers the first. Without a producer, a repeat is stored twice."""

    events: Sequence[Built]
    producer: str | None = None
    producer_seq: int | None = None


class Finish(Struct, frozen=True, kw_only=True):
    """How a worker says that a run is over."""

    status: FinishStatus
    error: str | None = None
    output: str | None = None


LOST_LEASE = "This lease is not held any more: the run belongs to another attempt. Stop working on it."


def check_lease(run: Run, token: str, now: datetime) -> None:
    """Raise Forbidden for a lease that is another's or has expired, Conflict for a run that has ended."""
    if run.lease_token is None or not secrets.compare_digest(run.lease_token.encode(), token.encode()):
        raise Forbidden(LOST_LEASE)
    if run.is_over:
        raise Conflict(f"The run has ended already: it is {run.status}.", run_status=run.status)
    if run.lease_expires_at is None or run.lease_expires_at <= now:
        raise Forbidden(LOST_LEASE)


def check_session(run: Run, events: Sequence[Built]) -> None:
    """Raise BadInput for an event that says of itself that it is of another session than its run."""
    for place, built in enumerate(events):
        if isinstance(built.event, AgentEvent) and built.event.session_id not in (None, run.session_id):
            raise BadInput(f"events[{place}]: session_id is not the run's own; leave it out")


def fresh(run_id: str, new: NewRun, now: datetime) -> Run:
    decided = structs.asdict(new)
    delay = decided.pop("delay_seconds")
    return Run(
        id=run_id,
        **decided,
        start_after=now + timedelta(seconds=delay) if delay else None,
        status="queued",
        error=None,
        output=None,
        attempt=1,
        created_at=now,
        started_at=None,
        finished_at=None,
        last_activity_at=now,
        first_seq=0,
        last_seq=0,
        lease_token=None,
        lease_worker=None,
        lease_expires_at=None,
        summary=Summary(),
    )


def moved(run: Run, status: RunStatus) -> Run:
    """The run in its next status. Raise Conflict for a move that is not allowed."""
    if status not in NEXT[run.status]:
        raise Conflict(f"A run that is {run.status} cannot become {status}.", run_status=run.status)
    return structs.replace(run, status=status)


def unleased(run: Run) -> Run:
    return structs.replace(run, lease_token=None, lease_worker=None, lease_expires_at=None)


def is_timed_out(run: Run, now: datetime) -> bool:
    if run.timeout_seconds is None or run.started_at is None:
        return False
    return run.started_at + timedelta(seconds=run.timeout_seconds) < now


def told(next_seq: int, run: Run, events: Sequence[Built], now: datetime) -> tuple[Run, list[Draft]]:
    """The run as it is once these events are stored, and their drafts."""
    drafts = [draft_of(run, event) for event in events]
    if not drafts:
        return run, drafts
    run = structs.replace(
        run,
        summary=summarise(run.summary, [built.event for built in events], run.attempt),
        first_seq=run.first_seq or next_seq,
        last_seq=next_seq + len(drafts) - 1,
        last_activity_at=now,
    )
    return run, drafts


def draft_of(run: Run, built: Built) -> Draft:
    event = built.event
    ends = None
    if isinstance(event, Deleted):
        ends = DELETED
    elif isinstance(event, Status) and event.status in TERMINAL:
        ends = event.status
    return Draft(
        type=built.type,
        tenant=run.tenant,
        subject=run.subject,
        session=run.session_id,
        worker=worker_of(event),
        ends=ends,
        data=built.data,
    )


def status_of(run: Run, now: datetime, *, message: str | None = None) -> Status:
    return Status(
        tenant=run.tenant,
        run_id=run.id,
        ts=now,
        status=run.status,
        attempt=run.attempt,
        message=message,
        worker=run.lease_worker,
        error=run.error,
        output=run.output,
        task_id=run.task_id,
        session_id=run.session_id,
        tokens_in=run.summary.tokens_in,
        tokens_out=run.summary.tokens_out,
        snippet=run.summary.snippet,
    )


def error_of(run: Run, now: datetime, code: str, message: str, *, fatal: bool) -> Error:
    return Error(tenant=run.tenant, run_id=run.id, ts=now, fatal=fatal, code=code, message=message, attempt=run.attempt)
