"""Channels over a log in memory, and edges that take what their readers offer."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from shared.channel.batch import Batch
from shared.channel.channel import Channel, ChannelLimits
from shared.channel.lanes import Lane
from shared.channel.reader import Reader
from shared.protocol.record import Record
from tests.unit.protocol.sample import SCHEMA

SECONDS = 10.0


@asynccontextmanager
async def channel_over(log: Any, limits: ChannelLimits | None = None) -> AsyncIterator[Channel]:
    channel = Channel(log, SCHEMA, limits)
    await channel.start()
    try:
        yield channel
    finally:
        await channel.close()


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
    """An edge whose socket is written to beside others'; with `ready` false, the write leaves no room for another."""

    format = "bytes"
    wires: ClassVar[dict[bytes, Batch]] = {}

    def __init__(self, reader: Reader, ready: Callable[[], bool] = lambda: True) -> None:
        super().__init__(reader, ready)
        self.events = 0
        self.last_seq = 0

    def render(self, batch: Batch) -> bytes:
        wire = str(id(batch)).encode()
        self.wires[wire] = batch
        return wire

    def write(self, wire: bytes) -> None:
        assert self._reader.parked
        self.taken.append(self.wires[wire])
        if not self._ready():
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
