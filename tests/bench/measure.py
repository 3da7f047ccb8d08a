"""Takes the figures: CPU per delivery, memory per reader, and what the load generator itself used."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.bench.contenders import Contender
from tests.bench.control import Control
from tests.bench.process import ServerProcess
from tests.bench.readers import Readers

_BETWEEN: Final = 0.002
#: Readers that connect before memory is first read, so that what is allocated once is not counted per reader.
_FIRST_READERS: Final = 50


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure. `publishes` gives, per burst size, how often it is published per round."""

    readers: int
    rounds: int
    publishes: tuple[tuple[int, int], ...]
    latencies: int
    ingest_seconds: float
    frozen: tuple[int, int]  # pairs of rounds without and with a frozen reader, and publishes in each
    captured: tuple[int, int]  # lines that a preview's program prints at once, and one by one


FULL: Final = Plan(
    readers=1_000,
    rounds=15,
    publishes=((1, 30), (10, 8), (100, 2)),
    latencies=2_000,
    ingest_seconds=6,
    frozen=(7, 40),
    captured=(200_000, 1_000),
)
QUICK: Final = Plan(
    readers=1_000,
    rounds=4,
    publishes=((1, 20), (10, 4), (100, 1)),
    latencies=500,
    ingest_seconds=2,
    frozen=(2, 15),
    captured=(50_000, 200),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One round of one contender: microseconds of server CPU per delivery, and who used the cores."""

    microseconds: float
    server_share: float
    client_share: float
    idle_share: float


@dataclass(slots=True)
class Bench:
    """A contender that runs, with all its readers connected."""

    contender: Contender
    server: ServerProcess
    readers: Readers
    control: Control
    kilobytes_per_reader: float
    published: int = 0
    samples: dict[int, list[Sample]] = field(default_factory=dict)

    def publish(self, burst: int) -> None:
        """Publish `burst` events together and wait until every reader has them."""
        try:
            request = self.contender.publish(self.published + 1, burst)
            self.control.request(request, self.contender.answers(burst))
        except (OSError, RuntimeError) as error:
            raise RuntimeError(f"{self.contender.name}: {error}; its output:\n{self.server.output()}") from error
        self.published += burst
        self.readers.wait(self.published)

    def sample(self, burst: int, publishes: int) -> None:
        """Measure one round."""
        self.publish(burst)  # warm after the other contenders' turns
        before = _clocks(self.server)
        for _ in range(publishes):
            self.publish(burst)
            time.sleep(_BETWEEN)
        wall, server, client, idle = (b - a for a, b in zip(before, _clocks(self.server), strict=True))
        deliveries = publishes * burst * len(self.readers)
        sample = Sample(server / deliveries * 1e6, server / wall, client / wall, idle / wall)
        self.samples.setdefault(burst, []).append(sample)

    def close(self) -> None:
        """Disconnect everybody and stop the server."""
        self.control.close()
        self.readers.close()
        self.server.stop()


def start(contender: Contender, readers: int) -> Bench:
    """Start a contender and connect its readers."""
    server = ServerProcess(contender)
    try:
        crowd = Readers(server)
        crowd.connect(min(_FIRST_READERS, readers - 1))
        before, first = server.resident_bytes(), len(crowd)
        crowd.connect(readers - first)
        kilobytes = (server.resident_bytes() - before) / (readers - first) / 1024
        return Bench(server.contender, server, crowd, Control(server.port), kilobytes)
    except BaseException:
        server.stop()
        raise


def run_rounds(benches: Sequence[Bench], plan: Plan) -> None:
    """Measure all contenders in turn, round by round, so that a noisy moment hits its neighbours too."""
    for bench in benches:
        for burst, _ in plan.publishes * 2:
            _drain(benches)
            bench.publish(burst)  # the kernel's buffers grow to what is needed
    for _ in range(plan.rounds):
        for burst, publishes in plan.publishes:
            for bench in benches:
                _drain(benches)
                bench.sample(burst, publishes)


def _drain(benches: Sequence[Bench]) -> None:
    """Pings are answered in time, also of those whose turn it is not."""
    for bench in benches:
        bench.readers.drain()


def _clocks(server: ServerProcess) -> tuple[float, float, float, float]:
    """Wall, server CPU, own CPU, idle time of the machine's cores; in seconds."""
    with open("/proc/uptime") as file:
        idle = float(file.read().split()[1]) / (os.cpu_count() or 1)
    return time.monotonic(), server.cpu_seconds(), time.process_time(), idle
