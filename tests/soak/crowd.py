"""The crowd: thousands of readers of runs in one process, each of which knows what must come next.

`python -m tests.soak.crowd PORT COUNT SEED`. The ids of open runs come on standard input, a JSON list a line; each
second a line of counts goes out, and at the end of the input all leave.

A run's events are numbered by its worker, and its end tells how many there were. So each reader sees for itself whether
anything was lost or came twice, over any number of connections.
"""

import asyncio
import json
import random
import re
import sys
from collections import Counter

import uvloop

from tests.soak.chunks import Chunks

MEAN_STAY_SECONDS = 25.0
ARRIVALS_PER_SECOND = 100.0  # at the beginning
LONGEST_PAUSE_SECONDS = 20.0
BLOCK = re.compile(rb"id: \w+-(\d+)\nevent: (\w+)\ndata: (.*)")
NUMBER = {b"node_update": re.compile(rb'"iteration":(\d+)'), b"error": re.compile(rb'"code":"(\d+)"')}
TOTAL = re.compile(rb'"status":"completed".*"output":"(\d+)"')
DROPPED = re.compile(rb'"dropped":(\d+)')


class Crowd:
    """All of them, and what they have met."""

    def __init__(self, port: int, seed: str) -> None:
        self.port = port
        self.chance = random.Random(seed)
        self.runs: list[str] = []
        self.counts: Counter[str] = Counter()
        self.open = 0
        self.violations: list[str] = []
        self.leaving = False

    def violation(self, text: str) -> None:
        self.counts["violations"] += 1
        if len(self.violations) < 20:
            self.violations.append(text)


class Member:
    """One reader: of one run after the other."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._run_id: str | None = None
        self._last_id: bytes | None = None
        self._seq = 0
        self._number = 0  # of the last event
        self._over = False
        self._failures = 0  # since it was live last

    async def stay(self, after_seconds: float) -> None:
        crowd, loop = self._crowd, asyncio.get_running_loop()
        await asyncio.sleep(after_seconds)
        while not crowd.leaving:
            if self._run_id is None or self._over:
                if not crowd.runs:
                    await asyncio.sleep(0.1)
                    continue
                self._run_id, self._last_id = crowd.chance.choice(crowd.runs), None
                self._seq = self._number = 0
                self._over = False
            try:
                transport, stream = await loop.create_connection(lambda: Stream(self), "127.0.0.1", crowd.port)
            except OSError:
                crowd.counts["no connection"] += 1
                self._failures += 1
            else:
                await self._listen(transport, stream)
            # as any client that means to be served: the more failures, the longer
            await asyncio.sleep(crowd.chance.uniform(0, min(2.0**self._failures, LONGEST_PAUSE_SECONDS)))

    async def _listen(self, transport: asyncio.Transport, stream: "Stream") -> None:
        crowd = self._crowd
        resume = b"" if self._last_id is None else b"Last-Event-ID: " + self._last_id + b"\r\n"
        target = f"GET /api/v1/runs/{self._run_id}/stream HTTP/1.1\r\nHost: 127.0.0.1:{crowd.port}\r\n"
        transport.write(target.encode() + resume + b"\r\n")
        crowd.open += 1
        crowd.counts["connections"] += 1
        self._failures += 1
        try:
            async with asyncio.timeout(crowd.chance.expovariate(1 / MEAN_STAY_SECONDS)):
                await stream.lost
        except TimeoutError:
            crowd.counts["left"] += 1
        finally:
            crowd.open -= 1
            transport.abort()

    def take(self, seq: int, id: bytes, kind: bytes, data: bytes) -> None:
        """A frame, and whether it is what comes next."""
        crowd = self._crowd
        crowd.counts["frames"] += 1
        if kind in (b"reset", b"gap"):
            crowd.counts[kind.decode()] += 1
        if kind == b"gap":
            found = DROPPED.search(data)
            self._number += int(found[1]) if found else 0
        elif kind in NUMBER or kind == b"status":
            if seq <= self._seq:
                crowd.violation(f"{self._run_id}: {id.decode()} came after seq {self._seq}")
            self._event(kind, data)
            self._seq = seq
        elif kind == b"reset":
            crowd.violation(f"{self._run_id}: {data.decode()}")
        elif kind == b"live":
            self._failures = 0
        elif kind == b"stream_end":
            crowd.counts["ends"] += 1
            self._over = b'"final":true' in data
        self._last_id = id

    def _event(self, kind: bytes, data: bytes) -> None:
        if kind == b"status":
            total = TOTAL.search(data)
            if total is not None and int(total[1]) != self._number:
                self._crowd.violation(f"{self._run_id} ended with {total[1].decode()} events, and {self._number} came")
            return
        found = NUMBER[kind].search(data)
        number = int(found[1]) if found else -1
        if number != self._number + 1:
            self._crowd.violation(f"{self._run_id}: event {number} came after {self._number}")
        self._number = number

    def over(self) -> None:
        """204: nothing more will come."""
        self._over = True


class Stream(asyncio.Protocol):
    """One connection."""

    def __init__(self, member: Member) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._member = member
        self._head: bytes | None = b""
        self._chunks = Chunks()
        self._text = b""
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self._head = None
            if not self._is_stream(head):
                return
        self._text += self._chunks.feed(data)
        *blocks, self._text = self._text.split(b"\n\n")
        for block in blocks:
            found = BLOCK.search(block)
            if found is not None:
                id = block[block.index(b"id: ") + 4 : block.index(b"\nevent: ")]
                self._member.take(int(found[1]), id, found[2], found[3])

    def _is_stream(self, head: bytes) -> bool:
        status = head[9:12]
        if status == b"200":
            return True
        if status == b"204":
            self._member.over()
        else:
            self._member._crowd.counts[f"refused {status.decode()}"] += 1
            if status not in (b"503", b"429"):
                self._member._crowd.violation(f"refused: {head[:200]!r}")
        assert self._transport is not None
        self._transport.close()
        return False


async def main(port: int, count: int, seed: str) -> None:
    crowd = Crowd(port, seed)
    reader = asyncio.StreamReader(limit=1024 * 1024)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    members = [asyncio.create_task(Member(crowd).stay(n / ARRIVALS_PER_SECOND)) for n in range(count)]
    telling = asyncio.create_task(tell(crowd))
    while line := await reader.readline():
        crowd.runs = json.loads(line)
    crowd.leaving = True
    for task in (telling, *members):
        task.cancel()
    for result in await asyncio.gather(telling, *members, return_exceptions=True):
        if isinstance(result, Exception):
            crowd.violation(f"a reader failed: {result!r}")
    say(crowd)


async def tell(crowd: Crowd) -> None:
    while True:
        await asyncio.sleep(1.0)
        say(crowd)


def say(crowd: Crowd) -> None:
    print(json.dumps({"open": crowd.open, "counts": crowd.counts, "violations": crowd.violations}), flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
