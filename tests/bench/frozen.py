"""What a reader that takes nothing costs the others: the time to receipt at 1,000 readers, without it and with it."""

import contextlib
import select
import socket
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tests.bench.contenders import Contender
from tests.bench.control import Control
from tests.bench.process import ServerProcess

BURST: Final = 10
FREEZING_EVENTS: Final = 4_000  # 1.6 MB: more than the kernel and the transport hold for a reader
_TIMEOUT: Final = 30.0


@dataclass(frozen=True, slots=True)
class Frozen:
    """The p99 of the others' milliseconds from publish to receipt: in rounds without the frozen reader, and with."""

    without: tuple[float, ...]
    with_one: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """With beside without: the median of the pairs, which were measured one after the other."""
        pairs = zip(self.with_one, self.without, strict=True)
        return statistics.median(with_one / without for with_one, without in pairs)


def measure_frozen(contender: Contender, readers: int, rounds: int, publishes: int) -> Frozen:
    """Alternate rounds of `publishes` bursts; the first pair warms up."""
    with ServerProcess(contender) as server, _Crowd(server, readers) as crowd:
        without, with_one = [], []
        for _ in range(rounds + 1):
            without.append(crowd.p99(publishes))
            with crowd.frozen():
                with_one.append(crowd.p99(publishes))
    return Frozen(tuple(without[1:]), tuple(with_one[1:]))


class _Crowd:
    """Readers that take what comes at once, by one epoll, and note when each burst was complete."""

    def __init__(self, server: ServerProcess, count: int) -> None:
        self._contender, self._port = server.contender, server.port
        self._control = Control(server.port)
        self._epoll = select.epoll()
        self._readers: dict[int, socket.socket] = {}
        for _ in range(count):
            connection = self._connect()
            connection.setblocking(False)
            self._readers[connection.fileno()] = connection
            self._epoll.register(connection.fileno(), select.EPOLLIN)
        self._published = 0

    def __enter__(self) -> "_Crowd":
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._readers.values():
            connection.close()
        self._control.close()
        self._epoll.close()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """One more reader, that has taken nothing for so long that the server has noticed."""
        with self._connect():
            for _ in range(FREEZING_EVENTS // 100):
                self._publish(100)
            yield

    def p99(self, publishes: int) -> float:
        """Milliseconds from just before the request was sent, over all readers and bursts."""
        times = [taken for _ in range(publishes) for taken in self._publish(BURST)]
        return statistics.quantiles(times, n=100)[98] * 1000

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self._port), timeout=_TIMEOUT)
        connection.sendall(self._contender.subscribe)
        head = b""
        while self._contender.ready not in head:
            head += connection.recv(65_536)
        return connection

    def _publish(self, burst: int) -> list[float]:
        """Publish, and collect from every reader; the seconds each took."""
        missing = dict.fromkeys(self._readers, burst)
        tails = dict.fromkeys(self._readers, b"")
        request = self._contender.publish(self._published + 1, burst)
        marker = self._contender.marker
        self._published += burst
        taken = []
        began = time.monotonic()
        self._control.send(request)
        while missing:
            for fd, _ in self._epoll.poll(_TIMEOUT, maxevents=len(self._readers)):
                data = tails[fd] + self._readers[fd].recv(65_536)
                missing[fd] -= data.count(marker)
                tails[fd] = data[1 - len(marker) :]
                if not missing[fd]:
                    del missing[fd]
                    taken.append(time.monotonic() - began)
            if time.monotonic() - began > _TIMEOUT:
                raise RuntimeError(f"{len(missing)} of {len(self._readers)} readers did not get what was published")
        self._control.receive()
        return taken
