"""What the runs of a task make of it: the rules by which a task follows its runs."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct, structs

from services.tasks.events import TaskStatus
from services.tasks.model import Task
from shared.protocol.position import Position

OVER = frozenset({"completed", "failed", "cancelled", "timed_out"})
FAILED = frozenset({"failed", "timed_out"})
BEGUN = frozenset({"running", "cancelling"})


class OwnedRun(Struct, frozen=True, kw_only=True):
    """A run of a task as far as it was told; `seq` is the place of the newest news of it in the log `epoch` of runs."""

    run_id: str
    tenant: str
    task_id: str
    status: str
    error: str | None
    epoch: str
    seq: int

    @property
    def is_over(self) -> bool:
        return self.status in OVER

    @property
    def fault(self) -> str:
        """Why it failed."""
        return self.error or f"run {self.run_id} {'took too long' if self.status == 'timed_out' else 'failed'}"

    def gone(self, position: Position) -> "OwnedRun":
        """What it counts as when it is there no more, and nobody can say how it ended; known since `position`."""
        error = f"run {self.run_id} is not known any more"
        return structs.replace(self, status="failed", error=error, epoch=position.epoch, seq=position.seq)


def is_news(known: OwnedRun | None, told: OwnedRun) -> bool:
    """Whether it is newer than what is known: lists and feeds overlap."""
    return known is None or known.epoch != told.epoch or known.seq < told.seq


def followed(task: Task, runs: Sequence[OwnedRun]) -> dict[str, Any]:
    """The fields of the task that its runs decide, as they should be now. `runs` are all of its runs, oldest first."""
    finished = [run for run in runs if run.is_over]
    failed = [run for run in finished if run.status in FAILED]
    status: TaskStatus = task.status
    if len(finished) == len(runs):
        cancelled = all(run.status == "cancelled" for run in runs)
        status = "failed" if failed else "cancelled" if cancelled else "succeeded"
    elif any(run.status == "waiting_input" for run in runs):
        status = "waiting_input"
    elif task.status == "waiting_input" or any(run.status in BEGUN or run.is_over for run in runs):
        status = "running"
    unit = task.progress.unit or "runs"
    decided: dict[str, Any] = {
        "status": status,
        "run_ids": [run.run_id for run in runs],
        "progress": structs.replace(task.progress, done=len(finished), total=len(runs), unit=unit),
    }
    if status == "failed":
        decided["error"] = failed[0].fault
    return decided
