"""A reader: one client's position over a channel. It owns no queue; a slow reader is simply behind."""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from shared.channel.batch import Batch, batch_of, cut
from shared.channel.lanes import Lane, Sharing
from shared.channel.log import HistoryTrimmed, LogUnavailable
from shared.channel.start import Start
from shared.protocol.filter import Filter
from shared.protocol.lag import shed
from shared.protocol.position import MAX_SEQ, ResetReason
from shared.protocol.record import Record
from shared.protocol.tail import Tail

if TYPE_CHECKING:  # the channel makes its readers, and they look back at it
    from shared.channel.channel import Channel

T = TypeVar("T")

FRAME_BYTES = 64  # about what a transport adds to an event: a batch is bounded by its wire, not by its memory
RETRY_SECONDS = (0.1, 1.0)


class Listener(Protocol):
    """What a reader's owner does while it is parked at the head."""

    def offer(self, batch: Batch) -> bool:
        """Take the batch now, without waiting. False: it was taken, but the reader is not ready for another."""
        ...

    def wake(self) -> None:
        """The reader is parked no more: ask it what is next."""
        ...

    def fail(self, error: Exception) -> None:
        """The reader is parked no more: `offer` raised this."""
        ...


class Reader:
    """Yields what its filter shows after `position`, in order, from the tail or from the log.

    Up to `live_from`, the head when it connected, everything is history; batches never cross it. Close it when done.
    """

    __slots__ = (
        "_channel",
        "_history",
        "_joined",
        "_listener",
        "_lossless",
        "_page",
        "_position",
        "_tail",
        "_undelivered",
        "epoch",
        "filter",
        "lane",
        "live_from",
        "read_bytes",
        "sharing",
    )

    def __init__(
        self,
        channel: "Channel",
        filter: Filter,
        start: Start,
        *,
        lossless: bool = False,
        history: Filter | None = None,
    ) -> None:
        self.filter = filter
        self._history = history  # shows what is replayed, where that is less than what is live
        self.lane: Lane | None = None  # which it is in, parked; then `sharing` is its owner
        self.sharing: Sharing | None = None
        self._position = start.after
        self.live_from = max(start.state.head, start.after)
        self.epoch = start.state.epoch
        self._channel = channel
        self._lossless = lossless
        self._tail: Tail | None = None
        self._joined = 0  # the head when it came to its tail; lag is counted from there,
        self.read_bytes = 0  # on the scale of the tail's total_bytes
        self._page: deque[Batch] = deque()  # the rest of a page of the log
        self._undelivered: Batch | None = None  # offered to a `next` that was cancelled
        self._listener: Listener | None = None
        channel.readers.add(self)

    @property
    def position(self) -> int:
        """How far it has come: what is up to here has been handed over, or is not wanted."""
        return self._position if self.lane is None else self.lane.position

    @position.setter
    def position(self, seq: int) -> None:
        if self.lane is None:
            self._position = seq
        else:
            self.lane.position = seq  # only further, past what is not wanted: that holds for its neighbours as well

    # ── taking ─────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def behind(self) -> bool:
        """Whether what comes next must be read from the log: it is older than the tail, or history that this process
        has not heard of yet, or shows only in part.
        """
        tail, head = self._attach(), self._channel.state.head
        if self.is_history and (self._history is not None or self.position >= head):
            return True
        return bool(self._page) or self.position < tail.floor

    @property
    def stale(self) -> bool:
        """Whether the log has begun a new epoch since this reader started."""
        return self.epoch != self._channel.state.epoch

    @property
    def is_history(self) -> bool:
        """Whether what comes next was there before the reader came."""
        return self.position < self.live_from

    @property
    def over_budget(self) -> bool:
        """Whether this live reader is so far behind that its sheddable events may go."""
        return not self._lossless and self.lag_bytes > self._channel.limits.lag_budget_bytes

    @property
    def lag_bytes(self) -> int:
        """What has come to this live reader's tail and not to the reader yet."""
        if self.is_history or self._tail is None:
            return 0
        read = self.read_bytes if self.lane is None else self.lane.read_bytes
        return self._tail.total_bytes - read

    def peek(self) -> Batch | None:
        """The next batch of the tail, None when there is none; the position stays. Only when not `behind`."""
        tail, limits = self._attach(), self._channel.limits
        bound = self.live_from if self.is_history else MAX_SEQ
        records = tail.after(self.position, bound, limits.batch_bytes, overhead=FRAME_BYTES)
        head = min(bound, self._channel.state.head)
        upto = records[-1].seq if records and records[-1].seq < tail.last_seq else max(head, self.position)
        if not records and upto == self.position:
            return None
        return self._batch(records, upto)

    @property
    def has_news(self) -> bool:
        """Whether something waits for it that its filter wants, in the tail or evicted from it already."""
        if self.behind:
            return True
        batch = self.peek()
        return batch is not None and (bool(batch.items) or batch.ends is not None)

    def take(self, *, lagging: bool = False) -> Batch | None:
        """The next batch of the tail, None at the head. `lagging`: apply the delivery classes to what is pending."""
        if lagging:
            tail, limits = self._attach(), self._channel.limits
            records = tail.after(self.position, MAX_SEQ, limits.page_bytes)
            batch = self._shed(self._batch(records, records[-1].seq)) if records else None
        else:
            batch = self.peek()
        if batch is not None:
            self.advance(batch)
        return batch

    async def read(self, lagging: bool = False) -> Batch:
        """The next batch from the log; waits while the log is away. Raise HistoryTrimmed."""
        if not self._page:
            shown = self._history if self._history is not None and self.is_history else self.filter
            batches = await patiently(lambda: self._channel.read_shared(shown, self.position))
            if self.stale or batches[0].epoch != self.epoch:
                return Batch(self.epoch, self.position, self.position, ())
            self._page.extend(batches)
        batch = self._page.popleft()
        if self.is_history and batch.upto >= self.live_from:
            self._page.clear()  # what comes after is live, and in the tail
            batch = cut(batch, self.live_from)
        if lagging:
            batch = self._shed(batch)
        self.advance(batch)
        return batch

    def advance(self, batch: Batch) -> None:
        """The batch is this reader's now: what comes next lies after it."""
        self.position = batch.upto
        if batch.upto > self._joined:
            self.read_bytes += batch.size

    async def next(self) -> Batch:
        """The next batch with anything in it; waits for it. Raise HistoryTrimmed, also when the epoch has changed."""
        while True:
            if self.stale:
                raise HistoryTrimmed("the log has begun a new epoch")
            kept, self._undelivered = self._undelivered, None
            if kept is not None:
                return kept
            batch = await self.read() if self.behind else self.take()
            if batch is None:
                batch = await self._sleep()
            if batch is not None and (batch.items or batch.ends is not None):
                return batch

    async def _sleep(self) -> Batch | None:
        sleeper = _Sleeper()
        self.park(sleeper)
        try:
            return await sleeper.woken
        except asyncio.CancelledError:
            self._undelivered = sleeper.batch  # offered before the cancellation had its turn: for whoever asks next
            raise
        finally:
            self.unpark()

    # ── parking ────────────────────────────────────────────────────────────────────────────────────────────────

    def park(self, listener: Listener, sharing: Sharing | None = None) -> None:
        """Wait at the head without a task: `listener` gets what comes. Call it in the same step as the `take` that
        returned None, or news between the two are missed.

        `sharing`: what others at its place are sent may be written for it, without asking the listener.
        """
        self._listener = listener
        if self._position > self._channel.state.head:  # it knows more of the log than this process: it is alone there
            sharing = None
        self._channel.fanout.park(self._attach(), self, sharing)

    def unpark(self) -> None:
        """Stop waiting. Harmless when not parked."""
        if self._listener is not None and self._tail is not None:
            self._channel.fanout.unpark(self._tail, self)
        self._listener = None

    @property
    def parked(self) -> bool:
        return self._listener is not None

    def deliver(self, batch: Batch) -> None:
        """Hand the parked owner a batch that lies right after its position."""
        self.advance(batch)
        listener = self._listener
        if listener is not None and not listener.offer(batch):
            self.unpark()

    def rouse(self) -> None:
        """End the parking: the owner asks for what is next by itself."""
        listener = self._listener
        if listener is not None:
            self.unpark()
            listener.wake()

    def fail(self, error: Exception) -> None:
        """Its owner could not take what it was offered."""
        listener = self._listener
        self.unpark()
        if listener is not None:
            listener.fail(error)

    def disturb(self) -> None:
        """The tails were dropped: wherever this reader waits, it has to look anew."""
        listener = self._listener
        self.unpark()
        self._detach()
        if listener is not None:
            listener.wake()

    # ── life ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def restart(self) -> Start:
        """Begin again with all that is kept, after a reset; return the new start. Waits while the log is away."""
        self.unpark()
        self._detach()
        self._undelivered = None
        requested = f"{self.epoch}-{self.position}"
        state = await patiently(self._channel.ask)
        reason = ResetReason.HISTORY_TRIMMED if state.epoch == self.epoch else ResetReason.EPOCH_CHANGED
        self.epoch, self.position, self.live_from = state.epoch, state.start, state.head
        return Start(state, state.start, reset=reason, requested=requested)

    def close(self) -> None:
        """Let go of the tail and the channel."""
        self.unpark()
        self._detach()
        self._channel.readers.discard(self)

    def _attach(self) -> Tail:
        if self._tail is None:
            self._joined = self._channel.state.head
            self._tail = self._channel.tails.open(self.filter, self._joined)
            self.read_bytes = self._tail.total_bytes
        return self._tail

    def _detach(self) -> None:
        self._page.clear()
        if self._tail is not None:
            self._channel.tails.close(self._tail)
            self._tail = None

    # ── batches ────────────────────────────────────────────────────────────────────────────────────────────────

    def _batch(self, records: Sequence[Record], upto: int) -> Batch:
        return batch_of(self.filter, self.epoch, self.position, records, upto)

    def _shed(self, batch: Batch) -> Batch:
        """What of a batch a reader that lags is still sent."""
        records = [item for item in batch.items if isinstance(item, Record)]
        items = shed(records, self._channel.schema)
        conflated = len(records) - sum(1 if isinstance(item, Record) else item.dropped for item in items)
        return Batch(batch.epoch, batch.after, batch.upto, items, size=batch.size, end=batch.end, conflated=conflated)


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask again, with a jittered back-off, for as long as the log is away."""
    delay = RETRY_SECONDS[0]
    while True:
        try:
            return await ask()
        except LogUnavailable:
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(delay * 2, RETRY_SECONDS[1])


class _Sleeper:
    """The listener of a consumer that waits in a task of its own."""

    def __init__(self) -> None:
        self.woken: asyncio.Future[Batch | None] = asyncio.get_running_loop().create_future()
        self.batch: Batch | None = None

    def offer(self, batch: Batch) -> bool:
        self.batch = batch
        if not self.woken.done():  # its task may have been cancelled and not have had its turn yet
            self.woken.set_result(batch)
        return False

    def wake(self) -> None:
        if not self.woken.done():
            self.woken.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self.woken.done():
            self.woken.set_exception(error)
