"""What the service does by itself: consuming other services' feeds in its process's turn, and asking the runs of
cancelled tasks to stop.
"""

import asyncio
import logging
from functools import partial

from services.tasks.feed import FeedConsumer
from services.tasks.owned_runs import OwnedRuns
from services.tasks.runs_feed import RUNS
from services.tasks.store import TaskStore
from shared.channel.log import LogUnavailable
from shared.channel.postgres import Turn
from shared.channel.tasks import Keeper
from shared.client import Client, ClientError, Conflict, Missing, Refused, Unreadable

log = logging.getLogger("tailrace.tasks")

LOOK_SECONDS = 0.5  # how late a run is asked to stop
AT_ONCE = 100


class Housekeeping:
    """The service's own tasks; each lives as long as the service."""

    def __init__(self, store: TaskStore, owned: OwnedRuns) -> None:
        self._store = store
        self._owned = owned
        self._keeper = Keeper()

    def consume(self, feed: FeedConsumer, turn: Turn) -> None:
        """Consume a feed whenever it is this process's turn."""
        self._keeper.keep(f"{feed.source.name} feed", partial(self._consume, feed, turn))

    def stop_runs(self, runs: Client) -> None:
        """Ask runs to stop whose tasks were cancelled."""
        self._keeper.keep("stopping runs", partial(self._stop_runs, runs))

    async def close(self) -> None:
        await self._keeper.close()

    def failing(self) -> list[str]:
        """The names of tasks that do not work now."""
        return self._keeper.failing()

    async def _consume(self, feed: FeedConsumer, turn: Turn) -> None:
        try:
            await turn.work(feed.consume)
        except LogUnavailable as error:
            log.warning("a feed waits for the database", extra={"feed": feed.source.name, "error": str(error)})

    async def _stop_runs(self, runs: Client) -> None:
        """Every replica asks, in its turn as consumer or not: asking twice is harmless."""
        while True:
            try:
                for run_id in await self._owned.to_stop(self._store.pool, AT_ONCE):
                    await self._stop(runs, run_id)
            except (LogUnavailable, ClientError) as error:
                log.warning("runs of cancelled tasks are yet to be stopped", extra={"error": str(error)})
            await asyncio.sleep(LOOK_SECONDS)

    async def _stop(self, runs: Client, run_id: str) -> None:
        try:
            answer = await runs.request("POST", f"{RUNS}/{run_id}/cancel")
            is_its_own = isinstance(answer, dict) and "run" in answer
        except (Missing, Conflict) as error:  # it is gone, or has ended: what was wanted
            is_its_own = "request_id" in error.problem
        except Refused as error:  # others may fare better
            log.warning("a run could not be asked to stop", extra={"run": run_id, "error": str(error)})
            return
        if not is_its_own:
            raise Unreadable("what answers at TAILRACE_RUNS_URL is not the runs service")
        await self._owned.asked(self._store.pool, run_id)
