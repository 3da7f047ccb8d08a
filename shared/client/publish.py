"""Publishing: events go out in order, together where they can, and are stored once however often they were sent."""

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import msgspec
from msgspec import Struct

from shared.client.client import Client
from shared.client.errors import ClientError, Conflict, Refused, Unavailable

log = logging.getLogger("tailrace.client")

MAX_EVENTS = 500  # of a request; the server takes 1,000
MAX_BYTES = 1_000_000  # of a request's events; the server takes 2 MiB unless told
BUFFER_BYTES = 4 * 1024 * 1024
_SPLIT = (400, 413, 422)  # one event may be at fault, or all together too large

Event = Mapping[str, Any] | Struct


class Published(Struct, frozen=True):
    """`position` is that of the newest event of the same request: yours lies there or before it. `cancel`: of a run's
    events, whether the run is to stop.
    """

    position: str
    cancel: bool = False


class _Answer(Struct):
    stored: int
    position: str
    next_producer_seq: int | None = None
    cancel: bool = False


class _Pending(Struct, eq=False, frozen=True):
    data: bytes
    stored: "asyncio.Future[Published]"

    @property
    def size(self) -> int:
        return len(self.data)


class _Body(Struct):
    producer: str
    producer_seq: int
    events: list[msgspec.Raw]


class Publisher:
    """Publishes to one URL, such as `/api/v1/sessions/<id>/events`, one request at a time.

    Its events are numbered under the name `producer`, from `first_seq` on, so that the server knows what it has stored
    when a request is sent again. Without a name it makes one up. To go on under a name after a restart, give the
    `next_seq` that it had. Of run events the lease's token goes into `headers` (`Tailrace-Lease`).

    While a request is under way, what is published waits for the next one. What waits is bounded by `buffer_bytes`.
    """

    def __init__(
        self,
        client: Client,
        path: str,
        producer: str | None = None,
        first_seq: int = 1,
        headers: Mapping[str, str] | None = None,
        *,
        buffer_bytes: int = BUFFER_BYTES,
        on_retry: Callable[[Unavailable], None] | None = None,
    ) -> None:
        self.producer = producer or f"publisher-{secrets.token_hex(8)}"
        self.next_seq = first_seq
        self._name = self.producer[:80]
        self._client = client
        self._path = path
        self._headers = dict(headers or {})
        self._buffer_bytes = buffer_bytes
        self._on_retry = on_retry
        self._pending: deque[_Pending] = deque()
        self._bytes = 0  # of what is pending and what is under way
        self._entrance = asyncio.Lock()  # first come, first served: who waits for room is not overtaken
        self._room = asyncio.Event()
        self._sending: asyncio.Task[None] | None = None
        self._closed = False
        self._unsure = False  # an earlier attempt at the request under way may have been carried out

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, asyncio.CancelledError):
            await self.abort()
        else:
            await self.aclose()

    async def publish(self, event: Event) -> Published:
        """Return when it is stored. Raise Refused when the server does not take it.

        Waits as long as it takes. Cancelling the wait does not take the event back.
        """
        pending = _Pending(msgspec.json.encode(event), asyncio.get_running_loop().create_future())
        async with self._entrance:
            while self._bytes and self._bytes + pending.size > self._buffer_bytes:
                self._room.clear()
                await self._room.wait()
            if self._closed:
                raise RuntimeError("this publisher is closed")
            self._pending.append(pending)
            self._bytes += pending.size
            if self._sending is None or self._sending.done():
                self._sending = asyncio.create_task(self._send_all(), name="publisher")
        return await pending.stored

    async def aclose(self) -> None:
        """Send what is pending, however long that takes; if cancelled, give it up."""
        try:
            async with self._entrance:  # after those that wait for room
                self._closed = True
            if self._sending is not None:
                await asyncio.shield(self._sending)
        except asyncio.CancelledError:
            await self.abort()
            raise

    async def abort(self) -> None:
        """Give up what is pending: whoever waits for it is cancelled. After `aclose` it does nothing."""
        self._closed = True
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait([self._sending])

    # ── sending ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _send_all(self) -> None:
        batch: Sequence[_Pending] = ()
        try:
            while self._pending:
                batch = self._next_batch()
                await self._send(batch)
                self._bytes -= sum(pending.size for pending in batch)
                self._room.set()
        except BaseException as error:  # cancelled, or a fault of ours: nobody may be left waiting
            _refuse([*batch, *self._pending], error)
            self._pending.clear()
            self._bytes = 0
            self._room.set()
            if not isinstance(error, Exception):
                raise
            log.exception("a publisher failed")

    def _next_batch(self) -> list[_Pending]:
        batch = [self._pending.popleft()]
        size = batch[0].size
        while self._pending and len(batch) < MAX_EVENTS and size + self._pending[0].size <= MAX_BYTES:
            batch.append(self._pending.popleft())
            size += batch[-1].size
        return batch

    async def _send(self, batch: Sequence[_Pending]) -> None:
        """When it returns, each event has been stored or refused. One that is refused is found by halves, so that it
        takes no others with it; what comes after it is sent after it.
        """
        self._unsure = False
        try:
            answer = await self._post(batch)
        except Refused as refusal:
            self._renumber(refusal)
            if len(batch) > 1 and refusal.status in _SPLIT:
                half = len(batch) // 2
                await self._send(batch[:half])
                await self._send(batch[half:])
            else:
                _refuse(batch, refusal)
        except ClientError as error:
            self._renumber(None)
            _refuse(batch, error)
        else:
            self._settle(batch, answer)

    async def _post(self, batch: Sequence[_Pending]) -> _Answer:
        answer = await self._client.request(
            "POST",
            self._path,
            json=_Body(self.producer, self.next_seq, [msgspec.Raw(pending.data) for pending in batch]),
            headers=self._headers,
            repeatable=True,
            patience_seconds=None,
            on_retry=self._retried,
        )
        return msgspec.convert(answer, _Answer)

    def _retried(self, trouble: Unavailable) -> None:
        self._unsure = self._unsure or trouble.may_have_happened
        if self._on_retry is not None:
            self._on_retry(trouble)

    def _settle(self, batch: Sequence[_Pending], answer: _Answer) -> None:
        """Tell who published. What was not stored though it was sent for the first time has a number that somebody
        else used before: saying that it is stored would lose it.
        """
        first = self.next_seq
        self.next_seq = answer.next_producer_seq or first + len(batch)
        lost = 0 if self._unsure else max(0, len(batch) - answer.stored)
        if lost:
            detail = (
                f"{self.producer!r} has used the numbers {first} to {first + lost - 1} before, so these events were "
                f"not stored: give each publisher a name of its own, or go on with first_seq={self.next_seq}"
            )
            _refuse(batch[:lost], Conflict(409, {"detail": detail, "expected_producer_seq": self.next_seq}))
        for pending in batch[lost:]:
            if not pending.stored.done():
                pending.stored.set_result(Published(answer.position, answer.cancel))

    def _renumber(self, refusal: Refused | None) -> None:
        """After a refusal nothing of the request is stored, and its numbers are used again, so that there is no hole.

        Not so if an earlier attempt may yet be stored: its numbers would swallow the next events. Those are sent under
        a new name.
        """
        expected = None if refusal is None else refusal.problem.get("expected_producer_seq")
        if isinstance(expected, int):
            self.next_seq = expected
        elif self._unsure or refusal is None:
            self.producer, self.next_seq = f"{self._name}/{secrets.token_hex(4)}", 1


def _refuse(batch: Sequence[_Pending], error: BaseException) -> None:
    for pending in batch:
        if pending.stored.done():
            continue
        if isinstance(error, asyncio.CancelledError):
            pending.stored.cancel()
        else:
            pending.stored.set_exception(error)
