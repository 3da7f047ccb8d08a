"""Revoked tokens: every process knows, soon, whatever becomes of its connections."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from shared.channel.log import LogUnavailable
from shared.channel.postgres import Database
from shared.edge.auth.revoked import KEEP_SECONDS, Revocations
from shared.edge.principal import LOCAL, Principal
from tests.support.contract import sql
from tests.support.postgres import OwnPostgres
from tests.support.readers import eventually

NOW = 1_800_000_000.0  # far from the database's own, which these tests do not ask
LATER = 4_000_000_000.0
SOON = 1.0  # within which every process must know
SECONDS = 20.0
INSERT = "INSERT INTO access.revoked (token_id, until) VALUES ($1, to_timestamp($2))"  # and no word of it
NEVER = 3_600.0  # nobody polls in a test of notifications


class Replica:
    """A process, and the tokens whose streams it was told to end."""

    def __init__(self, revocations: Revocations) -> None:
        self.revocations = revocations
        self.ended: list[str] = []
        self.news = asyncio.Event()

    def knows(self, token_id: str) -> bool:
        return self.revocations.is_revoked(bearer(token_id))

    def watch(self, token_id: str) -> None:
        self.revocations.watch(bearer(token_id), lambda: self._end(token_id))

    def _end(self, token_id: str) -> None:
        self.ended.append(token_id)
        self.news.set()


def bearer(token_id: str) -> Principal:
    return Principal("acme", "ann", token_id=token_id)


@asynccontextmanager
async def replica(url: str, *, poll_seconds: float = NEVER, now: float = NOW) -> AsyncIterator[Replica]:
    database = Database(url, pool_size=2)
    await database.start()
    revocations = Revocations(database, now=lambda: now, poll_seconds=poll_seconds)
    await revocations.start()
    try:
        await eventually(lambda: revocations.listening, "it listens", SECONDS)
        yield Replica(revocations)
    finally:
        await revocations.close()
        await database.close()


@pytest_asyncio.fixture
async def one(database_url: str) -> AsyncIterator[Replica]:
    async with replica(database_url) as made:
        yield made


@pytest_asyncio.fixture
async def other(database_url: str) -> AsyncIterator[Replica]:
    async with replica(database_url) as made:
        yield made


async def listeners(connection: Any) -> list[int]:
    """The pids of the connections that listen in this database."""
    rows = await connection.fetch(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'tailrace bulletin'"
    )
    return [row["pid"] for row in rows]


async def cut_listeners(url: str) -> None:
    """As a network that loses connections."""
    async with sql(url) as connection:
        for pid in await listeners(connection):
            await connection.execute("SELECT pg_terminate_backend($1)", pid)


# ── one process ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_revoked_token_is_known_when_revoke_returns(one: Replica) -> None:
    one.watch("a")
    assert not one.knows("a")
    await one.revocations.revoke("a", LATER)
    assert one.knows("a")
    assert not one.knows("b")
    assert one.ended == ["a"]


async def test_who_has_no_token_is_never_revoked(one: Replica) -> None:
    with pytest.raises(ValueError, match="no token"):
        await one.revocations.revoke("", LATER)
    one.revocations.watch(LOCAL, lambda: one.ended.append("local"))
    await one.revocations.revoke("a", LATER)
    assert not one.revocations.is_revoked(LOCAL)
    assert one.ended == []


async def test_a_token_that_is_watched_too_late_ends_at_once(one: Replica) -> None:
    """It may be revoked between its check and the beginning of its stream."""
    await one.revocations.revoke("a", LATER)
    one.watch("a")
    assert one.ended == ["a"]


async def test_a_watch_that_was_ended_is_not_called(one: Replica) -> None:
    stop = one.revocations.watch(bearer("a"), lambda: one.ended.append("first"))
    one.watch("a")
    stop()
    stop()
    await one.revocations.revoke("a", LATER)
    assert one.ended == ["a"]
    stop()
    assert one.revocations._watchers == {}


async def test_nothing_is_kept_of_watches_that_ended(one: Replica) -> None:
    for stop in [one.revocations.watch(bearer(f"t{number % 5}"), lambda: None) for number in range(50)]:
        stop()
    assert one.revocations._watchers == {}


async def test_a_stream_that_fails_to_end_does_not_keep_the_others(
    one: Replica, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise RuntimeError("broken")

    one.revocations.watch(bearer("a"), broken)
    one.watch("a")
    with caplog.at_level(logging.ERROR):
        await one.revocations.revoke("a", LATER)
    assert one.ended == ["a"]
    assert [record.getMessage() for record in caplog.records] == ["a stream whose token was revoked did not end"]


async def test_revoking_twice_does_no_harm_and_keeps_the_later_end(one: Replica, database_url: str) -> None:
    for until in (LATER, LATER - 100, LATER + 100, LATER - 50):
        await one.revocations.revoke("a", until)
    async with sql(database_url) as connection:
        rows = await connection.fetch("SELECT extract(epoch FROM until)::float8 AS until FROM access.revoked")
    assert [row["until"] for row in rows] == [LATER + 100]


# ── several processes ──────────────────────────────────────────────────────────────────────────────────────────


async def test_the_others_hear_within_a_second(one: Replica, other: Replica) -> None:
    other.watch("a")
    await one.revocations.revoke("a", LATER)
    async with asyncio.timeout(SOON):
        await other.news.wait()
    assert other.ended == ["a"]
    assert other.knows("a")


async def test_many_at_once_are_all_heard_of(one: Replica, other: Replica) -> None:
    names = [f"t{number}" for number in range(60)]
    for name in names:
        other.watch(name)
    await asyncio.gather(*(one.revocations.revoke(name, LATER) for name in names))
    await eventually(lambda: len(other.ended) == len(names), "all are heard of", SECONDS)
    assert sorted(other.ended) == sorted(names)


async def test_a_new_process_knows_what_was_revoked_before(one: Replica, database_url: str) -> None:
    await one.revocations.revoke("a", LATER)
    async with replica(database_url) as late:
        assert late.knows("a")


async def test_what_is_written_late_is_found_too(one: Replica, database_url: str) -> None:
    """A transaction that began before our last look, and commits after it: its row's time is older than that look."""
    async with sql(database_url) as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(
            "INSERT INTO access.revoked (token_id, until) VALUES ('late', to_timestamp($1))", LATER
        )
        await one.revocations.revoke("a", LATER)
        await one.revocations._read()
        assert not one.knows("late")
        await connection.execute("SELECT pg_notify('tailrace_revoked', '')")
        await transaction.commit()
    await eventually(lambda: one.knows("late"), "the late one is found", SECONDS)


async def test_a_lost_connection_is_made_again_and_nothing_is_missed(
    one: Replica, other: Replica, database_url: str
) -> None:
    other.watch("a")
    await cut_listeners(database_url)
    await one.revocations.revoke("a", LATER)
    async with asyncio.timeout(SECONDS):
        await other.news.wait()
    await eventually(lambda: other.revocations.listening, "it listens again", SECONDS)
    other.watch("b")
    other.news.clear()
    await one.revocations.revoke("b", LATER)
    async with asyncio.timeout(SOON):
        await other.news.wait()
    assert other.revocations.failing() == []


async def test_a_new_connection_looks_at_all_there_is(one: Replica, database_url: str) -> None:
    """It may lead to another server, whose clock is behind."""
    async with sql(database_url) as connection:
        await connection.execute(
            "INSERT INTO access.revoked (token_id, until, revoked_at) VALUES ('old', to_timestamp($1), $2)",
            LATER,
            await connection.fetchval("SELECT now() - interval '1 day'"),
        )
        await one.revocations._read()
        assert not one.knows("old")
    await cut_listeners(database_url)
    await eventually(lambda: one.knows("old"), "the old one is found", SECONDS)


async def test_a_lost_notification_is_made_good_by_the_poll(one: Replica, database_url: str) -> None:
    async with replica(database_url, poll_seconds=0.05) as patient, sql(database_url) as connection:
        patient.watch("silent")
        await connection.execute(INSERT, "silent", LATER)
        async with asyncio.timeout(SECONDS):
            await patient.news.wait()
        assert not one.knows("silent")


async def test_a_connection_whose_other_end_is_silent_is_noticed(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No notification will come of it, and no word of its end: the poll's own question gets no answer."""
    monkeypatch.setattr("shared.channel.postgres.database.COMMAND_TIMEOUT_SECONDS", 0.3)
    async with replica(database_url, poll_seconds=0.05) as made, sql(database_url) as connection:
        (frozen,) = await listeners(connection)
        os.kill(frozen, signal.SIGSTOP)
        try:

            async def another_listens() -> bool:
                return set(await listeners(connection)) > {frozen}

            await eventually(another_listens, "another connection is made", SECONDS)
            await eventually(lambda: made.revocations.listening, "it listens again", SECONDS)
        finally:
            os.kill(frozen, signal.SIGCONT)


async def test_the_database_may_go_and_come_back(own_postgres: OwnPostgres) -> None:
    server = own_postgres()
    url = await server.start()
    async with replica(url, poll_seconds=0.2) as made:
        await made.revocations.revoke("before", LATER)
        await server.stop()
        await eventually(lambda: not made.revocations.listening, "the loss is noticed", SECONDS)
        with pytest.raises(LogUnavailable):
            await made.revocations.revoke("meanwhile", LATER)
        assert made.knows("before")
        assert not made.knows("meanwhile")
        await server.start()
        await eventually(lambda: made.revocations.listening, "it listens again", SECONDS)
        made.watch("after")
        async with replica(url) as second:
            assert second.knows("before")
            await second.revocations.revoke("after", LATER)
        async with asyncio.timeout(SECONDS):
            await made.news.wait()


# ── forgetting ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_has_expired_long_ago_is_forgotten(one: Replica, database_url: str) -> None:
    async with sql(database_url) as connection:
        database_now = await connection.fetchval("SELECT extract(epoch FROM now())::float8")
        await one.revocations.revoke("long ago", database_now - KEEP_SECONDS - 60)
        await one.revocations.revoke("just now", database_now - KEEP_SECONDS + 600)
        rows = await connection.fetch("SELECT token_id FROM access.revoked")
    assert [row["token_id"] for row in rows] == ["just now"]


async def test_memory_holds_only_what_has_not_expired(database_url: str) -> None:
    async with replica(database_url, now=LATER + KEEP_SECONDS + 1) as made:
        await made.revocations.revoke("a", LATER)
        await made.revocations.revoke("b", LATER + 1_000)
        await made.revocations._read()
        assert made.revocations._until == {"b": LATER + 1_000}


async def test_the_bulletin_lets_go_of_its_connection(database_url: str) -> None:
    async with replica(database_url):
        pass
    async with sql(database_url) as connection:

        async def nobody_listens() -> bool:
            return await listeners(connection) == []

        await eventually(nobody_listens, "the connection is closed", SECONDS)
