"""Streams of snapshots: of one subject, of whose states only the newest matters, at most one per interval."""

import asyncio
from collections.abc import Callable
from typing import Any

from shared.channel.batch import Batch
from shared.edge.admission import Pace, Subscription
from shared.edge.delivery import Delivery
from shared.protocol.ends import EndReason

TIMER_SLACK_SECONDS = 0.001  # a timer may fire a clock tick early


def delivery_of(subscription: Subscription, *args: Any, **options: Any) -> Delivery:
    """The delivery that a subscription needs; the other arguments are those of Delivery."""
    kind = Delivery if subscription.pace is None else SnapshotDelivery
    return kind(subscription, *args, **options)


class SnapshotDelivery(Delivery):
    """The first change leaves at once; later ones are conflated until an interval after the last that left. What ends
    the subject never waits. While one is held, nothing may say that the log has been seen beyond it.
    """

    __slots__ = ("_allowed_at", "_held", "_pace", "_timers")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        assert self.subscription.pace is not None
        self._pace: Pace = self.subscription.pace
        self._held: Batch | None = None
        self._allowed_at = 0.0
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}

    # ── life ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _finish(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        super()._finish()

    def _revoke(self) -> None:
        self._let_go()
        super()._revoke()

    async def _go_live(self, seq: int) -> None:
        await super()._go_live(seq)
        if self._pace.max_ticks == 1 and self.status is None:
            self.end = self.end or EndReason.MAX_TICKS
        elif self._pace.max_ticks is not None:
            self._in((self._pace.max_ticks - 1) * self._pace.interval_seconds, self._last_tick)

    def _last_tick(self) -> None:
        self.finish(EndReason.MAX_TICKS)

    async def _say_goodbye(self) -> None:
        if self.end is EndReason.MAX_TICKS and self._held is not None:
            held, self._held = self._held, None
            await super()._deliver(held)
        await super()._say_goodbye()

    async def _start_over(self) -> None:
        self._let_go()
        self._allowed_at = 0.0  # what follows a reset does not wait: its reader has nothing now
        await super()._start_over()

    def _sharing(self) -> None:
        """Each has a pace of its own."""

    # ── pace ───────────────────────────────────────────────────────────────────────────────────────────────────

    def offer(self, batch: Batch) -> bool:
        newest = self._newest(batch)
        return True if self._holds(newest) else super().offer(newest)

    async def _deliver(self, batch: Batch) -> None:
        newest = self._newest(batch)
        if not self._holds(newest):
            await super()._deliver(newest)

    def _newest(self, batch: Batch) -> Batch:
        """The batch with its newest event alone: each is the whole state."""
        if batch.count < 2 or self.subscription.lossless:
            return batch
        return batch.render("newest", _newest)

    def _holds(self, batch: Batch) -> bool:
        """Whether the batch has to wait for the interval's end; it takes the place of one that waits already."""
        if not batch.items or self.subscription.lossless:
            return False
        wait = self._allowed_at - self._loop.time()
        if batch.ends is not None or wait <= TIMER_SLACK_SECONDS:
            self._let_go()
            return False
        self._held = batch
        if self._release not in self._timers:
            self._in(wait, self._release)
        return True

    def _let_go(self) -> None:
        """Forget what is held. The timer too: it would release the next that is held, before its interval is over."""
        self._held = None
        timer = self._timers.pop(self._release, None)
        if timer is not None:
            timer.cancel()

    def _release(self) -> None:
        """The interval is over. A pump that is at work comes to it by itself."""
        del self._timers[self._release]
        reader = self._reader
        if self._held is None or reader is None or not reader.parked:
            return
        if self._connection.is_writable:
            held, self._held = self._held, None
            super().offer(held)
        else:
            reader.rouse()

    def _overdue(self) -> Batch | None:
        if self._held is None or self._release in self._timers:
            return None
        held, self._held = self._held, None
        return held

    def _count(self, batch: Batch) -> None:
        super()._count(batch)
        if self._live:  # what the stream begins with is no change
            self._allowed_at = self._loop.time() + self._pace.interval_seconds

    def beat(self, now: float) -> None:
        if self._held is None:
            super().beat(now)
        elif self._reader is not None and self._reader.parked and self._connection.is_writable:
            self._say_still_here(now, moved=False)

    def _in(self, seconds: float, action: Callable[[], None]) -> None:
        self._timers[action] = self._loop.call_later(seconds, action)


def _newest(batch: Batch) -> Batch:
    return Batch(batch.epoch, batch.after, batch.upto, batch.items[-1:], size=batch.size, end=batch.end)
