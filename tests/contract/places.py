"""Places where a log can be kept: one database each, in which any number of processes open their log."""

from collections.abc import Sequence
from typing import Protocol

from shared.channel.log import EventLog
from shared.channel.postgres import Database, PostgresEventLog
from shared.protocol.position import LogState
from tests.support.memory_log import MemoryLog, Store

SCHEMA_NAME = "runs"
STEPS = (
    """
    CREATE TABLE {s}.things (id text PRIMARY KEY, value int NOT NULL CHECK (value >= 0));
    """,
)


class Log(EventLog, Protocol):
    """An event log with the means of an operator."""

    async def trim(self, *, max_age_seconds: float | None, max_events: int | None) -> LogState: ...

    async def new_epoch(self) -> LogState: ...


class Place(Protocol):
    async def open(self) -> Log:
        """Another process's log, started."""
        ...

    async def grow_old(self, upto: int, seconds: float) -> None:
        """Let the events up to a seq have been stored that much earlier."""
        ...

    async def close(self) -> None: ...


class MemoryPlace:
    def __init__(self) -> None:
        self.store = Store()

    async def open(self) -> Log:
        log = MemoryLog(self.store)
        await log.start()
        return log

    async def grow_old(self, upto: int, seconds: float) -> None:
        self.store.grow_old(upto, seconds)

    async def close(self) -> None:
        return None


class PostgresPlace:
    def __init__(self, url: str) -> None:
        self.url = url
        self._opened: list[tuple[PostgresEventLog, Database]] = []

    async def make(self, steps: Sequence[str] = STEPS) -> PostgresEventLog:
        """Another process's log, not started."""
        database = Database(self.url, pool_size=2)
        await database.start()
        log = PostgresEventLog(database, SCHEMA_NAME, steps)
        self._opened.append((log, database))
        return log

    async def open(self) -> PostgresEventLog:
        log = await self.make()
        await log.start()
        return log

    async def shut(self, log: PostgresEventLog) -> None:
        """The process ends."""
        for each, database in self._opened:
            if each is log:
                await log.close()
                await database.close()
        self._opened = [pair for pair in self._opened if pair[0] is not log]

    async def execute(self, sql: str, *args: object) -> None:
        """As an operator with psql."""
        async with self._opened[0][1].connection() as connection:
            await connection.execute(sql, *args)

    async def grow_old(self, upto: int, seconds: float) -> None:
        await self.execute(
            f"UPDATE {SCHEMA_NAME}.events SET stored_at = stored_at - $2::float8 * interval '1 s' WHERE seq <= $1",
            upto,
            seconds,
        )

    async def close(self) -> None:
        for log, database in self._opened:
            await log.close()
            await database.close()
