"""What the service does by itself: hearing of queued and cancelled runs, taking queued ones, sweeping lost leases."""

import asyncio
import logging
from contextlib import aclosing

from msgspec import json

from services.runs.executor import Executor
from services.runs.lifecycle import Lifecycle
from services.runs.model import Run
from services.runs.steps import Lease
from services.runs.store import RunStore
from shared.channel.channel import Channel
from shared.channel.log import HistoryTrimmed, LogUnavailable
from shared.channel.tasks import Keeper
from shared.protocol.filter import Filter
from shared.protocol.position import Anchor

log = logging.getLogger("tailrace.runs")

STATUSES = Filter(tenant=None, types=("status",))
LOOK_SECONDS = 1.0  # how late a queued run is noticed when nobody told of it


class QueueBell:
    """Rings when there may be a queued run."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def ring(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    async def wait(self, seconds: float) -> None:
        """Until it rings, at most `seconds`."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await asyncio.wait([future], timeout=seconds)
        finally:
            self._waiting.discard(future)


class Housekeeping:
    """The service's own tasks; each lives as long as the service."""

    def __init__(
        self, channel: Channel, store: RunStore, lifecycle: Lifecycle, executor: Executor, bell: QueueBell
    ) -> None:
        self._channel = channel
        self._store = store
        self._lifecycle = lifecycle
        self._executor = executor
        self._bell = bell
        self._keeper = Keeper()

    def start(self) -> None:
        for name, work in (("statuses", self._hear), ("queue", self._take), ("sweeper", self._sweep)):
            self._keeper.keep(name, work)

    async def close(self) -> None:
        await self._keeper.close()

    def failing(self) -> list[str]:
        """The names of tasks that do not work now."""
        return self._keeper.failing()

    async def _hear(self) -> None:
        """Other processes' news, by the log itself: a run was queued, or is to stop."""
        while True:
            start = await self._channel.resolve(Anchor.NOW)
            try:
                async with aclosing(self._channel.follow(STATUSES, start)) as records:
                    async for record in records:
                        event = json.decode(record.data)
                        if event["status"] == "queued":
                            self._bell.ring()
                        elif event["status"] in ("cancelling", "timed_out"):
                            self._executor.cancel(event["run_id"])
            except HistoryTrimmed:
                self._bell.ring()  # a new epoch: look anew

    async def _take(self) -> None:
        """Lease queued runs for this process's own runners while it has room."""
        while True:
            try:
                taken = await self._take_one()
            except LogUnavailable:
                taken = False
            if not taken:
                await self._bell.wait(await self._pause())

    async def _pause(self) -> float:
        """Until a staggered run is due, at most LOOK_SECONDS."""
        try:
            due = await self._store.seconds_until_due(self._store.pool, tuple(self._executor.runners))
        except LogUnavailable:
            due = None
        return LOOK_SECONDS if due is None else max(0.001, min(due, LOOK_SECONDS))

    async def _take_one(self) -> bool:
        if not self._executor.reserve():
            return False
        leased = None
        try:
            run_id = await self._store.oldest_queued(self._store.pool, None, tuple(self._executor.runners))
            if run_id is not None:
                leased = await self._lease(run_id)
        finally:
            if leased is None:
                self._executor.release()
        if leased is not None:
            self._executor.start(leased[0], leased[2])
        return run_id is not None

    async def _lease(self, run_id: str) -> tuple[Run, str, Lease] | None:
        """Lease it; a shutdown in the middle waits for the answer, and gives the run back."""
        leasing = asyncio.ensure_future(self._lifecycle.lease(run_id, self._executor.name))
        try:
            return await asyncio.shield(leasing)
        except asyncio.CancelledError:
            leased = await leasing
            if leased is not None:
                await self._lifecycle.give_back(leased[0].tenant, run_id, leased[2].token)
            raise

    async def _sweep(self) -> None:
        """Every replica sweeps; the check inside the change makes one of them act."""
        while True:
            await asyncio.sleep(min(1.0, self._lifecycle.lease_seconds / 10))
            try:
                for run_id in await self._store.overdue(self._store.pool):
                    await self._sweep_one(run_id)
            except LogUnavailable as error:
                log.warning("sweeping waits for the database", extra={"error": str(error)})

    async def _sweep_one(self, run_id: str) -> None:
        try:
            await self._lifecycle.sweep(run_id)
        except LogUnavailable:
            raise
        except Exception as error:
            log.error("a run could not be swept", exc_info=error, extra={"run": run_id})
