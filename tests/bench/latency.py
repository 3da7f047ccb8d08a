"""From publish to receipt: one reader here, a publisher over HTTP in another process, one clock for both."""

import socket
import statistics
import subprocess
import time
from dataclasses import dataclass
from typing import Final

from tests.bench.contenders import Contender, module
from tests.bench.process import ServerProcess

_PAUSE: Final = 0.002
_WARM: Final = 50
_TIMEOUT: Final = 60.0


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from just before the request was sent to receipt by the reader, and to its answer."""

    receipt: tuple[float, ...]
    acknowledgement: tuple[float, ...]

    @property
    def p50(self) -> float:
        """Half of the receipts came within this."""
        return statistics.median(self.receipt)

    @property
    def p99(self) -> float:
        """99 of 100 receipts came within this."""
        return statistics.quantiles(self.receipt, n=100)[98]

    @property
    def acknowledged_p50(self) -> float:
        """Half of the acknowledgements came within this."""
        return statistics.median(self.acknowledgement)


def measure_latency(contender: Contender, count: int) -> Latency:
    """Start the contender with one reader and publish `count` events one by one."""
    with ServerProcess(contender) as server, socket.create_connection(("127.0.0.1", server.port)) as reader:
        contender = server.contender
        reader.settimeout(_TIMEOUT)
        reader.sendall(contender.subscribe)
        head = b""
        while contender.ready not in head:
            head += _receive(reader)
        requests = "\n".join(contender.publish(n, 1).hex() for n in range(1, count + _WARM + 1))
        command = module("publisher", str(server.port), "1", str(_PAUSE))
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as publisher:
            try:
                assert publisher.stdin is not None
                assert publisher.stdout is not None
                publisher.stdin.write(requests)
                publisher.stdin.close()
                received = _receive_all(reader, contender, count + _WARM)
                lines = [line.split() for line in publisher.stdout.read().splitlines()]
            finally:
                publisher.terminate()
    times = [(received[int(n)], int(sent), int(done)) for n, sent, done in lines if int(n) > _WARM]
    receipts = tuple((got - sent) / 1e6 for got, sent, _ in times)
    return Latency(receipts, tuple((done - sent) / 1e6 for _, sent, done in times))


def _receive(reader: socket.socket) -> bytes:
    data = reader.recv(262_144)
    if not data:
        raise ConnectionError("the server closed the reader")
    return data


def _receive_all(reader: socket.socket, contender: Contender, count: int) -> dict[int, int]:
    """When each event number was first received, in CLOCK_MONOTONIC nanoseconds."""
    received: dict[int, int] = {}
    rest = b""
    while len(received) < count:
        data = rest + _receive(reader)
        now = time.monotonic_ns()
        end = 0
        for match in contender.number.finditer(data):
            if match.end() == len(data):
                break  # the digits may go on in the next packet
            received.setdefault(int(match[1]), now)
            end = match.end()
        rest = data[end:][-4096:]
    return received
