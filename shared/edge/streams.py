"""All streams of a process: their number is bounded, their heartbeats beat, and a shutdown ends them."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager

from shared.channel.start import Start
from shared.channel.tasks import Keeper, end
from shared.edge import metrics
from shared.edge.delivery import Delivery, jitter
from shared.edge.problems import Away, Busy
from shared.edge.settings import Settings
from shared.protocol.control import Gap
from shared.protocol.ends import EndReason

log = logging.getLogger("tailrace.stream")

DRAIN_SECONDS = 2.5  # of the 5 in which a service must have left


class Streams:
    """The registry of deliveries, shared by all services of the process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stopping = asyncio.Event()
        self._deliveries: dict[Delivery, None] = {}
        self._per_tenant: Counter[str | None] = Counter()
        self._empty = asyncio.Event()
        self._empty.set()
        self._keeper = Keeper()
        self._waiting = 0

    def start(self) -> None:
        self._keeper.keep("heartbeats", self._tick)

    async def close(self) -> None:
        await self._keeper.close()

    @property
    def draining(self) -> bool:
        """Whether this process is shutting down."""
        return self.stopping.is_set()

    def failing(self) -> list[str]:
        """What does not work now."""
        return self._keeper.failing()

    def __len__(self) -> int:
        return len(self._deliveries)

    def check_room(self, tenant: str | None) -> None:
        """Raise Busy or Away when one more stream would be too many."""
        if self.draining:
            raise Away("this process is shutting down; connect again", retry_after_seconds=1)
        if len(self._deliveries) >= self.settings.streams_per_process:
            raise Away("this process has as many streams as it takes; try again later", retry_after_seconds=5)
        if self._per_tenant[tenant] >= self.settings.streams_per_tenant:
            limit = self.settings.streams_per_tenant
            raise Busy(f"this tenant has {limit} streams open already; close some first", retry_after_seconds=5)

    @contextmanager
    def waiting_room(self) -> Iterator[None]:
        """For a connection that has yet to say who it is from. Raise Away when there are too many of them."""
        if self.draining:
            raise Away("this process is shutting down; connect again", retry_after_seconds=1)
        if self._waiting >= self.settings.unauthenticated_sockets:
            raise Away(
                "too many connections have yet to send their token; send it with the handshake", retry_after_seconds=5
            )
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    def add(self, delivery: Delivery) -> None:
        self._deliveries[delivery] = None
        self._per_tenant[delivery.subscription.filter.tenant] += 1
        self._empty.clear()
        metrics.READERS.labels(delivery.transport).inc()
        if self.draining:  # it was admitted just before
            delivery.finish(EndReason.SERVER_SHUTDOWN)

    def remove(self, delivery: Delivery) -> None:
        """Harmless when it was removed before. A stream's end is logged here, once."""
        if self._deliveries.pop(delivery, delivery) is delivery:
            return
        tenant = delivery.subscription.filter.tenant
        self._per_tenant[tenant] -= 1
        if not self._per_tenant[tenant]:
            del self._per_tenant[tenant]
        if not self._deliveries:
            self._empty.set()
        reason = "disconnect" if delivery.end is None else delivery.end.label
        metrics.READERS.labels(delivery.transport).dec()
        metrics.ENDS.labels(delivery.transport, reason).inc()
        log.info(
            "stream ended",
            extra={
                "reason": reason,
                "events": delivery.events_sent,
                "seconds": round(asyncio.get_running_loop().time() - delivery.began, 3),
                **_who(delivery),
            },
        )

    def tell_lag(self, delivery: Delivery) -> None:
        """Once each time that a reader falls behind by more than its budget."""
        log.warning("a reader lags", extra={"bytes": delivery.lag_bytes, **_who(delivery)})

    async def drain(self) -> None:
        """End every stream with `server_shutdown`; wait until those that can be told have been."""
        self.stopping.set()
        for delivery in tuple(self._deliveries):
            delivery.finish(EndReason.SERVER_SHUTDOWN)
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._empty.wait()
        except TimeoutError:
            log.warning("some streams could not be told of the shutdown", extra={"streams": len(self._deliveries)})
            for delivery in tuple(self._deliveries):
                delivery.cut()

    async def first_of(self, work: Awaitable[object], *others: Awaitable[object], seconds: float) -> bool:
        """Wait for `work`; False when one of `others`, the time, or a shutdown came first. Then it is cancelled."""
        working = asyncio.ensure_future(work)
        tasks = [working, *(asyncio.ensure_future(other) for other in (*others, self.stopping.wait()))]
        try:
            await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
            return working.done()
        finally:
            await end(*tasks)

    def jittered_retry(self) -> int:
        """Milliseconds after which a client should come back."""
        return jitter(self.settings.retry_milliseconds)

    # ── counting ───────────────────────────────────────────────────────────────────────────────────────────────

    def count_start(self, start: Start) -> None:
        if start.reset is not None:
            metrics.RESUMES.labels(str(start.reset)).inc()
        elif start.resumed:
            metrics.RESUMES.labels("continued").inc()

    def count_gap(self, gap: Gap) -> None:
        metrics.GAPS.labels("sheddable").inc(gap.dropped)
        for name, dropped in gap.by_type.items():
            metrics.SHED.labels(name).inc(dropped)

    def count_conflated(self, events: int) -> None:
        metrics.GAPS.labels("latest").inc(events)

    # ── time ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        beat, longest = self.settings.heartbeat_seconds, self.settings.stream_max_seconds
        while True:
            await asyncio.sleep(beat / 15)
            now = loop.time()
            behind: Counter[str] = Counter()
            furthest = 0
            for turn, delivery in enumerate(tuple(self._deliveries), start=1):
                if turn % 256 == 0:
                    await asyncio.sleep(0)
                if lag := delivery.lag_bytes:
                    behind[delivery.transport] += 1
                    furthest = max(furthest, lag)
                if longest and now - delivery.began > longest:
                    delivery.finish(EndReason.MAX_DURATION)
                elif now - delivery.last_write >= beat:
                    delivery.beat(now)
            metrics.LAG.set(furthest)
            for transport in metrics.TRANSPORTS:
                metrics.BEHIND.labels(transport).set(behind[transport])


def _who(delivery: Delivery) -> dict[str, object]:
    """Whose stream it is, of what, and where it stands: for the log, which is where names may stand."""
    wanted = delivery.subscription.filter
    return {
        "transport": delivery.transport,
        "tenant": wanted.tenant,
        "filter": wanted.describe(),
        "last_id": delivery.last_id,
    }
