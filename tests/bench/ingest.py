"""Durable ingest: workers that append batches to runs of their own, as fast as they are answered."""

import threading
import time
from dataclasses import dataclass
from typing import Final

from tests.bench.contenders import Contender
from tests.bench.control import Control
from tests.bench.process import ServerProcess

WORKERS: Final = 8
BATCH: Final = 100


@dataclass(frozen=True, slots=True)
class Ingest:
    """Events stored, the seconds it took, and the server's CPU seconds meanwhile (its database's are not in it)."""

    events: int
    seconds: float
    cpu_seconds: float

    @property
    def per_core(self) -> float:
        """Events per second of server CPU."""
        return self.events / self.cpu_seconds

    @property
    def per_second(self) -> float:
        """Events per second as it was, with the database and the workers on the same cores."""
        return self.events / self.seconds


def measure_ingest(contender: Contender, seconds: float, workers: int = WORKERS, batch: int = BATCH) -> Ingest:
    """Start the contender and append for so long, after a tenth of that to warm up."""
    with ServerProcess(contender) as server:
        assert contender.set_up is not None
        crew = [_Worker(contender.set_up(contender, server.port), server.port, batch) for _ in range(workers)]
        for worker in crew:
            worker.start()
        time.sleep(seconds / 10)
        before, began, stored = server.cpu_seconds(), time.monotonic(), sum(worker.stored for worker in crew)
        time.sleep(seconds)
        cpu, lasted = server.cpu_seconds() - before, time.monotonic() - began
        events = sum(worker.stored for worker in crew) - stored
        for worker in crew:
            worker.stop()
    return Ingest(events, lasted, cpu)


class _Worker(threading.Thread):
    def __init__(self, contender: Contender, port: int, batch: int) -> None:
        super().__init__(daemon=True)
        self.stored = 0
        self._batch = batch
        self._request = contender.publish(1, batch)
        self._control = Control(port)
        self._going = True

    def run(self) -> None:
        while self._going:
            self._control.request(self._request)
            self.stored += self._batch
        self._control.close()

    def stop(self) -> None:
        """Finish the batch in flight, then end. A refusal has ended the thread before: fewer events tell of it."""
        self._going = False
        self.join()
