"""Group commit: what was published while the previous transaction was in flight goes into the next one."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from shared.channel.log import (
    MAX_COMMAND_BYTES,
    MAX_EVENT_BYTES,
    Command,
    Committed,
    EventLog,
    EventTooLarge,
    LogUnavailable,
)
from shared.channel.tasks import end
from shared.protocol.errors import InvalidEvent
from shared.protocol.record import Record

log = logging.getLogger("tailrace.channel")

T = TypeVar("T")

MAX_GROUP_COMMANDS = 256  # a group is one transaction: bounded so that one caller's burst delays nobody for long
MAX_QUEUE_BYTES = 64 * 1024 * 1024
MAX_QUEUE_COMMANDS = 20_000
CLOSE_SECONDS = 1.5


@dataclass(slots=True, eq=False)
class _Waiting:
    command: Command[Any]
    size: int
    done: asyncio.Future[Committed[Any]]
    since: float


class Appender:
    """The one writer of a process. `on_commit` gets each command's records, in order, before its publisher goes on, and
    when they were handed in (time.monotonic).
    """

    def __init__(self, log: EventLog, on_commit: Callable[[str, Sequence[Record], float], None]) -> None:
        self._log = log
        self._on_commit = on_commit
        self._queue: deque[_Waiting] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="appender")

    @property
    def dead(self) -> bool:
        """Whether it has ended though nobody closed it."""
        return self._task is not None and self._task.done() and not self._closing

    async def close(self) -> None:
        """Commit what was accepted, then stop; what cannot be committed in time fails, and so does what comes later."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=CLOSE_SECONDS)
            await end(self._task)
        for waiting in self._queue:
            _refuse(waiting)

    async def append(self, command: Command[T]) -> Committed[T]:
        """Resolve when the command's transaction has committed.

        Raise what its change raised, EventTooLarge, or LogUnavailable (then its fate is unknown: a publisher that
        must not repeat itself uses a producer sequence or an idempotency key).
        """
        if self._closing or self._task is None or self._task.done():
            raise LogUnavailable("this process is shutting down and takes no more events; try another or later")
        size = check_size(command)
        if len(self._queue) >= MAX_QUEUE_COMMANDS or self._queued_bytes + size > MAX_QUEUE_BYTES:
            raise LogUnavailable("too many events are waiting to be stored; try again in a moment")
        waiting = _Waiting(command, size, asyncio.get_running_loop().create_future(), time.monotonic())
        self._queue.append(waiting)
        self._queued_bytes += size
        self._wake.set()
        return await waiting.done

    async def _run(self) -> None:
        while True:
            if self._queue:
                group = self._take()
                if group:
                    await self._commit(group)
            elif self._closing:
                return
            else:
                self._wake.clear()
                await self._wake.wait()

    def _take(self) -> list[_Waiting]:
        """The next group. A command whose publisher has gone away before its turn is left out."""
        group: list[_Waiting] = []
        size = 0
        while self._queue and len(group) < MAX_GROUP_COMMANDS and size < MAX_COMMAND_BYTES:
            waiting = self._queue.popleft()
            self._queued_bytes -= waiting.size
            if not waiting.done.done():
                group.append(waiting)
                size += waiting.size
        return group

    async def _commit(self, group: list[_Waiting]) -> None:
        results: Sequence[Committed[Any] | Exception]
        try:
            results = await self._log.append([waiting.command for waiting in group])
        except asyncio.CancelledError:
            for waiting in group:
                _refuse(waiting)
            raise
        except Exception as error:  # noqa: BLE001  whatever it was, its publishers hear of it and the appender lives on
            results = [error] * len(group)
        # a group that took too long leaves the rest of it to the next one
        for waiting in reversed(group[len(results) :]):
            self._queue.appendleft(waiting)
            self._queued_bytes += waiting.size
        for waiting, result in zip(group, results, strict=False):
            if isinstance(result, Committed):
                self._tell(result, waiting.since)
                if not waiting.done.done():
                    waiting.done.set_result(result)
            elif not waiting.done.done():
                waiting.done.set_exception(result)

    def _tell(self, committed: Committed[Any], since: float) -> None:
        try:
            if committed.records:
                self._on_commit(committed.last.epoch, committed.records, since)
        except Exception as error:
            log.error("committed events could not be passed on", exc_info=error)


def _refuse(waiting: _Waiting) -> None:
    if not waiting.done.done():
        waiting.done.set_exception(LogUnavailable("the database did not answer before the shutdown"))


def check_size(command: Command[Any]) -> int:
    """The command's bytes. Raise EventTooLarge, InvalidEvent."""
    total = command.size
    for draft in command.drafts:
        total += len(draft.data)
        if "\0" in f"{draft.tenant}{draft.subject}{draft.session}{draft.worker}{draft.type}":
            raise InvalidEvent("no name in an event may hold a NUL character")
        if len(draft.data) > MAX_EVENT_BYTES:
            raise EventTooLarge(
                f"a {draft.type} event has {len(draft.data)} bytes; at most {MAX_EVENT_BYTES} are taken"
            )
    if total > MAX_COMMAND_BYTES:
        raise EventTooLarge(f"{total} bytes of events at once; at most {MAX_COMMAND_BYTES} are taken: send fewer")
    return total
