"""A turn has one holder, whatever becomes of it, and leaves nothing behind."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count

import asyncpg
import pytest

from shared.channel.log import LogUnavailable
from shared.channel.postgres import Database, Turn
from tests.support.contract import sql
from tests.support.postgres import fresh_database
from tests.support.readers import eventually

NAME = "the turn"
SECONDS = 10.0


class Worker:
    """Waits for the turn and works until it is told how to end."""

    def __init__(self, database: Database, name: str = NAME, *, silent_seconds: float = 15.0) -> None:
        self.turn = Turn(database, name, silent_seconds=silent_seconds)
        self.at_work = asyncio.Event()
        self.was_cancelled = False
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(self.turn.work(self._work))

    async def _work(self) -> None:
        self.at_work.set()
        try:
            await self._end
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        finally:
            self.at_work.clear()

    def finish(self, error: Exception | None = None) -> None:
        if error is None:
            self._end.set_result(None)
        else:
            self._end.set_exception(error)

    async def end(self) -> None:
        """What `work` comes to, in time."""
        async with asyncio.timeout(SECONDS):
            await self.task

    async def stop(self) -> None:
        if self.task.done():
            return
        self.task.cancel()
        with suppress(asyncio.CancelledError, LogUnavailable):
            await self.task


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    """A process's database."""
    database = Database(url, pool_size=1)
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def workers(url: str, number: int, *, silent_seconds: float = 15.0) -> AsyncIterator[list[Worker]]:
    async with opened(url) as database:
        made = [Worker(database, silent_seconds=silent_seconds) for _ in range(number)]
        try:
            yield made
        finally:
            for worker in made:
                await worker.stop()


async def at_work(made: list[Worker]) -> Worker:
    """The one that works, once there is one."""
    await eventually(lambda: any(worker.at_work.is_set() for worker in made), "somebody works", SECONDS)
    (working,) = [worker for worker in made if worker.at_work.is_set()]
    return working


async def sessions(connection: "asyncpg.Connection[asyncpg.Record]") -> list[int]:
    """Who waits for a turn or has one."""
    rows = await connection.fetch(
        """SELECT pid FROM pg_stat_activity
           WHERE datname = current_database() AND application_name = 'tailrace turn' ORDER BY backend_start"""
    )
    return [row["pid"] for row in rows]


async def holders(connection: "asyncpg.Connection[asyncpg.Record]") -> list[int]:
    rows = await connection.fetch(
        """SELECT pid FROM pg_locks JOIN pg_database d ON d.oid = database
           WHERE locktype = 'advisory' AND granted AND d.datname = current_database()"""
    )
    return [row["pid"] for row in rows]


async def until_sessions(connection: "asyncpg.Connection[asyncpg.Record]", number: int) -> None:
    async def are_there() -> bool:
        return len(await sessions(connection)) == number

    await eventually(are_there, f"{number} sessions", SECONDS)


# ── one at a time ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_one_works_and_the_next_when_it_has_ended(database_url: str) -> None:
    async with sql(database_url) as database, workers(database_url, 4) as made:
        waiting = list(made)
        while waiting:
            working = await at_work(waiting)
            assert len(await holders(database)) == 1
            assert sum(worker.at_work.is_set() for worker in made) == 1
            working.finish()
            await working.end()
            waiting.remove(working)
        await until_sessions(database, 0)


async def test_what_the_work_raises_is_raised_and_the_turn_is_free(database_url: str) -> None:
    async with sql(database_url) as database, workers(database_url, 2) as made:
        first = await at_work(made)
        first.finish(PermissionError("no"))
        with pytest.raises(PermissionError, match="no"):
            await first.end()
        second = await at_work(made)
        assert second is not first
        await until_sessions(database, 1)


@pytest.mark.parametrize("which", ["the one at work", "one that waits"])
async def test_cancelling_leaves_no_session(database_url: str, which: str) -> None:
    async with sql(database_url) as database, workers(database_url, 2) as made:
        working = await at_work(made)
        waiting = next(worker for worker in made if worker is not working)
        await until_sessions(database, 2)
        cancelled = working if which == "the one at work" else waiting
        cancelled.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled.end()
        await until_sessions(database, 1)
        assert cancelled.was_cancelled == (cancelled is working)
        assert await at_work(made) is not cancelled


async def test_cancelling_at_any_moment_of_the_beginning_leaves_no_session(database_url: str) -> None:
    async with sql(database_url) as database, opened(database_url) as own:
        for steps in count(1):
            worker = Worker(own)
            for _ in range(steps):
                await asyncio.sleep(0)
            if worker.at_work.is_set():
                await worker.stop()
                break
            await worker.stop()
        await until_sessions(database, 0)


async def test_turns_of_other_names_and_in_other_databases_are_others(database_url: str, postgres_url: str) -> None:
    async with (
        fresh_database(postgres_url) as other_url,
        opened(database_url) as here,
        opened(other_url) as there,
    ):
        made = [Worker(here), Worker(here, "another"), Worker(there)]
        try:
            for worker in made:
                async with asyncio.timeout(SECONDS):
                    await worker.at_work.wait()
        finally:
            for worker in made:
                await worker.stop()


# ── losing it ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_holder_whose_session_ends_stops_working_and_another_begins(database_url: str) -> None:
    async with sql(database_url) as database, workers(database_url, 3, silent_seconds=2.0) as made:
        first = await at_work(made)
        await until_sessions(database, 3)
        (holder,) = await holders(database)
        assert await database.fetchval("SELECT pg_terminate_backend($1)", holder)
        with pytest.raises(LogUnavailable):
            await first.end()
        assert first.was_cancelled
        second = await at_work(made)
        assert second is not first
        assert len(await holders(database)) == 1


async def test_a_session_that_ends_while_it_waits_is_told(database_url: str) -> None:
    async with sql(database_url) as database, workers(database_url, 2) as made:
        working = await at_work(made)
        waiting = next(worker for worker in made if worker is not working)
        await until_sessions(database, 2)
        (holder,) = await holders(database)
        for pid in await sessions(database):
            if pid != holder:
                assert await database.fetchval("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises(LogUnavailable):
            await waiting.end()
        assert working.at_work.is_set()


async def test_a_holder_that_is_silent_loses_it(database_url: str) -> None:
    async with sql(database_url) as hung, sql(database_url) as database:
        await hung.fetchval("SELECT pg_advisory_lock(hashtext('tailrace turn'), hashtext($1))", NAME)
        async with workers(database_url, 2, silent_seconds=0.5) as made:
            await at_work(made)
            assert len(await holders(database)) == 1
        assert hung.is_closed()


async def test_a_holder_that_lives_keeps_it(database_url: str) -> None:
    async with sql(database_url) as database, workers(database_url, 2, silent_seconds=0.5) as made:
        first = await at_work(made)
        await until_sessions(database, 2)
        (holder,) = await holders(database)

        async def has_lived_on() -> bool:
            return bool(
                await database.fetchval(
                    "SELECT state_change > backend_start + interval '2 s' FROM pg_stat_activity WHERE pid = $1", holder
                )
            )

        await eventually(has_lived_on, "it lives four times as long as it may be silent", SECONDS)
        assert await at_work(made) is first


async def test_without_a_database_it_is_told() -> None:
    async with opened("postgresql://postgres@127.0.0.1:1/none") as nowhere:
        worker = Worker(nowhere)
        with pytest.raises(LogUnavailable):
            await worker.end()
