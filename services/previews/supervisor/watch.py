"""Looking after a running program: the memory of all its processes together, their number, and its disk."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress

from services.previews.supervisor import proc
from services.previews.supervisor.files import measure, strays
from services.previews.supervisor.order import Order

TICK_SECONDS = 0.25
DISK_SECONDS = 1.0
DESCRIPTORS = 256  # of each process, looked at for files without a name


class Watch:
    """`look` says what is beyond its limit: `memory`, `processes` or `disk`; None when nothing is."""

    def __init__(self, order: Order) -> None:
        self.members: list[int] = []
        self._order = order
        self._measuring: Iterator[int | None] | None = None
        self._measure_at = 0.0
        self._unlinked = 0

    def look(self) -> str | None:
        self.members = members(os.getpid())
        if self._order.counts_processes and len(self.members) > self._order.processes:
            return "processes"
        if self._memory() > self._order.memory_bytes:
            return "memory"
        return "disk" if self._disk() > self._order.disk_bytes else None

    def is_measuring(self) -> bool:
        return self._measuring is not None

    def _memory(self) -> int:
        # Pages that several share count for each of them; only if that is too much, look closer.
        total = sum(proc.resident_bytes(pid) for pid in self.members)
        if total > self._order.memory_bytes:
            total = sum(proc.proportional_bytes(pid) for pid in self.members)
        return total

    def _disk(self) -> int:
        now = time.monotonic()
        if self._measuring is None:
            if now < self._measure_at:
                return 0
            places = [*self._order.measured, *strays(self._order.uid)]
            self._measuring = measure(places, self._order.disk_bytes)
            self._unlinked = sum(proc.unlinked_bytes(pid, DESCRIPTORS) for pid in self.members)
        found = next(self._measuring, 0)
        if found is None:
            return 0
        self._measuring, self._measure_at = None, time.monotonic() + DISK_SECONDS
        return found + self._unlinked


def members(pid: int) -> list[int]:
    """The processes below this one, as its threads list their children; quicker than reading all of /proc.

    One that is orphaned while we look may be missed; that is for the next look.
    """
    if not os.path.exists(f"/proc/{pid}/task/{pid}/children"):
        return [process.pid for process in proc.descendants(pid)]
    found: list[int] = []
    below = [pid]
    while below:
        place = f"/proc/{below.pop()}/task"
        with suppress(OSError):
            for thread in os.listdir(place):
                with suppress(OSError), open(f"{place}/{thread}/children", "rb") as file:
                    children = [int(number) for number in file.read().split()]
                found += children
                below += children
    return found
