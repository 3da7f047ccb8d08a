"""A run: the row that is kept, what is shown of it, and what may follow which status."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from msgspec import Struct

from services.runs.events import TERMINAL, RunStatus
from services.runs.summary import Summary
from shared.protocol.position import Position

Mode = Literal["inline", "queued"]
FinishStatus = Literal["completed", "failed", "cancelled", "timed_out"]

NEXT: Mapping[RunStatus, frozenset[RunStatus]] = {
    "queued": frozenset({"running", "cancelled", "failed", "timed_out"}),
    "running": frozenset({"queued", "waiting_input", "cancelling", "completed", "failed", "cancelled", "timed_out"}),
    "waiting_input": frozenset({"queued", "running", "cancelling", "completed", "failed", "cancelled", "timed_out"}),
    "cancelling": frozenset({"completed", "failed", "cancelled", "timed_out"}),
    "completed": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
    "timed_out": frozenset(),
}


class Run(Struct, frozen=True, kw_only=True):
    """One row. Times are the database's, in UTC."""

    id: str
    tenant: str
    owner: str
    task: str
    mode: Mode
    runner: str
    status: RunStatus
    session_id: str | None
    task_id: str | None
    workers: int
    params: dict[str, Any]
    timeout_seconds: float | None
    error: str | None
    output: str | None
    attempt: int
    max_attempts: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    last_activity_at: datetime
    first_seq: int
    last_seq: int
    lease_token: str | None
    lease_worker: str | None
    lease_expires_at: datetime | None
    summary: Summary
    start_after: datetime | None = None
    retry_of: str | None = None

    @property
    def subject(self) -> str:
        return f"run/{self.id}"

    @property
    def is_over(self) -> bool:
        return self.status in TERMINAL

    @property
    def should_stop(self) -> bool:
        """What workers are told with every answer."""
        return self.status == "cancelling" or self.is_over


class RunView(Struct, frozen=True, kw_only=True):
    """A run as the API shows it. `last_position` is the position of its newest event."""

    id: str
    tenant: str
    task: str
    mode: Mode
    runner: str
    status: RunStatus
    session_id: str | None
    task_id: str | None
    workers: int
    params: dict[str, Any]
    timeout_seconds: float | None
    tokens_in: int
    tokens_out: int
    tokens_per_second: float
    snippet: str | None
    error: str | None
    output: str | None
    attempt: int
    max_attempts: int
    retry_of: str | None
    created_at: datetime
    start_after: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    last_activity_at: datetime
    last_position: str


def view(run: Run, epoch: str) -> RunView:
    """What is shown of it."""
    return RunView(
        id=run.id,
        tenant=run.tenant,
        task=run.task,
        mode=run.mode,
        runner=run.runner,
        status=run.status,
        session_id=run.session_id,
        task_id=run.task_id,
        workers=run.workers,
        params=run.params,
        timeout_seconds=run.timeout_seconds,
        tokens_in=run.summary.tokens_in,
        tokens_out=run.summary.tokens_out,
        tokens_per_second=run.summary.tokens_per_second,
        snippet=run.summary.snippet,
        error=run.error,
        output=run.output,
        attempt=run.attempt,
        max_attempts=run.max_attempts,
        retry_of=run.retry_of,
        created_at=run.created_at,
        start_after=run.start_after,
        started_at=run.started_at,
        finished_at=run.finished_at,
        last_activity_at=run.last_activity_at,
        last_position=str(Position(epoch, run.last_seq)),
    )
