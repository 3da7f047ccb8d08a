"""What the service does by itself: consuming the runs feed when it is this process's turn, and asking the runs of
cancelled tasks to stop.
"""

import asyncio
import logging

from services.tasks.owned_runs import OwnedRuns
from services.tasks.runs_feed import RUNS, RunsFeed
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

    def __init__(self, store: TaskStore, owned: OwnedRuns, client: Client, feed: RunsFeed, turn: Turn) -> None:
        self._store = store
        self._owned = owned
        self._client = client
        self._feed = feed
        self._turn = turn
        self._keeper = Keeper()

    def start(self) -> None:
        self._keeper.keep("runs feed", self._consume)
        self._keeper.keep("stopping runs", self._stop_runs)

    async def close(self) -> None:
        await self._keeper.close()

    def failing(self) -> list[str]:
        """The names of tasks that do not work now."""
        return self._keeper.failing()

    async def _consume(self) -> None:
        try:
            await self._turn.work(self._feed.consume)
        except LogUnavailable as error:
            log.warning("the runs feed waits for the database", extra={"error": str(error)})

    async def _stop_runs(self) -> None:
        """Every replica asks, in its turn as consumer or not: asking twice is harmless."""
        while True:
            try:
                for run_id in await self._owned.to_stop(self._store.pool, AT_ONCE):
                    await self._stop(run_id)
            except (LogUnavailable, ClientError) as error:
                log.warning("runs of cancelled tasks are yet to be stopped", extra={"error": str(error)})
            await asyncio.sleep(LOOK_SECONDS)

    async def _stop(self, run_id: str) -> None:
        try:
            answer = await self._client.request("POST", f"{RUNS}/{run_id}/cancel")
            is_its_own = isinstance(answer, dict) and "run" in answer
        except (Missing, Conflict) as error:  # it is gone, or has ended: what was wanted
            is_its_own = "request_id" in error.problem
        except Refused as error:  # others may fare better
            log.warning("a run could not be asked to stop", extra={"run": run_id, "error": str(error)})
            return
        if not is_its_own:
            raise Unreadable("what answers at TAILRACE_RUNS_URL is not the runs service")
        await self._owned.asked(self._store.pool, run_id)
