"""Consuming another service's feed: over HTTP, each batch with its effects and the position in one transaction."""

import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from msgspec import Struct

from services.tasks.feeds import Feeds, Overtaken
from shared.channel.channel import Channel
from shared.channel.log import MAX_EVENT_BYTES, EventTooLarge, LogUnavailable, Outcome, Rows, Transaction
from shared.client import Batch, Client, ClientError, Follow, Received, consume
from shared.edge import metrics
from shared.protocol.position import Position
from shared.protocol.schema import Schema

log = logging.getLogger("tailrace.tasks")

PAGE = 500

Effects = Callable[[Transaction], Awaitable[Outcome[list[str]]]]
"""What happens in a transaction, the snapshots that tell of it, and why some of the news had no effect."""


class Source(Struct, frozen=True):
    """A feed of another service: its name here, the path of its list, and which of its events are read as what."""

    name: str
    path: str
    schema: Schema
    types: tuple[str, ...]


class FeedConsumer(ABC):
    """One process's consumer of a feed. Of all processes' only one should be at work; should two be, one of them is
    refused whatever it tries.
    """

    def __init__(self, source: Source, channel: Channel, rows: Rows, feeds: Feeds, client: Client) -> None:
        self.source = source
        self.rows = rows
        self._channel = channel
        self._feeds = feeds
        self._client = client
        self._believed: str | None = None

    @abstractmethod
    async def effects(self, events: Sequence[Received]) -> Effects:
        """What these events cause."""

    @abstractmethod
    async def read_anew(self, as_of: Position) -> None:
        """Continuity is lost: bring about, by `commit`, what follows from the present state. It may be newer than
        `as_of`, from where the feed is followed afterwards.
        """

    async def consume(self) -> None:
        """Follow the feed until cancelled."""
        await consume(self._follow, self, self._handle, on_trouble=self._tell)

    async def load(self) -> str | None:
        """Where to go on; `consume` asks."""
        self._believed = await self._feeds.position(self.rows, self.source.name)
        return self._believed

    async def commit(self, effects: Effects | None, position: str | None = None, *, size: int = 1_000) -> None:
        """The effects and the new position: all of it or nothing. `position` None: it stays."""
        believed, name = self._believed, self.source.name

        async def change(tx: Transaction) -> Outcome[list[str]]:
            await self._feeds.check(tx, name, believed)
            outcome: Outcome[list[str]] = Outcome([]) if effects is None else await effects(tx)
            if position is not None:
                await self._feeds.move(tx, name, position)
            return outcome

        done = await self._channel.execute(change, size=min(size, MAX_EVENT_BYTES))
        if position is not None:
            self._believed = position
        for reason in done.value:
            metrics.REFUSED_MOVES.labels(name, reason).inc()

    async def pages(self, **filters: str) -> AsyncIterator[list[dict[str, Any]]]:
        """The service's list, newest first."""
        cursor: dict[str, str] = {}
        while True:
            params: dict[str, str | int] = {**filters, "limit": PAGE, **cursor}
            page = await self._client.request("GET", self.source.path, params=params)
            yield page["data"]
            if page["next_cursor"] is None:
                return
            cursor = {"cursor": page["next_cursor"]}

    def _follow(self, after: str | None) -> Follow:
        source = self.source
        return self._client.follow(
            f"{source.path}/stream", schema=source.schema, after=after, types=source.types, lossless=True
        )

    async def _handle(self, batch: Batch) -> None:
        if batch.reset is None:
            await self._go_on(batch.events, batch.position)
            return
        as_of = str((await self._client.request("GET", self.source.path, params={"limit": 1}))["as_of"])
        log.info("a feed starts over from the present state", extra={"feed": self.source.name, "as_of": as_of})
        await self.read_anew(Position.parse(as_of))
        await self.commit(None, as_of)

    async def _go_on(self, events: Sequence[Received], position: str) -> None:
        """The effects of these events, in one transaction unless their snapshots are too much for one."""
        try:
            await self.commit(await self.effects(events), position, size=1_000 * len(events))
        except EventTooLarge:
            if len(events) < 2:
                raise
            half = len(events) // 2
            await self._go_on(events[:half], events[half - 1].position)
            await self._go_on(events[half:], position)

    def _tell(self, error: Exception) -> None:
        fields = {"feed": self.source.name, "error": str(error)}
        if isinstance(error, LogUnavailable | Overtaken | ClientError):
            log.warning("a feed is followed again from its stored position", extra=fields)
        else:
            log.error("news of a feed could not be dealt with, and will come again", exc_info=error, extra=fields)
