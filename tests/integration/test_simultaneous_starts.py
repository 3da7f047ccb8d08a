"""Replicas that start at the same moment on an empty database: its tables are made once, and all of them come up."""

import asyncio

import httpx
import pytest

from services.previews.store import STEPS as PREVIEWS
from services.runs.store import STEPS as RUNS_STEPS
from services.tasks.store import STEPS as TASKS
from shared.channel.postgres import Database, PostgresEventLog
from shared.channel.postgres.schema import LOG_STEPS, migrate
from shared.edge.auth.revoked import Revocations
from shared.edge.tickets import Tickets
from tests.support.contract import sql
from tests.support.postgres import fresh_database
from tests.support.readers import eventually
from tests.support.server import Server

REPLICAS = 8


@pytest.mark.parametrize("round_", range(5))
async def test_every_replica_finds_the_tables_and_the_same_epoch(postgres_url: str, round_: int) -> None:
    steps = {"tasks": TASKS, "runs": RUNS_STEPS, "previews": PREVIEWS}
    async with fresh_database(postgres_url) as url:
        databases = [Database(url) for _ in range(REPLICAS)]
        logs = [PostgresEventLog(database, name, steps[name]) for database in databases for name in steps]
        others = [kind(database).start() for database in databases for kind in (Tickets, Revocations)]
        try:
            await asyncio.gather(*(database.start() for database in databases))
            starting = asyncio.gather(*others)
            states = await asyncio.gather(*(log.start() for log in logs))
            await starting
            epochs = {(log.schema, state.epoch) for log, state in zip(logs, states, strict=True)}
            assert len(epochs) == len(steps)
        finally:
            await asyncio.gather(*(log.close() for log in logs))
            await asyncio.gather(*(database.close() for database in databases))
        async with sql(url) as connection:
            for name, its_steps in steps.items():
                rows = await connection.fetch(f"SELECT part, count(*) AS steps FROM {name}.steps GROUP BY part")
                expected = {"log": len(LOG_STEPS), "service": len(its_steps)}
                assert {row["part"]: row["steps"] for row in rows} == {k: v for k, v in expected.items() if v}


async def test_a_step_that_takes_long_is_waited_for_and_run_once(database_url: str) -> None:
    steps = ("CREATE TABLE {s}.made (n int); SELECT pg_sleep(0.5); INSERT INTO {s}.made VALUES (1)",)

    async def start() -> None:
        async with sql(database_url) as database:
            await migrate(database, "slow", "service", steps)

    await asyncio.gather(*(start() for _ in range(REPLICAS)))
    async with sql(database_url) as database:
        assert await database.fetchval("SELECT count(*) FROM slow.made") == 1


async def test_a_step_that_fails_leaves_nothing_and_the_next_start_runs_it(database_url: str) -> None:
    async with sql(database_url) as database:
        with pytest.raises(Exception, match="division by zero"):
            await migrate(database, "failing", "service", ("CREATE TABLE {s}.made (n int); SELECT 1/0",))
        await migrate(database, "failing", "service", ("CREATE TABLE {s}.made (n int)",))
        assert await database.fetchval("SELECT count(*) FROM failing.steps") == 1


async def test_processes_that_start_at_once_all_come_up_and_share_the_work(database_url: str) -> None:
    servers = [Server(database_url, service="runs") for _ in range(3)]
    try:
        await asyncio.gather(*(server.start() for server in servers))
        async with httpx.AsyncClient(timeout=30) as client:
            for server in servers:

                async def is_ready(url: str = server.url) -> bool:
                    return (await client.get(f"{url}/ready")).status_code == 200

                await eventually(is_ready, "it is ready")
                answer = await client.post(
                    f"{server.url}/api/v1/runs", json={"task": "t", "mode": "queued", "runner": "x"}
                )
                assert answer.status_code == 202
            for server in servers:
                assert len((await client.get(f"{server.url}/api/v1/runs")).json()["data"]) == 3
    finally:
        await asyncio.gather(*(server.kill() for server in servers))
