"""Background tasks: each has an owner, is restarted when it fails, and can be ended in bounded time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger("tailrace.tasks")

END_SECONDS = 1.0
PAUSE_SECONDS = 1.0


async def end(*tasks: "asyncio.Task[object] | asyncio.Task[None] | None") -> None:
    """Cancel and await tasks. One that will not end in time is left behind, and the log says so."""
    running = [task for task in tasks if task is not None and not task.done()]
    for task in running:
        task.cancel()
    if running:
        _, stuck = await asyncio.wait(running, timeout=END_SECONDS)
        for task in stuck:
            log.error("a task did not end when it was told to", extra={"task": task.get_name()})


class Keeper:
    """Runs tasks that must live as long as their owner: what they raise is logged, and they begin again."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        self._failing: set[str] = set()

    def keep(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work` again and again until `close`."""
        self._tasks.append(asyncio.create_task(self._run(name, work), name=name))

    async def close(self) -> None:
        await end(*self._tasks)

    def failing(self) -> list[str]:
        """The names of those that failed and have not got going again."""
        return sorted(self._failing)

    async def _run(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            since = loop.time()
            healthy = loop.call_later(PAUSE_SECONDS * 2, self._failing.discard, name)
            try:
                await work()
            except Exception as error:
                self._failing.add(name)
                log.error("a background task failed and begins again", exc_info=error, extra={"task": name})
            finally:
                healthy.cancel()
            await asyncio.sleep(max(0.0, PAUSE_SECONDS - (loop.time() - since)))
