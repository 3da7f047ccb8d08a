"""Delivery: one connection's stream, from `hello` through history to `live` and whatever comes, until its end.

While there is nothing to wait for, no task exists for it: parked at the head, the fan-out loop calls `offer`, which
writes to the connection in place. Only what cannot be finished at once (history, a full socket, an end) gets a task,
the pump. Either the reader is parked or a pump runs, never both.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from msgspec import structs

import shared
from shared.channel.batch import Batch
from shared.channel.lanes import Lane, Sharing
from shared.channel.log import HistoryTrimmed
from shared.channel.reader import Reader, patiently
from shared.channel.start import Start
from shared.edge.admission import Subscription
from shared.edge.connection import StreamConnection, wait_writable
from shared.edge.sinks import Message, Sink
from shared.protocol.control import Bookmark, Control, Gap, Hello, Live, StreamEnd
from shared.protocol.ends import EndReason
from shared.protocol.position import MAX_SEQ, LogState, ResetReason, is_position
from shared.protocol.record import DELETED, Record

if TYPE_CHECKING:  # the registry holds deliveries, and they use its settings and counters
    from shared.edge.streams import Streams

log = logging.getLogger("tailrace.stream")

T = TypeVar("T")

BARRED = (EndReason.ACCESS_REVOKED, EndReason.TOKEN_EXPIRED)  # nothing more may be shown
STALL_SECONDS = 0.05  # a write that waited longer than this means that the socket, not this loop, is slow
SERVER = f"tailrace/{shared.__version__}"


class Delivery:
    """`say` sends the ASGI message that ends the connection; `on_end` is called once when nothing more will be sent."""

    __slots__ = (
        "_asks_the_log",
        "_closing",
        "_connection",
        "_epoch",
        "_events_sent",
        "_finished",
        "_lags",
        "_last_write",
        "_live",
        "_loop",
        "_on_end",
        "_pump",
        "_reader",
        "_say",
        "_sent_seq",
        "_sink",
        "_stalled",
        "_streams",
        "_unwatch",
        "began",
        "end",
        "format",
        "status",
        "subscription",
    )

    def __init__(
        self,
        subscription: Subscription,
        sink: Sink,
        connection: StreamConnection,
        streams: "Streams",
        *,
        say: Callable[[Message], Awaitable[None]],
        on_end: Callable[[], object] = lambda: None,
    ) -> None:
        self.subscription = subscription
        self._events_sent = 0
        self.end: EndReason | None = None
        self.status = subscription.ended
        self._sink = sink
        self.format = sink.format
        self._connection = connection
        self._streams = streams
        self._say = say
        self._on_end = on_end
        self._reader: Reader | None = None
        self._pump: asyncio.Task[None] | None = None
        self._unwatch: Callable[[], object] | None = None
        self._live = False
        self._asks_the_log = False
        self._closing = False
        self._finished = False
        self._stalled = False
        self._lags = False  # beyond its budget, and the log was told
        self._loop = asyncio.get_running_loop()
        self.began = self._last_write = self._loop.time()
        stands = subscription.where_it_stands()  # until it is sent something: the end may come before hello
        self._epoch, self._sent_seq = stands.epoch, stands.seq  # of the last id that was sent

    # ── life ───────────────────────────────────────────────────────────────────────────────────────────────────

    def open(self) -> None:
        """Begin sending."""
        self._streams.add(self)
        if self.subscription.watch is not None:
            self._unwatch = self.subscription.watch(self._revoke)
        self._start_pump(self._begin)

    async def close(self) -> None:
        """Stop at once; the owner's connection is gone or going."""
        self._closing = True
        if self._reader is not None:
            self._reader.unpark()
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait([self._pump])
        self._finish()

    def finish(self, reason: EndReason) -> None:
        """End the stream for `reason`: the client is told as soon as its socket takes it."""
        if self._finished:
            return
        if self.end is not None:
            if reason in BARRED and self.end not in BARRED:  # another end waits for room: what waits must not leave now
                self.end = reason
            return
        self.end = reason
        if self._asks_the_log and self._pump is not None:
            self._pump.cancel()  # that may take long, and nothing is half written
            self._start_pump(None)
        elif self._reader is not None:
            self._reader.rouse()

    def _revoke(self) -> None:
        """The subject is no longer the reader's to see."""
        self.finish(EndReason.ACCESS_REVOKED)

    @property
    def transport(self) -> str:
        return self._sink.transport

    def cut(self) -> None:
        """Give the connection up, when its client could not be told in time."""
        self._connection.abort()

    def _finish(self) -> None:
        if self._finished:
            return
        self._finished = True
        if self._unwatch is not None:
            self._unwatch()
        if self._reader is not None:
            self._reader.close()
        self._streams.remove(self)
        self._on_end()

    # ── parked at the head ─────────────────────────────────────────────────────────────────────────────────────

    def offer(self, batch: Batch) -> bool:
        """Send without waiting if possible; else a pump goes on where the send had to wait."""
        connection = self._connection
        if batch.ends is not None or not connection.is_writable:
            self._start_pump(partial(self._deliver, batch))
            return False
        if batch.count:
            self._count(batch)
            connection.write(batch.render(self.format, self.render))
        return True

    # ── in a lane, which writes to the connection and counts for it meanwhile ──────────────────────────────────

    @property
    def send(self) -> Callable[[bytes], int]:
        return self._connection.send_now

    def write(self, rest: bytes) -> None:
        self._connection.write(rest)

    def joined(self, lane: Lane) -> None:
        self._events_sent -= lane.events
        self._connection.on_full = self._reader.rouse if self._reader is not None else None

    def left(self, lane: Lane) -> None:
        self._connection.on_full = None
        self._events_sent += lane.events
        self._sent_seq = max(self._sent_seq, lane.last_seq)
        self._last_write = max(self._last_write, lane.last_write)

    @property
    def events_sent(self) -> int:
        return self._events_sent + (0 if self._lane is None else self._lane.events)

    @property
    def sent_seq(self) -> int:
        """Of the last id that was sent."""
        return self._sent_seq if self._lane is None else max(self._sent_seq, self._lane.last_seq)

    @property
    def last_write(self) -> float:
        return self._last_write if self._lane is None else max(self._last_write, self._lane.last_write)

    @property
    def last_id(self) -> str:
        return f"{self._epoch}-{self.sent_seq}"

    @property
    def lag_bytes(self) -> int:
        """What is pending for it, once it is live."""
        return 0 if self._reader is None or self._lane is not None else self._reader.lag_bytes

    @property
    def _lane(self) -> Lane | None:
        return None if self._reader is None else self._reader.lane

    def wake(self) -> None:
        if self._pump is None or self._pump.done():
            self._start_pump(None)

    def beat(self, now: float) -> None:
        """Say "still here", or how far the log has been seen when the filter hid what was new."""
        reader = self._reader
        if reader is None or not (reader.parked or self._asks_the_log) or not self._connection.is_writable:
            return
        if reader.parked:
            if reader.has_news:
                return  # the fan-out is about to come to it: a bookmark would jump over what it brings
            reader.position = max(reader.position, self.subscription.channel.state.head)
        moved = reader.parked and reader.position > self.sent_seq
        if moved:
            self._sent_seq = reader.position
        self._say_still_here(now, moved=moved)

    def _say_still_here(self, now: float, *, moved: bool) -> None:
        payload = None if moved else self._sink.heartbeat()
        if payload is None:
            payload = self._sink.format.control(f"{self._epoch}-{self.sent_seq}", Bookmark())
        self._last_write = now
        self._connection.write(self._sink.wire(payload))

    def fail(self, error: Exception) -> None:
        """What it was offered could not be sent."""
        log.error("a stream failed", exc_info=error)
        self._connection.abort()

    # ── the pump ───────────────────────────────────────────────────────────────────────────────────────────────

    def _start_pump(self, first: "Callable[[], Awaitable[None]] | None") -> None:
        self._pump = self._loop.create_task(self._run(first), name="pump")

    async def _run(self, first: "Callable[[], Awaitable[None]] | None") -> None:
        try:
            if first is not None:
                await first()
            if await self._drain():
                return
            await self._say_goodbye()
        except _SlowReader:
            self.end = EndReason.SLOW_READER
            self._connection.abort()
        except Exception as error:
            if not self._closing and not isinstance(error, OSError):  # uvicorn's ClientDisconnected is an OSError
                log.error("a stream failed", exc_info=error)
            self._connection.abort()
        self._finish()

    async def _begin(self) -> None:
        start = await self._ask(patiently, self.subscription.start)
        self._streams.count_start(start)
        if self.subscription.begins_with_current(start):
            await self._begin_with_current(start, hello=True)
            return
        self._read_from(start)
        await self._say_hello(start.after, start)
        if start.reset is not None:
            await self._control(start.after, start.reset_frame())

    def _read_from(self, start: Start) -> None:
        subscription = self.subscription
        if self._reader is not None:
            self._reader.close()
        self._reader = Reader(
            subscription.channel,
            subscription.filter,
            start,
            lossless=subscription.lossless,
            history=subscription.history,
        )

    async def _begin_with_current(self, start: Start, *, hello: bool) -> None:
        """Send the newest event of each key in place of history, and go on from the head they were the newest at.

        Each frame's id is such that whoever is cut off after it and resumes there gets what is missing.
        """
        current = self.subscription.current
        assert current is not None
        page = await self._ask(patiently, partial(current, 0, MAX_SEQ))
        if start.resumed and page.state.epoch != start.state.epoch:  # what it has seen was of another log
            requested = f"{start.state.epoch}-{start.after}"
            start = Start(page.state, page.state.start, reset=ResetReason.EPOCH_CHANGED, requested=requested)
        head, seen = page.state.head, start.after if start.resumed else 0
        after = start.after if start.resumed else page.records[0].seq - 1 if page.records else head
        self._read_from(Start(page.state, head))
        if hello:
            await self._say_hello(after, structs.replace(start, state=page.state, after=after))
        if start.reset is not None:
            await self._control(after, structs.replace(start, state=page.state).reset_frame())
        if self.subscription.filter.ends_with_subject:
            self.status = None  # as the page has it, not as it was when it was looked up
            if not page.records:
                self.end = EndReason.ACCESS_REVOKED  # it was there a moment ago
        while page.records and self.end is None and page.state.epoch == self._epoch:  # else it is stale, and is reset
            for records in _portions(page.records, self.subscription.channel.limits.batch_bytes):
                await self._deliver(self._batch(page.state.epoch, records, seen))
            page = await self._ask(patiently, partial(current, page.records[-1].seq, head))

    def _batch(self, epoch: str, records: Sequence[Record], seen: int) -> Batch:
        shown = self.subscription.filter
        news = [record for record in records if record.seq > seen and shown.shows(record)]
        end = next((r for r in records if r.ends is not None), None) if shown.ends_with_subject else None
        return Batch(epoch, seen, max(seen, records[-1].seq), news, end=end)

    async def _drain(self) -> bool:
        """Send all there is. True: parked at the head. False: the stream is to end."""
        while self.end is None:
            reader = self._reader
            assert reader is not None
            if not self._live and not reader.is_history:
                await self._go_live(reader.position)
                if self.status is not None:
                    self.end = EndReason.TERMINAL
                continue
            if reader.stale:
                await self._start_over()
                continue
            lagging = self._stalled and reader.over_budget
            if lagging and not self._lags:
                self._lags = True
                self._streams.tell_lag(self)
            try:
                batch = await self._ask(reader.read, lagging) if reader.behind else reader.take(lagging=lagging)
            except HistoryTrimmed:
                await self._start_over()
                continue
            batch = batch or self._overdue()
            if batch is None and not self._connection.is_writable:
                await self._wait_for_room()
            elif batch is None:
                self._stalled = self._lags = False
                reader.park(self, self._sharing())  # in the same step as the take: nothing can come between them
                return True
            else:
                await self._deliver(batch)
            await asyncio.sleep(0)  # a fast socket and a long history would keep everybody else waiting
        return False

    async def _ask(self, question: Callable[..., Awaitable[T]], *args: object) -> T:
        """Ask the log. Meanwhile nothing is being written, so heartbeats and an end may go out."""
        self._asks_the_log = True
        try:
            return await question(*args)
        finally:
            self._asks_the_log = False

    async def _deliver(self, batch: Batch) -> None:
        if batch.ends == DELETED:
            self.end = self.end or EndReason.ACCESS_REVOKED  # and not a word about it
            return
        if batch.conflated:
            self._streams.count_conflated(batch.conflated)
        if batch.items:
            await self._wait_for_room()
            if self.end in BARRED:
                return  # meanwhile it has become none of the reader's business
            self._count(batch)
            self._connection.write(batch.render(self.format, self.render))
        if batch.ends is not None:
            self.status = batch.ends
            if not self._live:
                await self._go_live(batch.upto)
            self.end = self.end or EndReason.TERMINAL

    def _sharing(self) -> Sharing | None:
        """This, when it is written to as its neighbours are."""
        return self if self._sink.shares else None

    def _overdue(self) -> Batch | None:
        """What was held back and may go out now."""
        return None

    async def _go_live(self, seq: int) -> None:
        """What was sent so far is history."""
        self._live = True
        await self._control(seq, Live(replayed=self.events_sent))

    async def _start_over(self) -> None:
        assert self._reader is not None
        start = await self._ask(self._reader.restart)
        self._streams.count_start(start)
        if self.subscription.begins_with_current(start):
            await self._begin_with_current(start, hello=False)
        else:
            await self._control(start.after, start.reset_frame())

    async def _say_goodbye(self) -> None:
        assert self.end is not None
        reason, retry = self.end, None
        if not reason.final:
            retry = self._streams.jittered_retry()
        last_id = self.last_id
        status = None if reason is EndReason.ACCESS_REVOKED else self.status
        frame = StreamEnd(status=status, reason=reason.label, final=reason.final, last_id=last_id, retry_after_ms=retry)
        await self._write(self._sink.wire(self._sink.format.control(last_id, frame)))
        message = self._sink.farewell(reason)
        if message is not None:
            async with asyncio.timeout(self._streams.settings.slow_reader_seconds):
                await self._say(message)

    # ── writing ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _say_hello(self, seq: int, start: Start) -> None:
        """Where a reset follows, its id is the position that was asked for: whoever is cut off between the two asks for
        that again, and is told of the reset again.
        """
        assert self._reader is not None
        self._epoch, self._sent_seq = self._reader.epoch, seq
        position = f"{self._epoch}-{seq}"
        if start.reset is not None and is_position(start.requested):
            position = start.requested
        await self._write(self._sink.wire(self._sink.format.control(position, self._hello(start))))

    async def _control(self, seq: int, frame: Control) -> None:
        assert self._reader is not None
        self._epoch, self._sent_seq = self._reader.epoch, seq
        await self._write(self._sink.wire(self._sink.format.control(f"{self._epoch}-{seq}", frame)))

    async def _write(self, wire: bytes) -> None:
        """Write when there is room. Raise what `_wait_for_room` does."""
        await self._wait_for_room()
        self._connection.write(wire)
        self._last_write = self._loop.time()

    async def _wait_for_room(self) -> None:
        """Raise _SlowReader when there is none for too long, ConnectionError when the connection is lost."""
        try:
            waited = await wait_writable(self._connection, self._streams.settings.slow_reader_seconds)
        except TimeoutError:
            raise _SlowReader from None
        if not self._connection.is_open:
            raise ConnectionResetError
        if waited > STALL_SECONDS:
            self._stalled = True

    def render(self, batch: Batch) -> bytes:
        """One message for the whole batch: runs of events, and gaps between them."""
        parts: list[bytes] = []
        run: list[Record] = []
        for item in batch.items:
            if isinstance(item, Record):
                run.append(item)
                continue
            if run:
                parts.append(self._sink.format.records(batch.epoch, run))
                run = []
            parts.append(self._gap(batch.epoch, item))
        if run:
            parts.append(self._sink.format.records(batch.epoch, run))
        return self._sink.wire(self._sink.format.join(parts))

    def _gap(self, epoch: str, gap: Gap) -> bytes:
        self._streams.count_gap(gap)
        frame = Gap(
            from_seq=gap.from_seq,
            to_seq=gap.to_seq,
            dropped=gap.dropped,
            by_type=gap.by_type,
            backfill=self.subscription.backfill(gap, epoch),
        )
        return self._sink.format.control(f"{epoch}-{gap.to_seq}", frame)

    def _count(self, batch: Batch) -> None:
        self._last_write = self._loop.time()
        self._sent_seq = batch.last_seq
        self._events_sent += batch.count

    def _hello(self, start: Start) -> Hello:
        state: LogState = start.state
        return Hello(
            epoch=state.epoch,
            head=state.head,
            oldest=state.oldest,
            after=start.after,
            resumed=start.resumed,
            heartbeat_seconds=self._streams.settings.heartbeat_seconds,
            filter=self.subscription.filter.describe(),
            server=SERVER,
        )


def jitter(milliseconds: int) -> int:
    """Within a quarter of it, so that clients that were cut off together do not come back together."""
    return round(milliseconds * random.uniform(0.75, 1.25))


def _portions(records: Sequence[Record], max_bytes: int) -> Iterator[Sequence[Record]]:
    """All of them in order, about so many bytes at a time."""
    portion: list[Record] = []
    size = 0
    for record in records:
        if portion and size + record.size > max_bytes:
            yield portion
            portion, size = [], 0
        portion.append(record)
        size += record.size
    yield portion


class _SlowReader(Exception):
    """The socket took nothing for the time allowed."""
