"""Turns: work that only one of all processes should do, such as consuming a feed.

The turn is an advisory lock of a session: it is free the moment its holder's process dies, and holds no transaction
open (a locked row would, for as long as the turn lasts, and keep VACUUM from its work). A holder that hangs goes on
holding it; whoever waits ends a session that has been silent for too long. Between that and the holder's noticing, two
may be at work: the work itself must be such that one of them is refused.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from asyncpg import Connection

from shared.channel.postgres.database import Database, unavailable_means
from shared.channel.tasks import end

log = logging.getLogger("tailrace.channel")

TRY_SECONDS = 0.5
SILENT_SECONDS = 15.0  # after which a holder is taken for hung
TOUCHES = 5  # that a holder makes in that time

_TAKE = "SELECT pg_try_advisory_lock(hashtext('tailrace turn'), hashtext($1))"
_END_SILENT = """
SELECT pg_terminate_backend(a.pid) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND l.classid = hashtext('tailrace turn')::oid AND l.objid = hashtext($1)::oid
    AND a.state_change < clock_timestamp() - $2 * interval '1 s'
"""


class Turn:
    """The turn named `name`, of which there is one in the database. All who wait for it and have it should agree on
    `silent_seconds`.
    """

    def __init__(self, database: Database, name: str, *, silent_seconds: float = SILENT_SECONDS) -> None:
        self._database = database
        self._name = name
        self._silent_seconds = silent_seconds

    async def work(self, work: Callable[[], Awaitable[None]]) -> None:
        """Wait for the turn, then do `work` until it ends or the turn is lost. Raise what it raises, LogUnavailable."""
        connection = await self._database.connect("turn")
        try:
            while not await self._take(connection):  # noqa: ASYNC110  another process lets go, and can set no event here
                await asyncio.sleep(TRY_SECONDS * random.uniform(0.5, 1.5))
            log.info("a turn was taken", extra={"turn": self._name})
            await self._work(connection, work)
        finally:
            connection.terminate()

    async def _work(self, connection: Connection, work: Callable[[], Awaitable[None]]) -> None:
        working, touching = asyncio.ensure_future(work()), asyncio.create_task(self._touch(connection))
        try:
            done, _ = await asyncio.wait([working, touching], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await end(working, touching)

    async def _take(self, connection: Connection) -> bool:
        with unavailable_means():
            if await connection.fetchval(_TAKE, self._name):
                return True
            if await connection.fetchval(_END_SILENT, self._name, self._silent_seconds):
                log.warning("a holder of a turn was silent, and lost it", extra={"turn": self._name})
            return False

    async def _touch(self, connection: Connection) -> None:
        """Show that we live. Raise LogUnavailable when the session is lost, and the turn with it."""
        while True:
            await asyncio.sleep(self._silent_seconds / TOUCHES)
            with unavailable_means():
                await connection.fetchval("SELECT 1")
