"""The log's interface: what a channel needs of the place where events are kept.

LogError
├── LogUnavailable   the log cannot be reached or did not answer in time; try again
├── HistoryTrimmed   the events after a position are no longer kept
└── EventTooLarge    one event is beyond the limit
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from shared.protocol.filter import Filter
from shared.protocol.position import LogState, Position
from shared.protocol.record import Draft, Record

T = TypeVar("T")

MAX_EVENT_BYTES = 256 * 1024  # one event's JSON; a command is at most MAX_COMMAND_BYTES
MAX_COMMAND_BYTES = 4 * 1024 * 1024


class LogError(Exception):
    """Something is wrong with the log."""


class LogUnavailable(LogError):
    """The log cannot be reached now, or did not answer in time. What was being stored may or may not be stored."""


class HistoryTrimmed(LogError):
    """The events right after the position are no longer kept."""


class EventTooLarge(LogError):
    """One event's JSON, or one command's together, is beyond the limit."""


class Rows(Protocol):
    """Where rows come from: the transaction of a change, or the pool."""

    async def fetch(self, sql: str, *args: Any) -> list[Any]: ...

    async def fetchrow(self, sql: str, *args: Any) -> Any: ...


class Transaction(Rows, Protocol):
    """What a checked change works with: rows, and the place its events will get."""

    epoch: str
    next_seq: int

    async def execute(self, sql: str, *args: Any) -> object: ...


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What a change came to: its value for the caller, and the events that tell of it."""

    value: T
    drafts: Sequence[Draft] = ()


Change = Callable[[Transaction], Awaitable[Outcome[T]]]


@dataclass(frozen=True, slots=True)
class Command(Generic[T]):
    """Events to append and, optionally, a checked change of state rows that commits with them or fails alone.

    The change runs inside the transaction and serially with every other change of the same log, in any process; the
    events it returns follow `drafts`. It raises to refuse; then nothing of this command is stored. It may run twice,
    so it must have no effects outside the transaction.
    """

    drafts: Sequence[Draft] = ()
    change: Change[T] | None = None
    size: int = 0  # bytes that a change holds on to while it waits


@dataclass(frozen=True, slots=True)
class Committed(Generic[T]):
    """A command that is durable. `last` is the position of its last event, or of the head when it had none."""

    value: T
    last: Position
    records: tuple[Record, ...] = field(repr=False, default=())


@dataclass(frozen=True, slots=True)
class Page:
    """Part of the log as one snapshot saw it: the wanted events above a position, all of them up to `scanned_to`."""

    records: tuple[Record, ...]
    scanned_to: int
    state: LogState


class EventLog(Protocol):
    """One service's totally ordered, durable sequence of events."""

    async def start(self) -> LogState:
        """Make the log ready and return its state. Raise LogUnavailable."""
        ...

    async def close(self) -> None:
        """Let go of everything that `start` took."""
        ...

    async def append(self, commands: Sequence[Command[Any]]) -> list[Committed[Any] | Exception]:
        """Store a group in one transaction, in order. A command that is refused fails alone: its exception stands in
        its place. Fewer results than commands: the rest was not tried, since the transaction took long enough.
        Raise LogUnavailable when the fate of the group is unknown or nothing of it was stored.
        """
        ...

    async def read(self, filter: Filter, after: int, *, limit: int, max_bytes: int) -> Page:
        """The wanted events above `after`, at most `limit` and about `max_bytes`; bounded also in what it scans.
        Raise HistoryTrimmed, LogUnavailable.
        """
        ...

    async def state(self) -> LogState:
        """The state as the database has it now. Raise LogUnavailable."""
        ...

    def heads(self) -> AsyncIterator[LogState]:
        """News of the head from any process, for ever. May repeat itself; never ends because the log is away."""
        ...
