"""Channels over a log in memory, and edges that take what their readers offer."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, ClassVar

from shared.channel.batch import Batch
from shared.channel.channel import Channel, ChannelLimits
from shared.channel.lanes import Lane
from shared.channel.reader import Reader
from shared.protocol.filter import Filter
from shared.protocol.position import Anchor
from shared.protocol.record import Record
from tests.support.memory_log import MemoryLog, Store
from tests.unit.protocol.sample import SCHEMA, draft

MINE = Filter(tenant="t")
SECONDS = 10.0


@asynccontextmanager
async def channel_over(log: Any, limits: ChannelLimits | None = None) -> AsyncIterator[Channel]:
    channel = Channel(log, SCHEMA, limits)
    await channel.start()
    try:
        yield channel
    finally:
        await channel.close()


@asynccontextmanager
async def reading(
    store: Store, wish: Anchor = Anchor.NOW, limits: ChannelLimits | None = None
) -> AsyncIterator[tuple[Channel, Reader]]:
    """A channel over a store, and one reader of it."""
    async with (
        asyncio.timeout(SECONDS),
        channel_over(MemoryLog(store), limits) as channel,
        channel.reader(MINE, await channel.resolve(wish)) as reader,
    ):
        yield channel, reader


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until it is so."""
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110  what is waited for has no event of its own
            await asyncio.sleep(0)


def seqs(batch: Batch | None) -> list[int]:
    assert batch is not None
    return [item.seq for item in batch.items if isinstance(item, Record)]


class Listening:
    """An edge: takes what is offered while parked, and is woken otherwise."""

    def __init__(self, reader: Reader, ready: Callable[[], bool] = lambda: True) -> None:
        self.taken: list[Batch] = []
        self.woken = asyncio.Event()
        self._reader = reader
        self._ready = ready

    def offer(self, batch: Batch) -> bool:
        self.taken.append(batch)
        if self._ready():
            return True
        self.woken.set()
        return False

    def wake(self) -> None:
        self.woken.set()

    def fail(self, error: Exception) -> None:
        self.woken.set()


class Neighbour(Listening):
    """An edge whose socket is sent to beside others'; with `ready` false, it does not take all of it."""

    format: str = "bytes"
    wires: ClassVar[dict[bytes, Batch]] = {}

    def __init__(self, reader: Reader, ready: Callable[[], bool] = lambda: True) -> None:
        super().__init__(reader, ready)
        self.events = 0
        self.last_seq = 0

    def render(self, batch: Batch) -> bytes:
        wire = str(id(batch)).encode()
        self.wires[wire] = batch
        return wire

    def send(self, wire: bytes) -> int:
        assert self._reader.parked
        self.taken.append(self.wires[wire])
        return len(wire) if self._ready() else 1

    def write(self, rest: bytes) -> None:
        assert next(wire for wire, batch in self.wires.items() if batch is self.taken[-1])[1:] == rest
        self._reader.rouse()

    def offer(self, batch: Batch) -> bool:
        self.events += batch.count
        return super().offer(batch)

    def joined(self, lane: Lane) -> None:
        self.events -= lane.events

    def left(self, lane: Lane) -> None:
        self.events += lane.events
        self.last_seq = lane.last_seq


def park(reader: Reader, listener: Listening) -> None:
    reader.park(listener, listener if isinstance(listener, Neighbour) else None)


class Crowd:
    """Readers of one filter at the head, parked side by side."""

    def __init__(self, store: Store, channel: Channel, stack: AsyncExitStack) -> None:
        self.store = store
        self.channel = channel
        self.readers: list[Reader] = []
        self.edges: list[Listening] = []
        self._stack = stack

    async def come(self, count: int = 1, *, kind: type[Listening] = Neighbour, behind_an_event: bool = False) -> None:
        """`behind_an_event`: just after one that those who are parked have not been given yet."""
        start = await self.channel.resolve(Anchor.NOW)
        coming = [await self._stack.enter_async_context(self.channel.reader(MINE, start)) for _ in range(count)]
        if behind_an_event:
            record = Record.of(self.channel.state.head + 1, draft())
            self.store.commit([record])
            self.channel._committed(self.channel.state.epoch, [record], 0.0)
        for reader in coming:
            while reader.take() is not None:
                pass
            self.edges.append(kind(reader))
            park(reader, self.edges[-1])
        self.readers += coming

    async def publish(self, tenant: str = "t", count: int = 1) -> None:
        await self.channel.publish([draft(tenant=tenant)] * count)

    async def everybody_has_all(self) -> None:
        await until(lambda: all(reader.position == self.channel.state.head for reader in self.readers))

    @property
    def neighbours(self) -> list[Neighbour]:
        return [edge for edge in self.edges if isinstance(edge, Neighbour)]

    @property
    def lanes(self) -> list[int]:
        """How many are in each, the largest first; those who are alone are not told."""
        return sorted(Counter(id(each.lane) for each in self.readers if each.lane is not None).values(), reverse=True)


@asynccontextmanager
async def crowd(*, head: int = 1_000, limits: ChannelLimits | None = None) -> AsyncIterator[Crowd]:
    store = Store()
    store.commit([Record.of(seq, draft()) for seq in range(1, head + 1)])
    async with (
        asyncio.timeout(SECONDS),
        channel_over(MemoryLog(store), limits) as channel,
        AsyncExitStack() as stack,
    ):
        yield Crowd(store, channel, stack)
        assert channel.failures() == []
