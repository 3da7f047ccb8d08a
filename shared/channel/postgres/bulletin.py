"""A bulletin: word that something in the database has changed, for what has no log. What has changed is in a table.

One LISTEN connection, supervised, with a slow poll behind it, as for the news of a log.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator
from typing import Any

from asyncpg import Connection

from shared.channel.log import LogUnavailable
from shared.channel.postgres.database import Database, unavailable_means

log = logging.getLogger("tailrace.channel")

POLL_SECONDS = 5.0  # how late a notice can be when a notification was lost
RETRY_SECONDS = (0.05, 2.0)


class Bulletin:
    """What is posted under one name: `SELECT pg_notify(name, '')`, in the transaction of the change."""

    def __init__(self, database: Database, name: str, *, poll_seconds: float = POLL_SECONDS) -> None:
        self.name = name
        self.listening = False
        self._database = database
        self._poll_seconds = poll_seconds
        self._connection: Connection | None = None
        self._posted = asyncio.Event()

    async def notices(self) -> AsyncGenerator[bool, None]:
        """One after each post, several at once being one, and one every now and then in case a post was lost. True: we
        were not listening before, and may have missed any number. Never ends: close the iterator to let go of the
        connection.
        """
        delay = RETRY_SECONDS[0]
        try:
            while True:
                try:
                    is_new = await self._check()
                except LogUnavailable as error:
                    self._lost()
                    extra = {"bulletin": self.name, "error": str(error), "retry_in": delay}
                    log.warning("a bulletin is not heard", extra=extra)
                    await asyncio.sleep(delay * random.uniform(0.5, 1.0))
                    delay = min(delay * 2, RETRY_SECONDS[1])
                    continue
                delay = RETRY_SECONDS[0]
                self._posted.clear()  # before anybody looks: what is posted meanwhile is another notice
                yield is_new
                await self._wait()
        finally:
            self._lost()

    async def _check(self) -> bool:
        """Be connected; whether we were not. Raise LogUnavailable."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._database.connect_and("bulletin", self._listen)
            self.listening = True
            return True
        if not self._posted.is_set():  # silence may be that of a peer that vanished
            with unavailable_means():
                await self._connection.fetchval("SELECT 1")
        return False

    async def _listen(self, connection: Connection) -> None:
        connection.add_termination_listener(self._on_lost)
        await connection.add_listener(self.name, self._on_notify)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._poll_seconds):
                await self._posted.wait()
        except TimeoutError:
            pass

    def _on_notify(self, connection: Any, pid: int, channel: str, payload: object) -> None:
        self._posted.set()

    def _on_lost(self, connection: Any) -> None:
        if connection is self._connection:
            self.listening = False
            self._posted.set()

    def _lost(self) -> None:
        self.listening = False
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()
