"""Fan-out: one loop serves all readers that wait at the head, without waking a task for each.

Measured at 1,000 readers on uvicorn: waking a task for each costs 12.4 µs of CPU a delivery, this loop 10.2, of which
6.0 are the kernel's (a bare loop of `send`).
"""

import asyncio
from typing import TYPE_CHECKING

from shared.channel.batch import Batch
from shared.protocol.tail import Tail

if TYPE_CHECKING:  # readers park here, and this loop delivers to them
    from shared.channel.reader import Reader

READERS_PER_STEP = 128  # about a millisecond; then everybody else has a turn, and the sockets are flushed


class FanOut:
    """Knows who is parked at which tail, and delivers to them when the tail was touched."""

    def __init__(self) -> None:
        self._parked: dict[Tail, dict[Reader, None]] = {}
        self._touched: dict[Tail, None] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="fan-out")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    @property
    def dead(self) -> bool:
        return self._task is not None and self._task.done()

    def park(self, tail: Tail, reader: "Reader") -> None:
        self._parked.setdefault(tail, {})[reader] = None

    def unpark(self, tail: Tail, reader: "Reader") -> None:
        readers = self._parked.get(tail)
        if readers is not None:
            readers.pop(reader, None)
            if not readers:
                del self._parked[tail]

    def touch(self, tail: Tail) -> None:
        """The tail has got something new."""
        if tail in self._parked:
            self._touched[tail] = None
            self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._touched:
                tail = next(iter(self._touched))
                del self._touched[tail]
                await self._serve(tail)

    async def _serve(self, tail: Tail) -> None:
        readers = self._parked.get(tail, {})
        batches: dict[int, Batch | None] = {}
        for turn, reader in enumerate(tuple(readers), start=1):
            if turn % READERS_PER_STEP == 0:
                await asyncio.sleep(0)
                batches.clear()  # the tail may have grown meanwhile
            if reader not in readers:
                continue  # it left during a pause
            position = reader.position
            if position < tail.floor:
                reader.rouse()  # what it needs was evicted before its turn came: its owner reads the log
                continue
            if position not in batches:
                batches[position] = reader.peek()
            batch = batches[position]
            if batch is None:
                continue
            if batch.upto < tail.last_seq:
                reader.rouse()  # more than fits into one message: its owner takes it piece by piece
            else:
                reader.deliver(batch)
