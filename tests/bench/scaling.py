"""What a delivery, an append and a read cost as there is more of everything: it should stay what it is."""

import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Final

from tests.bench.contenders import BARE, Contender
from tests.bench.history import measure_history
from tests.bench.ingest import measure_ingest
from tests.bench.measure import Bench, start
from tests.bench.process import ServerProcess
from tests.bench.readers import Readers

MOST_PUBLISHES: Final = 150  # of one sample: few readers are not worth more time

Equip = Callable[[Contender], Contender]  # gives a contender a fresh database


@dataclass(frozen=True, slots=True)
class Axis:
    """Which points are measured. The long ones are left to `make bench FULL=1`."""

    readers: tuple[int, ...] = (10, 100, 1_000, 10_000)
    subjects: tuple[int, ...] = (1, 10, 100, 1_000)
    writers: tuple[int, ...] = (1, 4, 16, 64)
    histories: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    writer_seconds: float = 1.5
    deliveries: int = 20_000  # of one sample; at least five publishes
    samples: int = 3


SHORT: Final = Axis(
    readers=(10, 100, 1_000), subjects=(1, 10, 100), writers=(1, 8), histories=(10_000, 100_000), writer_seconds=0.7
)
LONG: Final = Axis(
    subjects=(1, 10, 100, 1_000, 10_000),
    writers=(1, 2, 4, 8, 16, 32, 64),
    histories=(1_000, 10_000, 100_000, 1_000_000, 10_000_000),
)


@dataclass(frozen=True, slots=True)
class Series:
    """One line of the page: what grows, what it costs, and the words for both."""

    name: str
    grows: str
    costs: str
    points: tuple[tuple[float, float], ...]
    why: str = ""  # where it is not flat


def measure_scaling(contender: Contender, equip: Equip, axis: Axis) -> list[Series]:
    """All series, one after the other."""
    return [
        *_readers(contender, equip, axis),
        _subjects(contender, equip, axis),
        *_writers(contender, equip, axis),
        _processes(contender, equip, axis),
        *_histories(contender, equip, axis),
    ]


def _readers(contender: Contender, equip: Equip, axis: Axis) -> list[Series]:
    costs, memory, bare = [], [], []
    for count in axis.readers:
        bench = start(equip(contender), count)
        try:
            costs.append((count, _cost(bench, axis)))
            memory.append((count, bench.kilobytes_per_reader))
        finally:
            bench.close()
        beside = start(BARE, count)
        try:
            bare.append((count, _cost(beside, axis)))
        finally:
            beside.close()
    grows, cost = "readers of one subject", "µs of server CPU a delivery"
    why = (
        "a publish costs about a millisecond however many read it, which few readers share among them; of many readers "
        "not even the kernel's part fits into the caches, as the bare loop shows"
    )
    return [
        Series("more readers", grows, cost, tuple(costs), why),
        Series("more readers, a bare loop of sends", grows, cost, tuple(bare)),
        Series("more readers, memory", grows, "KB a reader", tuple(memory)),
    ]


def _subjects(contender: Contender, equip: Equip, axis: Axis) -> Series:
    """A thousand readers of one run, beside so many other subjects with a reader each that nobody publishes to."""
    points = []
    for count in axis.subjects:
        bench = start(equip(contender), 1_000)
        idle = Readers(bench.server)
        try:
            paths = (b"/api/v1/sessions/s%d/stream?after=now" % number for number in range(count - 1))
            idle.connect_with([bench.contender.subscribe.replace(_path(bench.contender), path) for path in paths])
            points.append((count, _cost(bench, axis)))
        finally:
            idle.close()
            bench.close()
    return Series("more subjects", "subjects with readers", "µs of server CPU a delivery", tuple(points))


def _path(contender: Contender) -> bytes:
    return contender.subscribe.split(b" ", 2)[1]


def _writers(contender: Contender, equip: Equip, axis: Axis) -> list[Series]:
    points = []
    for size in (100, 1):
        line = []
        for count in axis.writers:
            ingest = measure_ingest(equip(contender), axis.writer_seconds, workers=count, batch=size)
            line.append((count, 1e6 / ingest.per_core))
        points.append(tuple(line))
    costs = "µs of server CPU an event stored"
    return [
        Series("more writers, batches of 100", "writers at once", costs, points[0]),
        Series("more writers, single events", "writers at once", costs, points[1], "what waits shares a transaction"),
    ]


def _processes(contender: Contender, equip: Equip, axis: Axis) -> Series:
    """A thousand readers behind one process, and behind two on one database: what both use together."""
    alone = start(equip(contender), 1_000)
    try:
        points = [(1.0, _cost(alone, axis))]
    finally:
        alone.close()
    with ExitStack() as stack:
        bench = start(equip(contender), 500)
        stack.callback(bench.close)
        other = ServerProcess(replace(bench.contender, set_up=None))
        stack.callback(other.stop)
        readers = Readers(other)
        stack.callback(readers.close)
        readers.connect(500)
        points.append((2.0, _cost(bench, axis, also=readers)))
    why = "the other process reads from the log what this one has just written"
    return Series("more processes", "processes", "µs of server CPU a delivery", tuple(points), why)


def _histories(contender: Contender, equip: Equip, axis: Axis) -> list[Series]:
    unbounded = replace(contender, env={**contender.env, "TAILRACE_RETENTION_EVENTS": "0"})
    found = measure_history(equip(unbounded), axis.histories)
    grows = "events in the log"
    return [
        Series(
            "a longer history, replayed",
            grows,
            "µs of server CPU an event",
            tuple((each.events, each.replay_microseconds) for each in found),
        ),
        Series(
            "a longer history, published to",
            grows,
            "µs of server CPU an event",
            tuple((each.events, each.publish_microseconds) for each in found),
        ),
    ]


def _cost(bench: Bench, axis: Axis, also: Readers | None = None) -> float:
    """Microseconds per delivery of single events, the median of a few samples."""
    readers = len(bench.readers) + (0 if also is None else len(also))
    publishes = min(MOST_PUBLISHES, max(5, axis.deliveries // readers))
    costs = []
    for _ in range(axis.samples + 1):  # the first warms up
        before = _cpu(bench, also)
        for _ in range(publishes):
            bench.publish(1)
            if also is not None:
                also.wait(bench.published)
        costs.append((_cpu(bench, also) - before) / publishes / readers * 1e6)
    return statistics.median(costs[1:])


def _cpu(bench: Bench, also: Readers | None) -> float:
    return bench.server.cpu_seconds() + (0.0 if also is None else also.server.cpu_seconds())
