"""What the handlers of the runs service work with."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from services.runs.executor import Executor
from services.runs.housekeeping import LOOK_SECONDS, QueueBell
from services.runs.lifecycle import Lease, Lifecycle
from services.runs.model import Run
from services.runs.store import RunStore
from services.runs.subscriptions import Subscriptions
from shared.channel.channel import Channel
from shared.edge.streams import Streams


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

    async def lease(
        self, tenant: str, runners: Sequence[str], worker: str, wait_seconds: float
    ) -> tuple[Run, str, Lease] | None:
        """Lease the oldest queued run; wait for one up to `wait_seconds`, or until this process shuts down."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_seconds
        while True:
            run_id = await self.store.oldest_queued(self.store.pool, tenant, runners)
            if run_id is not None:
                leased = await self.lifecycle.lease(run_id, worker)
                if leased is not None:
                    return leased
                continue  # somebody was faster; there may be another
            left = deadline - loop.time()
            if left <= 0 or self.streams.draining:
                return None
            await self.bell.wait(min(left, LOOK_SECONDS))
