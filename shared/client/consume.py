"""Consuming a feed for ever: batches for a handler that keeps its position together with what it does.

The handler stores `Batch.position` in the same transaction as its effects. Whatever breaks, between any two steps, the
next attempt starts at the stored position: every event reaches the handler at least once, and takes effect once.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from msgspec import Struct

from shared.client.backoff import pause
from shared.client.follow import Follow
from shared.protocol.control import Gap, Reset
from shared.protocol.schema import Event, UnknownEvent

log = logging.getLogger("tailrace.client")

T = TypeVar("T")

MAX_BATCH = 200
BOOKMARK_SECONDS = 30.0  # how often a position is worth storing when only hidden events have passed

Feed = Callable[[str | None], Follow]
"""Makes a stream that starts after a position, with `lossless=True`."""


class Received(Struct, frozen=True):
    """An event, and the position to go on from once it has been dealt with."""

    position: str
    event: Event | UnknownEvent


class Batch(Struct, frozen=True):
    """What the handler is to deal with, and then to store `position`.

    With `reset` there are no events: continuity is lost, or there never was a position. Read the state elsewhere, from
    a list for example, and store the position that belongs to it (its `as_of`). A batch without either only moves the
    position on, past events that the filter hides, so that retention does not overtake it.
    """

    events: tuple[Received, ...]
    position: str
    reset: Reset | None = None


Handler = Callable[[Batch], Awaitable[None]]


class PositionStore(Protocol):
    """Where the handler keeps its position."""

    async def load(self) -> str | None:
        """The last position stored; None before the first."""
        ...


class Skipped(Exception):
    """The feed skipped events for a reader that lagged: it was not followed with `lossless=True`."""


async def consume(
    feed: Feed,
    store: PositionStore,
    handler: Handler,
    *,
    max_batch: int = MAX_BATCH,
    on_trouble: Callable[[Exception], None] | None = None,
) -> None:
    """Give `handler` everything that `feed` brings, from the stored position on.

    What the handler or the store raises is told to `on_trouble` (or logged); after a growing pause it goes on from the
    position that is stored then. Returns when the feed ends for good; raises what the feed raises, a ClientError.
    """
    await _Consumer(feed, store, handler, max_batch, on_trouble or _log).run()


def _log(error: Exception) -> None:
    log.error("a consumer's handler failed; its events will come again", exc_info=error)


class _Trouble(Exception):
    """Wraps what the handler or the store raised, so that nothing of the feed's is mistaken for it."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class _Consumer:
    def __init__(
        self, feed: Feed, store: PositionStore, handler: Handler, max_batch: int, tell: Callable[[Exception], None]
    ) -> None:
        self._feed = feed
        self._store = store
        self._handler = handler
        self._max_batch = max_batch
        self._tell = tell
        self._failures = 0

    async def run(self) -> None:
        while True:
            try:
                if await self._once():
                    return
            except _Trouble as trouble:
                self._failures += 1
                self._tell(trouble.cause)
                await asyncio.sleep(pause(self._failures, random.random()))

    async def _once(self) -> bool:
        """From the stored position until something is wrong. True: the feed has ended for good."""
        position = await _guarded(self._store.load())
        if position is None:
            await self._start_over(Reset(reason="unknown_position", requested="", oldest=0, head=0))
            return False
        async with self._feed(position) as stream:
            reset = await self._follow(stream, position)
        if reset is not None:
            await self._start_over(reset)
        return reset is None

    async def _follow(self, stream: Follow, stored: str) -> Reset | None:
        """Handle batch after batch. The reset that stands in the way; None at the end of the feed."""
        clock = asyncio.get_running_loop().time
        stored_at = clock()
        while True:
            events, odd = self._take(stream)
            position = events[-1].position if events else stream.position
            is_stale = bool(position) and position != stored and clock() - stored_at >= BOOKMARK_SECONDS
            if events or (is_stale and odd is None):
                await _guarded(self._handler(Batch(events, position)))
                stored, stored_at, self._failures = position, clock(), 0
            if isinstance(odd, Gap):
                raise _Trouble(Skipped(f"{odd.dropped} events were skipped: follow the feed with lossless=True"))
            if odd is not None:
                return odd
            if not await stream.wait():
                return None

    def _take(self, stream: Follow) -> tuple[tuple[Received, ...], Gap | Reset | None]:
        """The events that are there already, up to `max_batch` of them or to a word about the stream."""
        events: list[Received] = []
        for item in stream.ready():
            if isinstance(item, Gap | Reset):
                return tuple(events), item
            events.append(Received(stream.position, item))
            if len(events) == self._max_batch:
                break
        return tuple(events), None

    async def _start_over(self, reset: Reset) -> None:
        """The handler reads the state anew and stores a position; twice in a row only after a pause."""
        if self._failures:
            await asyncio.sleep(pause(self._failures, random.random()))
        await _guarded(self._handler(Batch((), "", reset)))
        self._failures += 1  # until a batch has gone through


async def _guarded(work: Awaitable[T]) -> T:
    try:
        return await work
    except Exception as error:
        raise _Trouble(error) from error
