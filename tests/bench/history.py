"""A long history: events of other runs, put into the log by SQL, and the events of one run spread among them."""

import asyncio
import time
from dataclasses import dataclass
from typing import Final

import asyncpg

from tests.bench.contenders import Contender
from tests.bench.control import Control
from tests.bench.process import ServerProcess

OWN: Final = 1_000  # events of the run that is read, whatever the length of the log
READS: Final = 10
PUBLISHES: Final = 200
_PART: Final = 500_000

_FILL: Final = """
INSERT INTO runs.events (seq, tenant, subject, type, data)
SELECT head + place, 'default', 'run/run_' || lpad((place / 1000)::text, 26, '0'), 'node_update',
       convert_to('{"type":"node_update","iteration":' || place || ',"snippet":"' || repeat('x', 150) || '"}', 'UTF8')
FROM runs.log, generate_series(1, $1::bigint) AS place
"""


@dataclass(frozen=True, slots=True)
class History:
    """With `events` in the log: server CPU per event replayed to one reader, and per event published."""

    events: int
    replay_microseconds: float
    replay_milliseconds: float  # of wall time, from request to `live`, for OWN events
    publish_microseconds: float


def measure_history(contender: Contender, sizes: tuple[int, ...]) -> list[History]:
    """The same run read from its start and published to, while the log about it grows."""
    url = contender.env["TAILRACE_DATABASE_URL"]
    found: list[History] = []
    with ServerProcess(contender) as server:
        worker, control = server.contender, Control(server.port)
        stored = 0
        for size in sizes:
            own = OWN // len(sizes)
            asyncio.run(_fill(url, size - stored - own))
            for first in range(len(found) * own + 1, (len(found) + 1) * own, 100):
                control.request(worker.publish(first, 100))
            stored = size
            server.await_quiet(1.0)  # it reads what others have written, and is at that for as long as it takes
            found.append(_measure(size, server, worker, control))
        control.close()
    return found


async def _fill(url: str, count: int) -> None:
    """In the log's own order and under its own counter, as one writer would have done it."""
    connection = await asyncpg.connect(url)
    try:
        while count > 0:
            part = min(count, _PART)
            async with connection.transaction():
                await connection.execute("SELECT 1 FROM runs.log FOR UPDATE")
                await connection.execute(_FILL, part, timeout=600)
                await connection.execute("UPDATE runs.log SET head = head + $1", part)
            count -= part
        await connection.execute("ANALYZE runs.events", timeout=600)
    finally:
        await connection.close()


def _measure(size: int, server: ServerProcess, worker: Contender, control: Control) -> History:
    began, before, events = time.monotonic(), server.cpu_seconds(), 0
    for _ in range(READS):
        events += _replay(server.port, worker)
    replaying, took = server.cpu_seconds() - before, time.monotonic() - began
    before = server.cpu_seconds()
    for number in range(PUBLISHES):
        control.request(worker.publish(number, 1))
    publishing = server.cpu_seconds() - before
    return History(size, replaying / events * 1e6, took / READS * 1e3, publishing / PUBLISHES * 1e6)


def _replay(port: int, worker: Contender) -> int:
    """Follow the run from its start until `live`; how many events came."""
    control = Control(port)
    try:
        return control.read_until(worker.subscribe.replace(b"?after=now", b"?after=start"), worker.ready).count(
            worker.marker
        )
    finally:
        control.close()
