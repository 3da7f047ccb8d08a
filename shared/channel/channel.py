"""The channel: publish into it, follow it from a position with a filter. Every transport is a thin edge over it."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TypeVar

from msgspec import Struct

from shared.channel.appender import Appender
from shared.channel.batch import Batch, batches
from shared.channel.fanout import FanOut
from shared.channel.log import Change, Command, Committed, EventLog, HistoryTrimmed, LogUnavailable, Page
from shared.channel.reader import Reader
from shared.channel.start import Start
from shared.channel.tails import Tails
from shared.channel.tasks import Keeper, end
from shared.protocol.filter import Filter
from shared.protocol.position import Anchor, LogState, Position, why_reset
from shared.protocol.record import DELETED, Draft, Record
from shared.protocol.schema import Schema

log = logging.getLogger("tailrace.channel")

T = TypeVar("T")

EVERYTHING = Filter(tenant=None)
FEED_PAGE_EVENTS = 2_000
SMALL_CHANGE_BYTES = 1_024


class ChannelLimits(Struct, frozen=True):
    """Bounds on one process's memory, in bytes, and on what a page holds."""

    tail_bytes: int = 64 * 1024 * 1024
    lag_budget_bytes: int = 1024 * 1024
    batch_bytes: int = 48 * 1024  # of one write: what an idle socket takes whole
    page_events: int = 500
    page_bytes: int = 512 * 1024


class Channel:
    """One service's log as its process sees it: the appender, the tails, the readers, and the news that moves them.

    `head` is how far this process has seen the log: what is up to it is in the tails in use or older than them.
    """

    def __init__(self, event_log: EventLog, schema: Schema, limits: ChannelLimits | None = None) -> None:
        self.schema = schema
        self.limits = limits or ChannelLimits()
        self.state = LogState(epoch="", head=0, oldest=1)
        self.tails = Tails(self.limits.tail_bytes)
        self._keeper = Keeper()
        self.fanout = FanOut(self._keeper)
        self.readers: set[Reader] = set()
        self._log = event_log
        self._appender = Appender(event_log, self._committed)
        self._pages: dict[tuple[Filter, int], asyncio.Task[tuple[Batch, ...]]] = {}
        self._next_question: asyncio.Task[LogState] | None = None
        self._questions: set[asyncio.Task[LogState]] = set()  # that one, and the one under way
        self._asking = asyncio.Lock()
        self._epochs = 0  # how many have been seen: what was asked in one must not be believed in the next

    # ── life ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Raise LogUnavailable when the log cannot be reached."""
        self.state = await self._log.start()
        self._appender.start()
        self.fanout.start()
        self._keeper.keep("news", self._hear)

    async def close(self) -> None:
        """Commit what was accepted, then stop. Readers must have been ended before."""
        await self._appender.close()
        await end(*self._pages.values(), *self._questions)
        await self._keeper.close()
        await self._log.close()

    def failures(self) -> list[str]:
        """What of this channel does not work now: for `/ready`. Empty when all is well."""
        return self._keeper.failing() + (["appender"] if self._appender.dead else [])

    # ── publish ────────────────────────────────────────────────────────────────────────────────────────────────

    async def publish(self, drafts: Sequence[Draft]) -> Committed[None]:
        """Append events; resolves when they are durable. Raise EventTooLarge, LogUnavailable."""
        command: Command[None] = Command(drafts)
        return await self._appender.append(command)

    async def execute(self, change: Change[T], *, size: int = SMALL_CHANGE_BYTES) -> Committed[T]:
        """Change state rows and append the events that tell of it, together or not at all.

        `size` is about how many bytes the change holds on to while it waits its turn. Raise whatever the change raised
        to refuse, EventTooLarge, or LogUnavailable.
        """
        return await self._appender.append(Command(change=change, size=size))

    # ── follow ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def resolve(self, requested: Position | Anchor, *, ask: bool = False) -> Start:
        """Where a reader that asks for `requested` starts, and whether it must be reset. Raise LogUnavailable.

        `ask`: what this process knows of the head is not enough.
        """
        known = requested is Anchor.NOW or requested == Position(self.state.epoch, self.state.head)
        if known and not ask:
            return Start(self.state, self.state.head, resumed=isinstance(requested, Position))
        state = await self.ask()
        if isinstance(requested, Anchor):
            return Start(state, state.start if requested is Anchor.START else state.head)
        reason = why_reset(requested, state)
        if reason is not None:
            return Start(state, state.start, reset=reason, requested=str(requested))
        return Start(state, requested.seq, resumed=True)

    async def ask(self) -> LogState:
        """The log's state as the database has it. Those who ask while a question is under way share the next one: the
        answer to one that was sent before they came might be older than what they know.
        """
        if self._next_question is None:
            self._next_question = asyncio.create_task(self._ask(), name="state")
            self._questions.add(self._next_question)
            self._next_question.add_done_callback(self._questions.discard)
        return await asyncio.shield(self._next_question)

    async def _ask(self) -> LogState:
        async with self._asking:
            self._next_question = None  # who comes from here on, comes too late for this one
            while True:
                epochs = self._epochs
                state = await self._log.state()
                if self._learn(state, epochs):
                    return state

    @asynccontextmanager
    async def reader(
        self, filter: Filter, start: Start, *, lossless: bool = False, history: Filter | None = None
    ) -> AsyncIterator[Reader]:
        """A reader at `start`, for as long as the block lasts."""
        reader = Reader(self, filter, start, lossless=lossless, history=history)
        try:
            yield reader
        finally:
            reader.close()

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
        while True:
            epochs = self._epochs
            page = await self._log.read(filter, after, limit=limit or limits.page_events, max_bytes=limits.page_bytes)
            if self._learn(page.state, epochs):
                return page

    async def read_shared(self, filter: Filter, after: int) -> tuple[Batch, ...]:
        """The next page in batches, for readers: those at the same place of the same filter share query and bytes."""
        key = (filter, after)
        task = self._pages.get(key)
        if task is None or task.done():  # one that is done is from before what may have come since
            task = self._pages[key] = asyncio.create_task(self._read_batches(filter, after), name="page")
            task.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(task)

    def _forget(self, key: tuple[Filter, int], done: "asyncio.Task[tuple[Batch, ...]]") -> None:
        if self._pages.get(key) is done:
            del self._pages[key]

    async def _read_batches(self, filter: Filter, after: int) -> tuple[Batch, ...]:
        page = await self.read(filter, after)
        return batches(filter, page.state.epoch, after, page, self.limits.batch_bytes)

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
        if state.epoch != self.state.epoch:
            epochs = self._epochs
            state = await self._log.state()  # news may be old
            self._learn(state, epochs)
        while self.state.epoch == state.epoch and self.state.head < state.head:
            if not self.tails:
                self._advance(state.head)
                return
            epochs = self._epochs
            try:
                page = await self.read(EVERYTHING, self.state.head, limit=FEED_PAGE_EVENTS)
            except HistoryTrimmed:  # this process was away for longer than history is kept
                now = await self.ask()
                if epochs == self._epochs:
                    self.state = now
                    self._start_over()
                return
            if epochs != self._epochs:
                return  # the head may be lower now than where this page begins
            self._feed(page.records, page.scanned_to)

    def _committed(self, epoch: str, records: Sequence[Record], since: float) -> None:
        """One command of this process: straight to the tails if nothing of another process lies before it."""
        if epoch == self.state.epoch and records[0].seq == self.state.head + 1:
            self._feed(records, records[-1].seq, since)
        # else the news that this commit caused will bring both

    def _feed(self, records: Iterable[Record], upto: int, since: float | None = None) -> None:
        """Give the tails the next part of the log, which ends at `upto`. `since`: when it was published here."""
        new = [record for record in records if record.seq > self.state.head]
        for record in new:
            for tail in self.tails.append(record):
                self.fanout.touch(tail, since)
        self._advance(upto)
        if any(record.ends == DELETED for record in new):
            self._start_over()  # the tails may hold events that are gone: whoever is behind reads the log

    def _advance(self, head: int) -> None:
        if head > self.state.head:
            self.state = LogState(self.state.epoch, head, self.state.oldest)

    def _learn(self, state: LogState, epochs: int) -> bool:
        """Take over what a look at the log told, its head excepted: that moves only with the tails.

        `epochs` is our count when the question was sent. False: the answer is from before a change, and worth nothing.
        """
        if epochs != self._epochs and state.epoch != self.state.epoch:
            return False
        if state.epoch != self.state.epoch:
            log.warning("a new epoch of the log", extra={"old": self.state.epoch, "new": state.epoch})
            self._epochs += 1
            self.state = state
            self._start_over()
        elif state.oldest > self.state.oldest:
            self.state = LogState(self.state.epoch, self.state.head, state.oldest)
        return True

    def _start_over(self) -> None:
        """The tails are worth nothing any more: every reader is woken to find out where it stands."""
        self.tails.clear()
        for reader in tuple(self.readers):
            reader.disturb()
