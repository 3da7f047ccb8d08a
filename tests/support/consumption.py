"""Tasks and the runs that belong to them, as tests drive them; and what the tasks service made of the runs feed."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import asyncpg
import httpx
from msgspec import Struct

from tests.support.contract import RUNS, sql
from tests.support.readers import eventually
from tests.support.server import Server, lease, running

TASKS = "/api/v1/tasks"

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def new_task(client: httpx.AsyncClient, **fields: Any) -> str:
    answer = await client.post(TASKS, json={"title": "work", **fields})
    answer.raise_for_status()
    return str(answer.json()["id"])


async def task_of(client: httpx.AsyncClient, task_id: str) -> dict[str, Any]:
    """A task as GET shows it."""
    answer = await client.get(f"{TASKS}/{task_id}")
    answer.raise_for_status()
    task: dict[str, Any] = answer.json()
    return task


async def patch_task(client: httpx.AsyncClient, task_id: str, **patch: Any) -> None:
    (await client.patch(f"{TASKS}/{task_id}", json=patch)).raise_for_status()


async def snapshots(client: httpx.AsyncClient, task_id: str | None = None) -> list[dict[str, Any]]:
    """All stored snapshots of a task or of the board, none conflated."""
    url = f"{TASKS}/events" if task_id is None else f"{TASKS}/{task_id}/events"
    found: list[dict[str, Any]] = []
    after = "start"
    while True:
        answer = await client.get(url, params={"after": after, "limit": 1000})
        answer.raise_for_status()
        page = answer.json()
        found += [frame["event"] for frame in page["data"] if frame["event"]["type"] == "snapshot"]
        if page["next"] == page["head"] or not page["data"]:
            return found
        after = page["next"]


# ── runs ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Held(Struct, frozen=True):
    """A run under a lease of the test's."""

    client: httpx.AsyncClient
    id: str
    token: str

    async def finish(self, status: str = "completed", error: str | None = None) -> None:
        body = {"status": status} if error is None else {"status": status, "error": error}
        (await self._post("finish", body)).raise_for_status()

    async def tell(self, *events: dict[str, Any]) -> None:
        """Append events."""
        (await self._post("events", {"events": list(events)})).raise_for_status()

    async def is_to_stop(self) -> bool:
        answer = await self._post("lease/renew", {})
        answer.raise_for_status()
        return bool(answer.json()["cancel"])

    async def _post(self, what: str, body: Any) -> httpx.Response:
        return await self.client.post(f"{RUNS}/{self.id}/{what}", json=body, headers={"tailrace-lease": self.token})


async def held_run(client: httpx.AsyncClient, task_id: str, **more: Any) -> Held:
    """A new run of the task, running."""
    return Held(client, *await lease(client, runner=f"of/{task_id}", task_id=task_id, **more))


async def queued_run(client: httpx.AsyncClient, task_id: str, *, runner: str = "nobody", **more: Any) -> str:
    """A new run of the task, which nobody takes."""
    body = {"task": "work", "mode": "queued", "runner": runner, "task_id": task_id, **more}
    answer = await client.post(RUNS, json=body)
    answer.raise_for_status()
    return str(answer.json()["id"])


async def run_status(client: httpx.AsyncClient, run_id: str) -> str:
    answer = await client.get(f"{RUNS}/{run_id}")
    answer.raise_for_status()
    return str(answer.json()["status"])


# ── the feed ───────────────────────────────────────────────────────────────────────────────────────────────────


async def heard(database_url: str, tasks_database_url: str | None = None) -> None:
    """Wait until the tasks service has dealt with all that the runs log tells now, also after the log was restored or
    trimmed. Both are in one database unless told.
    """
    async with sql(database_url) as database, sql(tasks_database_url or database_url) as tasks_database:
        told = await database.fetchval(
            """SELECT greatest(oldest - 1, (SELECT max(seq) FROM runs.events WHERE type IN ('status', 'deleted')))
               FROM runs.retained"""
        )

        async def is_there() -> bool:
            log = await database.fetchrow("SELECT epoch, head FROM runs.log")
            position = await feed_position(tasks_database)
            assert log is not None
            return position is not None and position[0] == log["epoch"] and told <= position[1] <= log["head"]

        await eventually(is_there, f"the tasks service has heard of what was told up to {told}", seconds=30)


async def feed_position(database: Connection) -> tuple[str, int] | None:
    """Epoch and seq up to which the runs feed has had its effects."""
    position = await database.fetchval("SELECT position FROM tasks.feeds WHERE name = 'runs'")
    if position is None:
        return None
    epoch, _, seq = position.rpartition("-")
    return epoch, int(seq)


class Refusal(Struct, frozen=True):
    """A row of tasks.refused_moves."""

    task_id: str
    subject: str
    reason: str
    detail: str


async def refusals(database_url: str, task_ids: Sequence[str] | None = None) -> list[Refusal]:
    """What could not be done, in the order of the feed; of these tasks, or all."""
    async with sql(database_url) as database:
        rows = await database.fetch(
            """SELECT task_id, subject, reason, detail FROM tasks.refused_moves
               WHERE $1::text[] IS NULL OR task_id = ANY($1)
               ORDER BY split_part(position, '-', 2)::bigint""",
            None if task_ids is None else list(task_ids),
        )
    return [Refusal(**dict(row)) for row in rows]


# ── each in a process of its own ───────────────────────────────────────────────────────────────────────────────


class Apart(Struct, frozen=True):
    """The two services, and a client of each."""

    database_url: str
    database: Connection
    runs_server: Server
    tasks_server: Server
    runs: httpx.AsyncClient
    tasks: httpx.AsyncClient

    async def states(self, *task_ids: str) -> list[tuple[str, float, float | None]]:
        """Status, done and total of each."""
        found = [await task_of(self.tasks, task_id) for task_id in task_ids]
        return [(task["status"], task["progress"]["done"], task["progress"]["total"]) for task in found]


@asynccontextmanager
async def apart(database_url: str, **settings: object) -> AsyncIterator[Apart]:
    async with (
        running(database_url, service="runs", lease_seconds=600) as runs_server,
        running(database_url, service="tasks", runs_url=runs_server.url, **settings) as tasks_server,
        httpx.AsyncClient(base_url=runs_server.url, timeout=30) as runs,
        httpx.AsyncClient(base_url=tasks_server.url, timeout=30) as tasks,
        sql(database_url) as database,
    ):
        yield Apart(database_url, database, runs_server, tasks_server, runs, tasks)
