"""Storing what a program prints: batches from the capture buffer into the log, at the database's pace."""

import asyncio
from collections import deque
from datetime import UTC, datetime

from msgspec import Struct

from services.previews.capture import CaptureBuffer, Captured, CaptureLimits
from services.previews.events import SCHEMA, Log
from services.previews.logs import Kept
from services.previews.pipe import FLUSH_SECONDS, Pipe
from shared.channel.channel import Channel
from shared.channel.log import Outcome, Rows, Transaction
from shared.channel.reader import patiently
from shared.protocol.record import Draft

BATCH_LINES, BATCH_BYTES = 4_000, 1024 * 1024
TAIL_LINES = 30  # what a preview that failed shows of its output
HASTE_BYTES = 512 * 1024  # what a service that leaves still stores of each preview's output
PRODUCER = "capture"
SLOW_LINES_PER_SECOND = 10.0
SLOW_NOTICE = "this preview has printed a lot: from here on only some of its lines are kept"


class Source(Struct, frozen=True):
    """Whose output it is."""

    tenant: str
    preview_id: str
    generation_id: str

    @property
    def subject(self) -> str:
        return f"preview/{self.preview_id}"


class Writer:
    """One preview's output, over all its attempts; `kept` is what was there before. `feed` never waits; a task of the
    owner's runs `run`.

    A batch is numbered, and the number is kept in its own transaction: one whose answer was lost is sent again and
    stored once.
    """

    def __init__(
        self, channel: Channel, rows: Rows, schema: str, source: Source, limits: CaptureLimits, *, kept: Kept
    ) -> None:
        self._channel = channel
        self._rows = rows
        self._s = schema
        self._source = source
        self._limits = limits
        self._buffer = CaptureBuffer(limits, kept.last_line + 1)
        self._pipes: dict[str, Pipe] = {}
        self._attempt = 1
        self._wake = asyncio.Event()
        self._storing = asyncio.Lock()  # `run` and `drain` do not take the same number for two batches
        self._flush_at: float | None = None
        self._batch: int | None = None
        self._kept = kept
        self._is_slow = False
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._slow_down_beyond()

    def begin(self, attempt: int) -> None:
        """What is fed from here on is of this attempt."""
        self._attempt = attempt
        self._pipes = {"stdout": Pipe("stdout", self._buffer), "stderr": Pipe("stderr", self._buffer)}
        self.tail.clear()

    def feed(self, stream: str, data: bytes) -> None:
        """What the program has printed."""
        self._pipes[stream].feed(data, datetime.now(UTC))
        if self._flush_at is None:  # not put off by what goes on coming
            self._flush_at = asyncio.get_running_loop().time() + FLUSH_SECONDS
        self._wake.set()

    def say(self, message: str, level: str = "INFO") -> None:
        """A line of the service's own."""
        self._buffer.put_system(message, level, datetime.now(UTC))  # type: ignore[arg-type]  # a Level
        self._wake.set()

    def close_pipes(self) -> None:
        """The program has ended: a line without an end is a line."""
        for pipe in self._pipes.values():
            pipe.close(datetime.now(UTC))
        self._pipes = {}
        self._wake.set()

    async def run(self) -> None:
        """Store what comes, until cancelled."""
        while True:
            await self._wait()
            await self._store_some()

    async def drain(self, *, in_haste: bool = False) -> None:
        """Store all that is waiting; the rate does not count any more. `in_haste`: of a flood only the end."""
        if in_haste:
            self._buffer.keep_newest(HASTE_BYTES, datetime.now(UTC))
        while self._buffer:
            self._buffer.unbound()
            await self._store_some()
        async with self._storing:
            pass  # what `run` had taken before is stored too

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            now = loop.time()
            if self._flush_at is not None and now >= self._flush_at:
                self._flush_at = None
                for pipe in self._pipes.values():
                    pipe.flush(datetime.now(UTC))
            to_take = self._buffer.seconds_to_take(datetime.now(UTC))
            if to_take == 0:
                return
            waits = [w for w in (to_take, None if self._flush_at is None else self._flush_at - now) if w is not None]
            try:
                async with asyncio.timeout(min(waits) if waits else None):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _store_some(self) -> None:
        async with self._storing:
            await self._store_next()

    async def _store_next(self) -> None:
        taken = self._buffer.take(BATCH_LINES, BATCH_BYTES, datetime.now(UTC))
        if not taken:
            await asyncio.sleep(0)
            return
        self.tail.extend(entry.message for entry in taken if not entry.partial)
        drafts = [self._draft(entry) for entry in taken]
        if self._batch is None:
            self._batch = await patiently(self._next_batch)
        number = self._batch
        await patiently(lambda: self._store(number, drafts))
        self._batch = number + 1
        self._count(drafts)

    async def _store(self, number: int, drafts: list[Draft]) -> None:
        async def change(tx: Transaction) -> Outcome[None]:
            if await self._stored_batches(tx) > number:
                return Outcome(None)
            await tx.fetch(
                f"""INSERT INTO {self._s}.producers (tenant, subject, producer, next_seq) VALUES ($1, $2, $3, $4)
                    ON CONFLICT (tenant, subject, producer) DO UPDATE SET next_seq = $4, updated_at = now()""",
                self._source.tenant,
                self._source.subject,
                PRODUCER,
                number + 1,
            )
            return Outcome(None, drafts)

        await self._channel.execute(change, size=sum(len(draft.data) for draft in drafts))

    async def _next_batch(self) -> int:
        return await self._stored_batches(self._rows)

    async def _stored_batches(self, rows: Rows) -> int:
        row = await rows.fetchrow(
            f"SELECT next_seq FROM {self._s}.producers WHERE tenant = $1 AND subject = $2 AND producer = $3",
            self._source.tenant,
            self._source.subject,
            PRODUCER,
        )
        return 0 if row is None else int(row["next_seq"])

    def _count(self, drafts: list[Draft]) -> None:
        """Beyond its bound a preview's output goes on, but slowly: what is stored of it is bounded by time."""
        self._kept = self._kept.with_more(len(drafts), sum(len(draft.data) for draft in drafts))
        self._slow_down_beyond()

    def _slow_down_beyond(self) -> None:
        limits, kept = self._limits, self._kept
        if not self._is_slow and (kept.lines > limits.stored_lines or kept.bytes > limits.stored_bytes):
            self._is_slow = True
            self._buffer.slow_down(SLOW_LINES_PER_SECOND, SLOW_NOTICE, datetime.now(UTC))

    def _draft(self, entry: Captured) -> Draft:
        source = self._source
        event = Log(
            tenant=source.tenant,
            ts=datetime.now(UTC),
            preview_id=source.preview_id,
            generation_id=source.generation_id,
            line=entry.line,
            timestamp=entry.timestamp,
            level=entry.level,
            message=entry.message,
            source=entry.source,
            stream=entry.stream,
            part=entry.part,
            last=entry.last,
            partial=entry.partial,
            attempt=self._attempt,
            dropped=entry.dropped,
        )
        return Draft(type="log", tenant=source.tenant, subject=source.subject, data=SCHEMA.encode(event))
