"""`tailrace submit`: start one or several runs, and watch them."""

import uuid
from typing import Any

from msgspec import Struct

from services.commands.answers import read
from services.commands.tail import FIRST_SECONDS, tail, tail_runs
from services.commands.terminal import Terminal
from shared.client import Client, Refused

RUNS = "/api/v1/runs"
TASKS = "/api/v1/tasks"


class Submission(Struct, frozen=True, kw_only=True):
    """What to start: `count` runs of `run` (the body of POST /runs), and a task of this title that owns them."""

    run: dict[str, Any]
    count: int = 1
    stagger_ms: int = 300
    title: str | None = None
    is_watched: bool = True


class Started(Struct, frozen=True):
    """What matters here of a task or a run that was made."""

    id: str
    last_position: str


class Batch(Struct, frozen=True):
    """Several runs."""

    data: list[dict[str, Any]]


async def submit(client: Client, what: Submission, terminal: Terminal) -> int:
    """Start it and print the ids; then watch it to its end unless told not to. Return the exit code."""
    if what.title is None:
        task_id, runs = None, await _start(client, what, what.run)
    else:
        task_id, runs = await _start_owned(client, what)
    ids = [read(run, Started).id for run in runs]
    if not terminal.is_json:
        for subject in ids if task_id is None else [task_id, *ids]:
            terminal.text(subject)
    elif not what.is_watched:
        for run in runs:
            terminal.frame(read(run, Started).last_position, run)
    if not what.is_watched:
        return 0
    if task_id is not None:
        return await tail(client, "task", task_id, terminal, after=None, types=None)
    if len(ids) == 1:
        return await tail(client, "run", ids[0], terminal, after=None, types=None)
    return await tail_runs(client, ids, terminal, after="start")


async def _start_owned(client: Client, what: Submission) -> tuple[str, list[dict[str, Any]]]:
    """A task and its runs; without these no task either."""
    task_id = read(await _create(client, TASKS, {"title": what.title, "kind": "runs"}), Started).id
    try:
        return task_id, await _start(client, what, {**what.run, "task_id": task_id})
    except Refused:
        await client.request("DELETE", f"{TASKS}/{task_id}", patience_seconds=FIRST_SECONDS)
        raise


async def _start(client: Client, what: Submission, run: dict[str, Any]) -> list[dict[str, Any]]:
    if what.count == 1:
        return [await _create(client, RUNS, run)]
    batch = {**run, "mode": "queued", "count": what.count, "stagger_ms": what.stagger_ms}
    return read(await _create(client, f"{RUNS}/batch", batch), Batch).data


async def _create(client: Client, path: str, body: dict[str, Any]) -> Any:
    """The answer; should it be lost on the way, asking again gets the same one."""
    key = str(uuid.uuid4())
    return await client.request("POST", path, json=body, idempotency_key=key, patience_seconds=FIRST_SECONDS)
