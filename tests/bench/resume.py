"""The resume of many readers after their server was killed: how long until all are live again, and what they missed.

While it is down another process of the same service publishes, so that everybody has something to catch up with.
"""

import re
import select
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from tests.bench.contenders import Contender
from tests.bench.control import Control
from tests.bench.process import ServerProcess

BEFORE: Final = 20
MEANWHILE: Final = 100
AFTER: Final = 20
_FRAME: Final = re.compile(rb"id: (\S+)\n(?:event: \S+\n)?data: (\{.*\})\n\n")
_TIMEOUT: Final = 120.0


@dataclass(frozen=True, slots=True)
class Resume:
    """`starting_seconds` until the new server listened, `seconds` from then until the last reader was live again."""

    readers: int
    starting_seconds: float
    seconds: float
    lost: int
    repeated: int


class _Reader:
    """One client: what it has been sent, and the last id."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.last_id = b""
        self.is_live = False
        self._rest = b""

    def take(self, data: bytes, number: re.Pattern[bytes]) -> None:
        data = self._rest + data
        end = 0
        for frame in _FRAME.finditer(data):
            self.last_id = frame[1]
            if found := number.search(frame[2]):
                self.numbers.append(int(found[1]))
            elif b'"type":"live"' in frame[2]:
                self.is_live = True
            end = frame.end()
        self._rest = data[end:]


class _Crowd:
    """All clients, on one epoll."""

    def __init__(self, count: int) -> None:
        self.readers = [_Reader() for _ in range(count)]
        self._open: dict[int, tuple[socket.socket, _Reader]] = {}
        self._epoll = select.epoll()

    def connect(self, port: int, contender: Contender) -> None:
        """Everybody at once; who has been here before comes with its last id."""
        for reader in self.readers:
            reader.is_live, reader._rest = False, b""
            connection = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT)
            request = contender.subscribe
            if reader.last_id:
                request = request.replace(b"?after=now", b"").replace(
                    b"\r\n\r\n", b"\r\nLast-Event-ID: %b\r\n\r\n" % reader.last_id
                )
            connection.sendall(request)
            connection.setblocking(False)
            self._open[connection.fileno()] = connection, reader
            self._epoll.register(connection.fileno(), select.EPOLLIN)

    def await_live(self, contender: Contender) -> None:
        self._until(lambda reader: reader.is_live, contender)

    def await_number(self, number: int, contender: Contender) -> None:
        self._until(lambda reader: bool(reader.numbers) and reader.numbers[-1] >= number, contender)

    def leave(self) -> None:
        """The server is gone: what came until then counts."""
        for fd, (connection, _) in self._open.items():
            self._epoll.unregister(fd)
            connection.close()
        self._open.clear()

    def _until(self, done: Callable[[_Reader], bool], contender: Contender) -> None:
        deadline = time.monotonic() + _TIMEOUT
        waiting = {fd for fd, (_, reader) in self._open.items() if not done(reader)}
        while waiting:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{len(waiting)} of {len(self.readers)} readers did not get what was published")
            for fd, _ in self._epoll.poll(1.0, maxevents=len(self._open)):
                connection, reader = self._open[fd]
                data = connection.recv(262_144)
                if not data:
                    raise ConnectionError("the server closed a reader")
                reader.take(data, contender.number)
                if done(reader):
                    waiting.discard(fd)


def measure_resume(contender: Contender, readers: int) -> Resume:
    """Kill the server of so many readers without warning, publish meanwhile, and start another."""
    crowd, number = _Crowd(readers), 0

    def publish(control: Control, count: int) -> int:
        for before in range(number, number + count, 10):
            control.request(worker.publish(before + 1, 10))
        return number + count

    with ServerProcess(contender) as first, ServerProcess(replace(contender, set_up=None)) as other:
        worker = first.contender
        crowd.connect(first.port, worker)
        crowd.await_live(worker)
        control = Control(first.port)
        number = publish(control, BEFORE)
        crowd.await_number(number, worker)
        number = publish(control, BEFORE)  # which some readers have got and others have not
        control.close()
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
        crowd.leave()
        elsewhere = Control(other.port)
        number = publish(elsewhere, MEANWHILE)
        began = time.monotonic()
        with ServerProcess(replace(contender, set_up=None)) as again:
            listening = time.monotonic()
            crowd.connect(again.port, worker)
            crowd.await_live(worker)
            live = time.monotonic()
            number = publish(elsewhere, AFTER)
            crowd.await_number(number, worker)
        elsewhere.close()
    every = set(range(1, number + 1))
    lost = sum(len(every - set(reader.numbers)) for reader in crowd.readers)
    repeated = sum(len(reader.numbers) - len(set(reader.numbers)) for reader in crowd.readers)
    return Resume(readers, listening - began, live - listening, lost, repeated)
