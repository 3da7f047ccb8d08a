"""Several processes over one database: one order, seen the same everywhere, also while one of them is frozen."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import psutil

from shared.channel.postgres.database import LOCK_TIMEOUT
from tests.support.contract import sql
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
from tests.support.server import Server, running

SETTINGS: dict[str, Any] = {"heartbeat_seconds": 0.1, "lease_seconds": 300}


@asynccontextmanager
async def two_replicas(database_url: str, **settings: object) -> AsyncIterator[list[Server]]:
    async with running(database_url, **SETTINGS, **settings) as first, running(database_url, **SETTINGS) as second:
        yield [first, second]


async def begun(client: httpx.AsyncClient, servers: Sequence[Server], chance: random.Random) -> list[Writer]:
    """Four writers, two at each replica."""
    writers = [Writer(client, [servers[n % 2].url], f"writer-{n}", chance, pause_seconds=0.03) for n in range(4)]
    for writer in writers:
        await writer.begin()
    return writers


async def test_writers_and_readers_on_two_replicas_share_one_order(database_url: str) -> None:
    chance = seeded("replicas")
    async with two_replicas(database_url) as servers, patient_client() as client:
        writers = await begun(client, servers, chance)
        urls = [server.url for server in servers]
        everything = [
            Reader(client, [urls[n % 2]], Stream(), TRANSPORTS[n // 2], chance) for n in range(2 * len(TRANSPORTS))
        ]
        wandering = [
            Reader(client, urls, stream, transport, chance, cut_every=10)
            for stream in (
                Stream(),
                Stream(types="status,error"),
                Stream(tuple(writer.run_id for writer in writers[:2])),
                Stream((writers[0].run_id,), alone=True),
                Stream((writers[1].run_id,), types="node_update", alone=True),
            )
            for transport in chance.sample(TRANSPORTS, 2)
        ]
        async with Load(writers, [*everything, *wandering]).running(database_url, events=100) as load:
            await eventually(lambda: load.cuts >= 80, "80 cuts")
    orders = {tuple(seq for seq, _ in reader.seen) for reader in everything}
    assert len(orders) == 1
    assert {reader.connections for reader in everything} == {1}
    assert load.answers.keys() == {"200"}


# ── news ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def listeners(database: "asyncpg.Connection[asyncpg.Record]", count: int) -> set[int]:
    """The backends of the LISTEN connections, once there are `count`: a process answers before it has its own."""
    found: set[int] = set()

    async def are_there() -> bool:
        rows = await database.fetch(
            """SELECT pid FROM pg_stat_activity
               WHERE datname = current_database() AND application_name = 'tailrace listener'"""
        )
        found.clear()
        found.update(row["pid"] for row in rows)
        return len(found) == count

    await eventually(are_there, f"{count} processes listen")
    return found


@asynccontextmanager
async def deafened(database_url: str, control_url: str, listener: int) -> AsyncIterator[None]:
    """While the block lasts, the process of this LISTEN connection hears nothing and cannot connect anew."""
    name = urlsplit(database_url).path[1:]
    async with sql(control_url) as control:
        await control.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        try:
            assert await control.fetchval("SELECT pg_terminate_backend($1)", listener)
            yield
        finally:
            await control.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


async def test_a_replica_that_has_lost_its_news_delivers_what_it_missed(database_url: str, postgres_url: str) -> None:
    chance = seeded("deaf")
    async with sql(database_url) as database, running(database_url, service="runs", **SETTINGS) as first:
        before = await listeners(database, 1)
        async with running(database_url, service="runs", **SETTINGS) as second, patient_client() as client:
            (deaf,) = await listeners(database, 2) - before
            writer = Writer(client, [first.url], "writer", chance, pause_seconds=0.02)
            await writer.begin()
            readers = [Reader(client, [server.url], Stream(), "sse", chance) for server in (first, second)]
            async with Load([writer], readers).running(database_url) as load:
                await load.progress()
                async with deafened(database_url, postgres_url, deaf):
                    here, there = load.readers
                    goal = here.last_seq + 50
                    await eventually(lambda: here.last_seq >= goal, "the other replica goes on")
                    # One who has seen more than that replica knows of comes to it.
                    assert there.last_seq < here.last_seq
                    ahead = Reader(client, [second.url], Stream((writer.run_id,)), "sse", chance)
                    ahead.last_id, ahead.last_seq = here.last_id, here.last_seq
                    ahead.began = ahead.last_seq
                    await ahead.follow(lambda reader: reader.live)
                await load.progress()


# ── freezing ───────────────────────────────────────────────────────────────────────────────────────────────────


LOCK_SECONDS = float(LOCK_TIMEOUT.removesuffix("s"))
SLACK_SECONDS = 10.0


async def freeze_in_a_transaction(server: Server, database_url: str, run_id: str) -> None:
    """Stop the process where its appender holds the log's counter, and nothing will make it let go.

    It is made to wait for the row of a run that it writes to, which comes after the counter; it gets the row only
    when it can do nothing with it any more.
    """
    async with sql(database_url) as database, database.transaction():
        await database.execute("SELECT FROM runs.runs WHERE id = $1 FOR UPDATE", run_id)
        pid = database.get_server_pid()

        async def is_waiting() -> bool:
            return bool(
                await database.fetchval(
                    """SELECT count(*) FROM pg_stat_activity
                           WHERE application_name = 'tailrace appender' AND $1 = ANY(pg_blocking_pids(pid))""",
                    pid,
                )
            )

        await eventually(is_waiting, "the appender waits for the row")
        server.freeze()
        process = psutil.Process(server.pid)
        await eventually(lambda: process.status() == psutil.STATUS_STOPPED, "it is frozen")


async def test_a_replica_frozen_in_a_transaction_does_not_keep_the_others_from_writing(database_url: str) -> None:
    chance = seeded("frozen")
    async with two_replicas(database_url) as (free, frozen), patient_client() as client:
        writers = await begun(client, (free, frozen), chance)
        readers = [
            Reader(client, urls, Stream(), transport, chance, cut_every=cut_every)
            for urls, cut_every in (([free.url], None), ([frozen.url], None), ([free.url, frozen.url], 30))
            for transport in TRANSPORTS
        ]
        async with Load(writers, readers).running(database_url) as load:
            await load.progress()
            await freeze_in_a_transaction(frozen, database_url, writers[1].run_id)
            goal = writers[0].acknowledged + 30
            went_on = "the other replica publishes again"
            await eventually(lambda: writers[0].acknowledged >= goal, went_on, LOCK_SECONDS + SLACK_SECONDS)
            places = {reader: reader.last_seq for reader in readers[: len(TRANSPORTS)]}
            await eventually(lambda: all(r.last_seq > seq for r, seq in places.items()), "its readers go on")
            frozen.thaw()
            await load.progress()
    assert load.answers.keys() <= {"200", "503"}
    assert all(reader.connections == 1 for reader in readers[: len(TRANSPORTS)])


async def test_readers_and_writers_of_a_killed_replica_go_on_at_the_other(database_url: str) -> None:
    chance = seeded("killed replica")
    async with two_replicas(database_url) as servers, patient_client() as client:
        urls = [server.url for server in servers]
        writers = [Writer(client, urls, f"writer-{n}", chance, pause_seconds=0.03) for n in range(3)]
        for writer in writers:
            await writer.begin()
        readers = [Reader(client, urls, Stream(), TRANSPORTS[n % 4], chance, cut_every=60) for n in range(8)]
        async with Load(writers, readers).running(database_url) as load:
            for server in servers:
                await load.progress()
                await server.kill()
                await load.progress()
                await server.start()
    assert sum(reader.faults.total() for reader in readers) > 0
    assert load.answers.total() > load.answers["200"]
