"""Whether tasks are still their readers' to see: one query per tick for all that a process streams."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable

from services.tasks.store import TaskStore
from shared.channel.log import LogUnavailable
from shared.channel.tasks import Keeper
from shared.edge import metrics

log = logging.getLogger("tailrace.tasks")

Gone = Callable[[], object]


class Visibility:
    """Looks at every watched task once in the shortest interval that a reader asked for, also when nothing changed: a
    task may be taken away past the service, and then no event tells of it.
    """

    def __init__(self, store: TaskStore) -> None:
        self._store = store
        self._watched: dict[tuple[str, str], dict[Gone, None]] = {}
        self._intervals: Counter[float] = Counter()
        self._changed = asyncio.Event()
        self._keeper = Keeper()
        self._is_blind = False

    def start(self) -> None:
        self._keeper.keep("visibility", self._run)

    async def close(self) -> None:
        await self._keeper.close()

    def failing(self) -> list[str]:
        """What does not work now."""
        return self._keeper.failing()

    def watch(self, tenant: str, task_id: str, interval_seconds: float, gone: Gone) -> Callable[[], None]:
        """`gone` is called when the tenant has the task no more. Returns what ends the watch."""
        key = (tenant, task_id)
        self._watched.setdefault(key, {})[gone] = None
        self._intervals[interval_seconds] += 1
        self._changed.set()

        def unwatch() -> None:
            watchers = self._watched[key]
            del watchers[gone]
            if not watchers:
                del self._watched[key]
            self._intervals[interval_seconds] -= 1
            if not self._intervals[interval_seconds]:
                del self._intervals[interval_seconds]

        return unwatch

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        checked = loop.time()
        while True:
            self._changed.clear()
            due = checked + min(self._intervals) if self._intervals else None
            wait = None if due is None else due - loop.time()
            if wait is None or wait > 0:
                try:  # a reader with a shorter interval may come meanwhile
                    async with asyncio.timeout(wait):
                        await self._changed.wait()
                except TimeoutError:
                    pass
                else:
                    continue
            checked = loop.time()
            await self._check()
            await asyncio.sleep(0)

    async def _check(self) -> None:
        try:
            missing = await self._store.missing(self._store.pool, tuple(self._watched))
        except LogUnavailable as error:
            if not self._is_blind:  # said once, not at each tick
                log.warning("whether tasks may still be seen is not known", extra={"error": str(error)})
            self._is_blind = True
            return
        self._is_blind = False
        metrics.VISIBILITY_CHECKS.labels("tasks").inc()
        for key in missing:
            for gone in tuple(self._watched.get(key, ())):
                gone()
