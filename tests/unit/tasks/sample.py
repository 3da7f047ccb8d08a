"""Tasks and runs to try the rules on."""

from datetime import UTC, datetime
from typing import Any

from services.tasks.events import Progress
from services.tasks.model import Task
from services.tasks.rules import OwnedRun

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def task(**fields: Any) -> Task:
    """A queued task unless told."""
    usual: dict[str, Any] = {
        "id": "task_01jzzzzzzzzzzzzzzzzzzzzzzz",
        "tenant": "default",
        "owner": "local",
        "kind": "task",
        "title": "t",
        "status": "queued",
        "progress": Progress(),
        "steps": [],
        "result": None,
        "error": None,
        "attempt": 1,
        "rev": 1,
        "created_at": NOON,
        "updated_at": NOON,
        "run_ids": [],
        "generation_id": None,
        "preview_status": None,
        "stops_runs": False,
        "last_seq": 7,
    }
    return Task(**{**usual, **fields})


def run(number: int, status: str, **fields: Any) -> OwnedRun:
    """A run of that task."""
    usual: dict[str, Any] = {
        "run_id": f"run_{number}",
        "tenant": "default",
        "task_id": "task_01jzzzzzzzzzzzzzzzzzzzzzzz",
        "status": status,
        "error": None,
        "epoch": "e",
        "seq": number,
    }
    return OwnedRun(**{**usual, **fields})
