"""The load generator: many readers on one epoll, which count events without parsing them.

It takes what has arrived only when the server has fallen quiet, so that neither its wake-ups nor its use of a
shared core, cache or socket lock enters into what the server's sends cost, as if it ran on another machine.
That adds wall time only, and CPU time is what we measure.
"""

import select
import socket
import time
from collections.abc import Sequence
from typing import Final

from tests.bench.frames import FrameWalker
from tests.bench.process import ServerProcess

_PAUSE: Final = 0.002
_BUFFER_BYTES: Final = 65_536


class Reader:
    """One connection: how many events it has received."""

    __slots__ = ("head", "seen", "socket", "tail", "walker")

    def __init__(self, connection: socket.socket, walker: FrameWalker | None) -> None:
        self.socket = connection
        self.walker = walker
        self.seen = 0
        self.tail = b""
        self.head: bytes | None = b""

    def ready_after(self, data: bytes, ready: bytes) -> bool:
        """Collect the bytes that precede live events; true once `ready` is among them."""
        assert self.head is not None
        self.head += data
        if ready not in self.head:
            return False
        if self.walker is not None:
            self.answer(self.head.partition(b"\r\n\r\n")[2])
        self.head = None
        return True

    def count(self, data: bytes, marker: bytes) -> int:
        """How many events `data` completes; a marker may have been cut by the packet before."""
        if self.walker is not None:
            self.answer(data)
        data = self.tail + data
        found = data.count(marker)
        self.tail = data[1 - len(marker) :]
        self.seen += found
        return found

    def answer(self, data: bytes) -> None:
        """Answer a WebSocket's pings."""
        assert self.walker is not None
        for pong in self.walker.feed(data):
            self.socket.send(pong)


class Readers:
    """All readers of one contender."""

    def __init__(self, server: ServerProcess) -> None:
        self.contender = server.contender
        self.server = server
        self.seen = 0
        self._epoll = select.epoll()
        self._readers: dict[int, Reader] = {}
        self._waiting = 0

    def __len__(self) -> int:
        return len(self._readers)

    def connect(self, count: int, timeout: float = 60.0) -> None:
        """Add `count` readers and return when all of them are live."""
        self.connect_with([self.contender.subscribe] * count, timeout)

    def connect_with(self, requests: Sequence[bytes], timeout: float = 60.0) -> None:
        """Add a reader per request and return when all of them are live."""
        for request in requests:
            connection = socket.create_connection(("127.0.0.1", self.server.port))
            connection.sendall(request)
            connection.setblocking(False)
            walker = FrameWalker() if self.contender.websocket else None
            self._readers[connection.fileno()] = Reader(connection, walker)
            self._epoll.register(connection.fileno(), select.EPOLLIN)
            self._waiting += 1
        deadline = time.monotonic() + timeout
        while self._waiting:
            self._pass(deadline)

    def wait(self, events: int, timeout: float = 60.0) -> None:
        """Return when every reader has received exactly `events` since the beginning."""
        deadline = time.monotonic() + timeout
        while self.seen < events * len(self):
            self._pass(deadline)
        if odd := {reader.seen for reader in self._readers.values()} - {events}:
            raise RuntimeError(f"{self.contender.name}: readers had {sorted(odd)[:5]} events, not {events}")

    def drain(self) -> None:
        """Take what has arrived meanwhile, such as heartbeats and pings."""
        for fd, _ in self._epoll.poll(0, maxevents=len(self) or 1):
            self._receive(self._readers[fd])

    def close(self) -> None:
        """Close all connections."""
        for reader in self._readers.values():
            reader.socket.close()
        self._epoll.close()

    def _pass(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            state = f"{self._waiting} of {len(self)} readers are not live, {self.seen} events came"
            raise RuntimeError(f"{self.contender.name}: {state}")
        self.server.await_quiet(_PAUSE)
        self.drain()

    def _receive(self, reader: Reader) -> None:
        data = reader.socket.recv(_BUFFER_BYTES)
        if not data:
            raise ConnectionError(f"{self.contender.name} closed a reader")
        if reader.head is None:
            self.seen += reader.count(data, self.contender.marker)
        elif reader.ready_after(data, self.contender.ready):
            self._waiting -= 1
