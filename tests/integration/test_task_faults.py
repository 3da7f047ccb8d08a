"""Tasks that are large, late, gone or wrong: each test is of a fault that was found by reading."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from services.tasks.effects import RunEffects
from services.tasks.feeds import Feeds
from services.tasks.owned_runs import OwnedRuns
from services.tasks.rules import OwnedRun
from services.tasks.store import STEPS, TaskStore
from shared.channel.log import Command, Committed, Outcome, Transaction
from shared.channel.postgres import Database, PostgresEventLog
from shared.edge.ids import new_id
from tests.support.contract import ANSWER_SECONDS, Served, problem_of
from tests.support.postgres import OwnPostgres
from tests.support.server import running
from tests.support.tasks import TASKS, as_of, create, get, of, stream

MAX_SEQ = 2**63 - 1


async def test_a_page_of_present_tasks_is_bounded_in_bytes(client: httpx.AsyncClient, tailrace: Served) -> None:
    """Each reader of a board that starts over holds a page: five of 500 tasks of 200 kB took 800 MB."""
    sizes = [200_000, 100, 100, 150_000, 150_000, 100, 240_000, 100]
    tasks = [await create(client, result="x" * size) for size in sizes]
    database = Database(tailrace.database_url)
    await database.start()
    try:
        store, seen, after = TaskStore("tasks", database), [], 0
        while True:
            page, state = await store.changed(database, "default", after, MAX_SEQ, limit=3, max_bytes=200_000)
            if not page:
                break
            held = sum(len(task.result) for task in page)
            assert len(page) == 1 or held - len(page[-1].result) < 200_000
            assert len(page) <= 3
            seen += [task.id for task in page]
            after = page[-1].last_seq
        assert seen == [task["id"] for task in tasks]
        assert (state.epoch, state.head) == await as_of(client)
    finally:
        await database.close()


@pytest.mark.parametrize("field", ["started_at", "finished_at"])
async def test_a_steps_time_has_a_zone(client: httpx.AsyncClient, field: str) -> None:
    """Without one each reader took it for its own."""
    task = await create(client, steps=[{"name": "a", field: "2026-01-01T00:00:00+02:00"}])
    for body in ({"name": "b", field: "2026-01-01T00:00:00"}, {"name": "b", field: "2026-01-01"}):
        told = problem_of(await client.post(TASKS, json={"title": "t", "steps": [body]}), 400)
        assert f"steps[0].{field}" in told["detail"]
        problem_of(await client.patch(of(task), json={"steps": [body]}), 400)
    assert await get(client, task["id"]) == task
    assert task["steps"][0][field] == "2026-01-01T00:00:00+02:00"


@dataclass
class Spy:
    """A transaction that remembers its statements."""

    tx: Transaction
    epoch: str
    next_seq: int
    asked: list[str] = field(default_factory=list)

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        self.asked.append(sql)
        return await self.tx.fetch(sql, *args)

    async def fetchrow(self, sql: str, *args: Any) -> Any:
        self.asked.append(sql)
        return await self.tx.fetchrow(sql, *args)

    async def execute(self, sql: str, *args: Any) -> object:
        self.asked.append(sql)
        return await self.tx.execute(sql, *args)


async def test_a_tasks_runs_are_read_once_for_all_the_news_of_a_batch(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    """They were read for each: a task of 5,000 runs kept everybody else from storing for 7 s."""
    task = await create(client)
    run_ids = [new_id("run") for _ in range(30)]
    news = [
        OwnedRun(run_id=run_id, tenant="default", task_id=task["id"], status=status, error=None, epoch="e", seq=place)
        for place, (run_id, status) in enumerate(
            [*((run_id, "running") for run_id in run_ids), *((run_id, "completed") for run_id in run_ids)], start=1
        )
    ]
    database = Database(tailrace.database_url)
    await database.start()
    log = PostgresEventLog(database, "tasks", STEPS)
    try:
        effects = RunEffects(TaskStore("tasks", database), OwnedRuns("tasks"), Feeds("tasks"), "runs")
        spies: list[Spy] = []

        async def change(tx: Transaction) -> Outcome[list[str]]:
            spies.append(Spy(tx, tx.epoch, tx.next_seq))
            return await effects.apply(spies[-1], [[run] for run in news])

        (stored,) = await log.append([Command(change=change)])
        assert isinstance(stored, Committed)
        assert stored.value == []
    finally:
        await log.close()
        await database.close()
    assert sum("FROM tasks.task_runs" in sql for sql in spies[-1].asked) == 1
    after = await get(client, task["id"])
    assert (after["status"], after["run_ids"], after["progress"]["done"]) == ("succeeded", sorted(run_ids), 30)


async def test_a_database_that_is_away_is_told_of_once(own_postgres: OwnPostgres) -> None:
    """It was at each tick: ten times a second, with one reader that wants its snapshots so often."""
    postgres = own_postgres()
    async with (
        running(await postgres.start(), tasks_stream_interval_seconds=0.1) as server,
        httpx.AsyncClient(base_url=server.url, timeout=ANSWER_SECONDS) as client,
    ):
        task = await create(client)
        async with stream(server.url, "sse", of(task)) as watched:
            await watched.until_type("live")
            await postgres.stop()
            async with asyncio.timeout(ANSWER_SECONDS):
                # told of twice a second by others meanwhile
                while sum("runs of cancelled tasks" in line for line in server.output) < 5:
                    assert problem_of(await client.get(of(task)), 503)
            told = [line for line in server.output if "whether what is streamed may still be seen" in line]
            assert sum("service=tasks" in line for line in told) == 1
            await postgres.start()
            async with asyncio.timeout(ANSWER_SECONDS):
                while (await client.patch(of(task), json={"title": "back"})).status_code != 200:
                    pass
            await watched.until_rev(2)
