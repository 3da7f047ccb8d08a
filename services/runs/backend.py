"""What the handlers of the runs service work with."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from services.runs.executor import Executor
from services.runs.housekeeping import LOOK_SECONDS, QueueBell
from services.runs.lifecycle import Lifecycle
from services.runs.model import Run
from services.runs.sessions import Sessions
from services.runs.steps import Lease
from services.runs.store import RunStore
from services.runs.subscriptions import Subscriptions
from shared.channel.channel import Channel
from shared.channel.start import Start
from shared.channel.tasks import end
from shared.edge.streams import Streams
from shared.protocol.filter import Filter


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """Made once by the composition root."""

    channel: Channel
    store: RunStore
    lifecycle: Lifecycle
    executor: Executor
    subscriptions: Subscriptions
    streams: Streams
    bell: QueueBell
    sessions: Sessions
    missing_settings: Mapping[str, str]

    async def until_ended(self, tenant: str, run_id: str) -> None:
        """Wait for the end of a run, however long that takes."""
        start = Start(self.channel.state, self.channel.state.head)
        run = await self.subscriptions.require(tenant, run_id)
        if run.is_over:
            return
        async with aclosing(self.channel.follow(Filter(tenant, (run.subject,), types=("status",)), start)) as records:
            async for record in records:
                if record.ends is not None:
                    return

    async def lease(
        self, tenant: str, runners: Sequence[str], worker: str, *, wait_seconds: float, left: Awaitable[object]
    ) -> tuple[Run, str, Lease] | None:
        """Lease the oldest queued run; wait for one up to `wait_seconds`, until this process shuts down, or until the
        worker has `left`: one that is gone must not get a run.
        """
        loop = asyncio.get_running_loop()
        leaving = asyncio.ensure_future(left)
        deadline = loop.time() + wait_seconds
        try:
            while not self.streams.draining and not leaving.done():
                run_id = await self.store.oldest_queued(self.store.pool, tenant, runners)
                if run_id is not None and not leaving.done():
                    leased = await self.lifecycle.lease(run_id, worker)
                    if leased is not None:
                        return leased
                    continue  # somebody was faster; there may be another
                seconds = min(deadline - loop.time(), LOOK_SECONDS)
                if seconds <= 0:
                    break
                await self.streams.first_of(self.bell.wait(seconds), asyncio.shield(leaving), seconds=seconds)
            return None
        finally:
            await end(leaving)
