"""Following a stream over any number of connections, without losing or repeating an event."""

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Literal, Self

from msgspec import Struct, structs

from shared.client.backoff import pause
from shared.client.connection import Connection, Cut, Frame, Open, Parameters, Target
from shared.client.credentials import Credentials
from shared.client.errors import AccessRevoked, ClientError, Gone, Unauthorized, Unavailable
from shared.client.frames import decode
from shared.protocol.control import Control, Gap, Hello, Live, Reset, StreamEnd
from shared.protocol.ends import EndReason
from shared.protocol.position import Anchor
from shared.protocol.schema import Event, Schema, UnknownEvent

log = logging.getLogger("tailrace.client")

OPEN_SECONDS = 15.0  # to connect and for each silence before `hello`
SILENT_HEARTBEATS = 2.5  # so many missed, and the connection is dead whatever the operating system thinks
SHORTEST_SILENCE_SECONDS = 1.0

Item = Event | UnknownEvent | Gap | Reset
State = Literal["connecting", "catching_up", "live", "reconnecting", "ended"]


class Plan(Struct, frozen=True):
    """What to follow, and how patiently."""

    path: str
    parameters: Parameters
    after: str | None = None
    schema: Schema | None = None
    on_reset: Literal["reset", "error"] = "reset"
    give_up_after_seconds: float | None = None
    on_state: Callable[[State], None] | None = None


class Follow(AsyncIterator[Item]):
    """One stream. Iterate it; close it with `async with` or `aclose` when leaving early.

    It yields the events, and `Gap` and `Reset` where the server says so. After each item `position` is where to go on
    from, and `live` says whether it happened now rather than before this connection. It connects again by itself;
    iteration ends when the stream does (`end` says why), or raises what `shared.client.errors` draws. One task at a
    time iterates; any may close it.

    It reads from the socket only when everything received before has been taken, so a slow consumer holds at most what
    one read brought, and the server sees it as a slow reader. When a wait is cancelled the connection is closed; a
    next call connects again and goes on where the last one stopped.
    """

    def __init__(self, plan: Plan, open: Open, credentials: Credentials) -> None:
        self.position = "" if plan.after is None or plan.after in tuple(Anchor) else plan.after
        self.live = False
        self.end: StreamEnd | None = None
        self.state: State = "connecting"
        self.trouble = ""
        self._plan = plan
        self._open = open
        self._credentials = credentials
        self._connection: Connection | None = None
        self._queue: deque[Frame] = deque()
        self._received: str | None = None
        self._said_end: StreamEnd | None = None
        self._silence_seconds = OPEN_SECONDS
        self._failures = 0
        self._asked_seconds: float | None = None
        self._alone_since: float | None = None
        self._token: str | None = None
        self._token_renewed = False
        self._closed = asyncio.Event()

    # ── for the caller ─────────────────────────────────────────────────────────────────────────────────────────

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop following; `position` stays. From another task too: whoever iterates sees the end."""
        self._closed.set()
        self._queue.clear()
        self._set_state("ended")
        await self._drop()

    async def __anext__(self) -> Item:
        while True:
            try:
                for item in self.ready():
                    return item
            except ClientError:
                await self.aclose()
                raise
            if not await self.wait():
                raise StopAsyncIteration

    def ready(self) -> Iterator[Item]:
        """Take what has been received already, without waiting: for batches. Leave the loop to keep the rest."""
        while self._queue:
            frame = self._queue.popleft()
            event = decode(frame, self._plan.schema)
            if frame.id and not (isinstance(event, Hello) and self._announces_reset(event)):
                self.position = self._received = frame.id
            if not isinstance(event, Control):
                yield event
            elif self._heed(event):
                assert isinstance(event, Gap | Reset)
                yield event

    async def wait(self) -> bool:
        """Wait until something has come, be it a heartbeat or a new connection; False when the stream is over."""
        if self._queue:
            return True
        try:
            if self.end is not None or self._closed.is_set():
                await self.aclose()
            elif self._said_end is not None:
                raise self._come_back(self._said_end)
            elif self._connection is None:
                await self._connect()
            else:
                self._queue.extend(await self._receive(self._connection))
        except Cut as cut:
            await self._lose(cut)
        except ClientError:
            await self.aclose()
            raise
        except BaseException:  # cancelled, most of all: nothing may stay open that nobody may come back to
            await self._drop()
            raise
        if self._closed.is_set():  # meanwhile, by another task
            await self._drop()
        return not self._closed.is_set()

    # ── what frames say of the stream ──────────────────────────────────────────────────────────────────────────

    def _heed(self, frame: Control) -> bool:
        """Whether the caller is to see it."""
        if isinstance(frame, Hello):
            self._silence_seconds = max(frame.heartbeat_seconds * SILENT_HEARTBEATS, SHORTEST_SILENCE_SECONDS)
            self._alone_since = None
            self._set_state("catching_up")
        elif isinstance(frame, Live):
            self.live = True
            self._failures = 0
            self._set_state("live")
        elif isinstance(frame, StreamEnd):
            self._said_end = frame
            if frame.reason == EndReason.ACCESS_REVOKED.label:
                raise AccessRevoked(404, {"detail": "access to what this stream is about has been revoked"})
            if frame.final:
                self.end = frame
        elif isinstance(frame, Reset) and self._plan.on_reset == "error":
            told = structs.asdict(frame)
            raise Gone(410, {"detail": f"continuity cannot be proved ({frame.reason})", **told})
        return isinstance(frame, Gap | Reset)

    def _announces_reset(self, hello: Hello) -> bool:
        """Whether this connection does not go on from our position, so that a reset follows. The id of such a hello is
        where that starts: cut off before the reset, and resuming from there, we would never be told of it.
        """
        return not hello.resumed and bool(self.position)

    def _come_back(self, end: StreamEnd) -> Cut:
        """The server has said that this connection is over, and when to be back."""
        self._said_end = None
        asked = None if end.retry_after_ms is None else end.retry_after_ms / 1000
        return Cut(
            f"the server ended the connection: {end.reason}",
            asked_seconds=asked,
            token_expired=end.reason == EndReason.TOKEN_EXPIRED.label,
        )

    # ── connections ────────────────────────────────────────────────────────────────────────────────────────────

    async def _connect(self) -> None:
        await self._pause()
        self._token = await self._credentials.current()
        if self._closed.is_set():
            return
        target = Target(self._plan.path, self._parameters(), self._received, self._token)
        try:
            async with asyncio.timeout(self._seconds_left(OPEN_SECONDS)):
                connection = await self._open(target)
        except TimeoutError:
            raise Cut("no answer in time") from None
        except Unauthorized:
            if self._token_renewed or not await self._credentials.renew(self._token):
                raise
            self._token_renewed = True
            return
        self._token_renewed = self.live = False
        self._silence_seconds = OPEN_SECONDS
        self._connection = connection
        if connection is None:
            self.end = StreamEnd(status=None, reason=EndReason.TERMINAL.label, final=True, last_id=self.position)
            await self.aclose()

    def _parameters(self) -> Parameters:
        if self._received is not None or self._plan.after is None:
            return self._plan.parameters
        return [*self._plan.parameters, ("after", self._plan.after)]

    async def _receive(self, connection: Connection) -> "tuple[Frame, ...]":
        try:
            async with asyncio.timeout(self._silence_seconds):
                return tuple(await connection.receive())
        except TimeoutError:
            raise Cut(f"no heartbeat for {self._silence_seconds:g} s") from None

    async def _pause(self) -> None:
        """Wait before another attempt. Raise Unavailable when there have been enough."""
        loop = asyncio.get_running_loop()
        if self._alone_since is None:
            self._alone_since = loop.time()
        if self._failures:
            seconds = self._seconds_left(pause(self._failures, random.random(), self._asked_seconds))
            self._asked_seconds = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._closed.wait()

    def _seconds_left(self, wanted: float) -> float:
        limit = self._plan.give_up_after_seconds
        if limit is None:
            return wanted
        assert self._alone_since is not None
        left = self._alone_since + limit - asyncio.get_running_loop().time()
        if left <= 0:
            raise Unavailable(f"no connection for {limit:g} s: {self.trouble or 'no answer'}")
        return min(wanted, left)

    async def _lose(self, cut: Cut) -> None:
        self.trouble = str(cut)
        self._failures += 1
        self._asked_seconds = cut.asked_seconds
        await self._drop()
        self._set_state("reconnecting")
        log.info(
            "a stream was cut and is resumed",
            extra={"path": self._plan.path, "position": self.position, "reason": self.trouble},
        )
        if cut.token_expired:
            await self._credentials.renew(self._token)

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def _set_state(self, state: State) -> None:
        if self.state in (state, "ended"):
            return
        self.state = state
        if self._plan.on_state is not None:
            self._plan.on_state(state)
