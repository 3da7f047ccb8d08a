"""`tailrace submit`: start one or several runs, and watch them."""

from typing import Any

from msgspec import Struct

from services.commands.tail import tail, tail_runs
from services.commands.terminal import Terminal
from shared.client import Client

RUNS = "/api/v1/runs"


class Submission(Struct, frozen=True, kw_only=True):
    """What to start: `count` runs of `run` (the body of POST /runs), and a task of this title that owns them."""

    run: dict[str, Any]
    count: int = 1
    stagger_ms: int = 300
    title: str | None = None
    is_watched: bool = True


async def submit(client: Client, what: Submission, terminal: Terminal) -> int:
    """Start it and print the ids; then watch it to its end unless told not to. Return the exit code."""
    run = dict(what.run)
    if what.title is not None:
        task = await client.request("POST", "/api/v1/tasks", json={"title": what.title, "kind": "runs"})
        run["task_id"] = task["id"]
    if what.count == 1:
        runs = [await client.request("POST", RUNS, json=run)]
    else:
        batch = {**run, "mode": "queued", "count": what.count, "stagger_ms": what.stagger_ms}
        runs = (await client.request("POST", f"{RUNS}/batch", json=batch))["data"]
    ids = [str(started["id"]) for started in runs]
    if not terminal.is_json:
        for subject in ids if what.title is None else [run["task_id"], *ids]:
            terminal.text(subject)
    if not what.is_watched:
        if terminal.is_json:
            for started in runs:
                terminal.frame(started["last_position"], started)
        return 0
    if what.title is not None:
        return await tail(client, "task", run["task_id"], terminal, after=None, types=None)
    if what.count == 1:
        return await tail(client, "run", ids[0], terminal, after=None, types=None)
    return await tail_runs(client, ids, terminal, after="start")
