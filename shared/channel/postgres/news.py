"""News of the head: one LISTEN connection, supervised, with a slow poll behind it."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from asyncpg import Connection

from shared.channel.log import LogUnavailable
from shared.channel.postgres.database import UNAVAILABLE, Database, Session
from shared.channel.postgres.epoch import channel_name
from shared.protocol.errors import MalformedPosition
from shared.protocol.position import LogState, Position

log = logging.getLogger("tailrace.channel")

POLL_SECONDS = 2.0  # how late news can be when a notification was lost
RETRY_SECONDS = (0.05, 2.0)


class News:
    """`NOTIFY` payloads as states of the log. Any doubt (a lost connection, a strange payload) leads to a re-check."""

    def __init__(self, database: Database, schema: str, check: Callable[[Session], Awaitable[LogState]]) -> None:
        self.name = channel_name(schema)
        self.listening = False
        self._database = database
        self._check = check
        self._connection: Connection | None = None
        self._latest: Position | None = None
        self._doubt = True
        self._wake = asyncio.Event()

    async def heads(self) -> AsyncIterator[LogState]:
        """States, newest last; never ends. Close the iterator to let go of the connection."""
        oldest = 1
        delay = RETRY_SECONDS[0]
        try:
            while True:
                try:
                    connection = await self._connect()
                    latest, self._latest = self._latest, None
                    if self._doubt or latest is None:
                        self._doubt = False
                        state = await self._check(connection)
                        oldest = state.oldest
                    else:
                        state = LogState(latest.epoch, latest.seq, oldest)
                    delay = RETRY_SECONDS[0]
                except (*UNAVAILABLE, LogUnavailable) as error:
                    self._lost()
                    log.warning("news of the log are interrupted", extra={"error": str(error), "retry_in": delay})
                    await asyncio.sleep(delay * random.uniform(0.5, 1.0))
                    delay = min(delay * 2, RETRY_SECONDS[1])
                    continue
                yield state
                await self._wait()
        finally:
            self._lost()

    async def close(self) -> None:
        self._lost()

    async def _connect(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._database.connect_and("listener", self._listen)
            self._doubt = True  # what was notified while nobody listened is gone
            self.listening = True
        return self._connection

    async def _listen(self, connection: Connection) -> None:
        connection.add_termination_listener(self._on_lost)
        await connection.add_listener(self.name, self._on_notify)

    async def _wait(self) -> None:
        """Until there is news, or doubt, or it is time to look for ourselves."""
        if self._latest is None and not self._doubt:
            self._wake.clear()
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                self._doubt = True

    def _on_notify(self, connection: Any, pid: int, channel: str, payload: object) -> None:
        try:
            self._latest = Position.parse(str(payload))
        except MalformedPosition:
            self._doubt = True
        self._wake.set()

    def _on_lost(self, connection: Any) -> None:
        if connection is self._connection:
            self.listening = False
            self._doubt = True
            self._wake.set()

    def _lost(self) -> None:
        self.listening = False
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()
