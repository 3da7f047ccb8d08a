"""kill -9, of the service and of its database: nothing acknowledged is lost, nothing is repeated."""

import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.contract import RUNS, sql
from tests.support.postgres import OwnPostgres
from tests.support.readers import (
    TRANSPORTS,
    Load,
    Reader,
    Stream,
    Writer,
    eventually,
    patient_client,
    seeded,
)
from tests.support.server import Server, running, sse

SETTINGS: dict[str, Any] = {"heartbeat_seconds": 0.1, "lease_seconds": 300}
KILLS = 3


@asynccontextmanager
async def load_on(
    server: Server, database_url: str, chance: random.Random, *, cut_every: int | None = 40
) -> AsyncIterator[Load]:
    """Three writers and twelve readers at work until the block is left. Afterwards all has been compared."""
    async with patient_client() as client:
        writers = [Writer(client, [server.url], f"writer-{n}", chance, pause_seconds=0.02) for n in range(3)]
        for writer in writers:
            await writer.begin()
        streams = [
            Stream(),
            Stream(types="status,error"),
            Stream((writers[0].run_id, writers[1].run_id)),
            Stream((writers[2].run_id,), alone=True),
        ]
        readers = [
            Reader(client, [server.url], streams[(n + n // 4) % 4], TRANSPORTS[n % 4], chance, cut_every=cut_every)
            for n in range(12)
        ]
        async with Load(writers, readers).running(database_url) as load:
            await load.progress()
            yield load


async def readiness(client: httpx.AsyncClient, server: Server) -> tuple[int, dict[str, str]]:
    answer = await client.get(f"{server.url}/ready")
    return answer.status_code, answer.json()["checks"]


async def until_ready(client: httpx.AsyncClient, server: Server) -> None:
    async def is_ready() -> bool:
        return (await readiness(client, server))[0] == 200

    await eventually(is_ready, "the service is ready")


# ── the service ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_killed_service_loses_and_repeats_nothing(database_url: str) -> None:
    chance = seeded("killed service")
    async with running(database_url, **SETTINGS) as server, load_on(server, database_url, chance) as load:
        for _ in range(KILLS):
            await server.kill()
            await server.start()
            await load.progress()
    assert all(sum(reader.faults.values()) >= KILLS for reader in load.readers), load.readers
    assert sum(load.answers.values()) > load.answers["200"]


# ── the database ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_killed_embedded_database_comes_back_by_itself(postgres_directory: Path) -> None:
    chance = seeded("killed database")
    directory = postgres_directory / f"killed-{chance.randrange(2**32)}"
    cluster = directory / "postgres" / "cluster"
    server = Server("", data_directory=directory, **SETTINGS)
    try:
        await server.start()
        url = f"postgresql://postgres@/postgres?host={(cluster / 'postmaster.pid').read_text().splitlines()[4]}"
        async with load_on(server, url, chance, cut_every=None) as load, httpx.AsyncClient(timeout=30) as client:
            told: Counter[int] = Counter()
            for _ in range(KILLS - 1):
                killed = postmaster(cluster)
                assert killed is not None
                os.kill(killed, signal.SIGKILL)
                while postmaster(cluster) in (killed, None):
                    told[(await readiness(client, server))[0]] += 1
                await until_ready(client, server)
                await load.progress()
        assert told[503] > 0, told
        assert load.answers["503"] > 0
        assert load.answers.keys() == {"200", "503"}  # a service whose database is away still answers
        assert {reader.connections for reader in load.readers} == {1}
    finally:
        await server.end()


def postmaster(cluster: Path) -> int | None:
    """Its number, None while there is none."""
    try:
        return int((cluster / "postmaster.pid").read_text().split()[0])
    except (FileNotFoundError, IndexError):
        return None


async def test_while_the_database_is_away_publishing_is_refused_and_readers_stay(own_postgres: OwnPostgres) -> None:
    chance = seeded("away")
    postgres = own_postgres()
    url = await postgres.start()
    async with (
        running(url, **SETTINGS) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as client,
        load_on(server, url, chance, cut_every=None) as load,
    ):
        await postgres.stop()
        refused = load.answers["503"]
        await eventually(lambda: load.answers["503"] > refused + 3, "publishing is refused")
        stored = load.acknowledged
        status, checks = await readiness(client, server)
        assert status == 503
        assert checks["runs.database"] != "ok"
        assert checks["runs.tasks"] == "ok"
        assert (await client.get("/health")).status_code == 200
        refusal = await client.post(RUNS, json={"task": "work", "mode": "queued", "runner": "nobody"})
        assert refusal.status_code == 503
        assert refusal.headers["content-type"] == "application/problem+json"
        assert int(refusal.headers["retry-after"]) > 0
        # who has seen all there is can resume without the database
        last_id = max((reader.last_seq, str(reader.last_id)) for reader in load.readers)[1]
        async with sse(client, f"{RUNS}/stream", headers={"last-event-id": last_id}) as stream:
            assert [message.event for message in await stream.until(lambda message: message.event == "live")] == [
                "hello",
                "live",
            ]
        assert load.acknowledged == stored
        assert await postgres.start() == url
        await until_ready(client, server)
        await load.progress()
    assert {reader.connections for reader in load.readers} == {1}
    assert load.answers.keys() == {"200", "503"}


# ── its connections ────────────────────────────────────────────────────────────────────────────────────────────


async def terminate(database_url: str, name: str) -> int:
    """End the service's connections whose purpose is like `name`; how many there were."""
    async with sql(database_url) as database:
        ended = await database.fetch(
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND application_name LIKE 'tailrace ' || $1""",
            name,
        )
    return len(ended)


@pytest.mark.parametrize(
    ("name", "answers"), [("listener", {"200"}), ("appender", {"200", "503"}), ("%", {"200", "503"})]
)
async def test_connections_that_are_ended_cost_no_event(database_url: str, name: str, answers: set[str]) -> None:
    chance = seeded(f"connections {name}")
    ended = 0
    async with (
        running(database_url, **SETTINGS) as server,
        load_on(server, database_url, chance, cut_every=100) as load,
    ):
        for _ in range(6):
            ended += await terminate(database_url, name)
            await load.progress(20)
        async with httpx.AsyncClient(timeout=30) as client:
            await until_ready(client, server)
    assert ended >= 3
    assert load.answers.keys() <= answers
