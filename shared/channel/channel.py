"""The channel: publish into it, follow it from a position with a filter. Every transport is a thin edge over it."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TypeVar

from msgspec import Struct

from shared.channel.appender import Appender
from shared.channel.fanout import FanOut
from shared.channel.log import Change, Command, Committed, EventLog, HistoryTrimmed, LogUnavailable, Page
from shared.channel.reader import Reader
from shared.channel.start import Start
from shared.channel.tails import Tails
from shared.protocol.filter import Filter
from shared.protocol.position import Anchor, LogState, Position, why_reset
from shared.protocol.record import DELETED, Draft, Record
from shared.protocol.schema import Schema

log = logging.getLogger("tailrace.channel")

T = TypeVar("T")

EVERYTHING = Filter(tenant=None)
FEED_PAGE_EVENTS = 2_000


class ChannelLimits(Struct, frozen=True):
    """Bounds on one process's memory, in bytes, and on what a page holds."""

    tail_bytes: int = 64 * 1024 * 1024
    lag_budget_bytes: int = 1024 * 1024
    batch_bytes: int = 48 * 1024  # under the 64 KiB at which uvicorn's transports say "wait"
    page_events: int = 500
    page_bytes: int = 1024 * 1024


class Channel:
    """One service's log as its process sees it: the appender, the tails, the readers, and the news that moves them.

    `head` is how far this process has seen the log: what is up to it is in the tails in use or older than them.
    """

    def __init__(self, event_log: EventLog, schema: Schema, limits: ChannelLimits | None = None) -> None:
        self.schema = schema
        self.limits = limits or ChannelLimits()
        self.state = LogState(epoch="", head=0, oldest=1)
        self.tails = Tails(self.limits.tail_bytes)
        self.fanout = FanOut()
        self.readers: set[Reader] = set()
        self._log = event_log
        self._appender = Appender(event_log, self._committed)
        self._news: asyncio.Task[None] | None = None
        self._pages: dict[tuple[Filter, int], asyncio.Task[Page]] = {}
        self._asking: asyncio.Task[LogState] | None = None

    # ── life ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Raise LogUnavailable when the log cannot be reached."""
        self.state = await self._log.start()
        self._appender.start()
        self.fanout.start()
        self._news = asyncio.create_task(self._hear(), name="news")

    async def close(self) -> None:
        """Commit what was accepted, then stop. Readers must have been ended before."""
        await self._appender.close()
        for task in (self._news, *self._pages.values(), self._asking):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        await self.fanout.close()
        await self._log.close()

    def failures(self) -> list[str]:
        """What of this channel has died and will not come back: for `/ready`. Empty when all is well."""
        dead = [] if self._news is None or not self._news.done() else ["news"]
        return dead + (["fan-out"] if self.fanout.dead else [])

    # ── publish ────────────────────────────────────────────────────────────────────────────────────────────────

    async def publish(self, drafts: Sequence[Draft]) -> Committed[None]:
        """Append events; resolves when they are durable. Raise EventTooLarge, LogUnavailable."""
        command: Command[None] = Command(drafts)
        return await self._appender.append(command)

    async def execute(self, change: Change[T]) -> Committed[T]:
        """Change state rows and append the events that tell of it, together or not at all.

        Raise whatever the change raised to refuse, EventTooLarge, or LogUnavailable.
        """
        return await self._appender.append(Command(change=change))

    # ── follow ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def resolve(self, requested: Position | Anchor) -> Start:
        """Where a reader that asks for `requested` starts, and whether it must be reset. Raise LogUnavailable."""
        if requested is Anchor.NOW or requested == Position(self.state.epoch, self.state.head):
            return Start(self.state, self.state.head, resumed=isinstance(requested, Position))
        state = await self.ask()
        if isinstance(requested, Anchor):
            return Start(state, state.start)
        reason = why_reset(requested, state)
        if reason is not None:
            return Start(state, state.start, reset=reason, requested=str(requested))
        return Start(state, requested.seq, resumed=True)

    async def ask(self) -> LogState:
        """The log's state as the database has it. Readers that ask at the same time share the question."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._log.state(), name="state")
        state = await asyncio.shield(self._asking)
        self._learn(state)
        return state

    @asynccontextmanager
    async def reader(
        self, filter: Filter, start: Start, *, lossless: bool = False, history: Filter | None = None
    ) -> AsyncIterator[Reader]:
        """A reader at `start`, for as long as the block lasts."""
        reader = Reader(self, filter, start, lossless=lossless, history=history)
        self.readers.add(reader)
        try:
            yield reader
        finally:
            reader.close()
            self.readers.discard(reader)

    async def follow(self, filter: Filter, start: Start) -> AsyncGenerator[Record, None]:
        """Each shown event above `start`, for ever, history and live alike; for consumers inside the process.

        Raise HistoryTrimmed when what comes next is gone, or the epoch has changed. Close the iterator when done.
        """
        async with self.reader(filter, start, lossless=True) as reader:
            while True:
                batch = await reader.next()
                for item in batch.items:
                    if isinstance(item, Record):
                        yield item

    async def read(self, filter: Filter, after: int, *, limit: int | None = None) -> Page:
        """One page of the log. Raise HistoryTrimmed, LogUnavailable."""
        limits = self.limits
        page = await self._log.read(filter, after, limit=limit or limits.page_events, max_bytes=limits.page_bytes)
        self._learn(page.state)
        return page

    async def read_shared(self, filter: Filter, after: int) -> Page:
        """The same for readers: those at the same place of the same filter share one query."""
        key = (filter, after)
        task = self._pages.get(key)
        if task is None:
            task = self._pages[key] = asyncio.create_task(self.read(filter, after), name="page")
            task.add_done_callback(lambda _: self._pages.pop(key, None))
        return await asyncio.shield(task)

    # ── news ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _hear(self) -> None:
        async with aclosing(self._log.heads()) as heads:  # type: ignore[type-var]  # an async generator in every log
            async for state in heads:
                try:
                    await self._catch_up(state)
                except LogUnavailable as error:
                    log.warning("events of other processes wait for the database", extra={"error": str(error)})

    async def _catch_up(self, state: LogState) -> None:
        """Bring the tails up to `state`."""
        self._learn(state)
        while self.state.epoch == state.epoch and self.state.head < state.head:
            if not self.tails:
                self._advance(state.head)
                return
            try:
                page = await self.read(EVERYTHING, self.state.head, limit=FEED_PAGE_EVENTS)
            except HistoryTrimmed:  # this process was away for longer than history is kept
                self.state = await self._log.state()
                self._start_over()
                return
            if page.state.epoch != self.state.epoch:
                return
            self._feed(page.records, page.scanned_to)

    def _committed(self, epoch: str, records: Sequence[Record]) -> None:
        """This process's own commit: straight to the tails if nothing of another process lies before it."""
        if epoch == self.state.epoch and records[0].seq == self.state.head + 1:
            self._feed(records, records[-1].seq)
        # else the news that this commit caused will bring both

    def _feed(self, records: Iterable[Record], upto: int) -> None:
        """Give the tails the next part of the log, which ends at `upto`."""
        new = [record for record in records if record.seq > self.state.head]
        for record in new:
            for tail in self.tails.append(record):
                self.fanout.touch(tail)
        self._advance(upto)
        if any(record.ends == DELETED for record in new):
            self._start_over()  # the tails may hold events that are gone: whoever is behind reads the log

    def _advance(self, head: int) -> None:
        if head > self.state.head:
            self.state = LogState(self.state.epoch, head, self.state.oldest)

    def _learn(self, state: LogState) -> None:
        """Take over what a look at the log told, its head excepted: that moves only with the tails."""
        if state.epoch != self.state.epoch:
            log.warning("a new epoch of the log", extra={"old": self.state.epoch, "new": state.epoch})
            self.state = state
            self._start_over()
        elif state.oldest > self.state.oldest:
            self.state = LogState(self.state.epoch, self.state.head, state.oldest)

    def _start_over(self) -> None:
        """The tails are worth nothing any more: every reader is woken to find out where it stands."""
        self.tails.clear()
        for reader in tuple(self.readers):
            reader.disturb()
