"""Admission: what a request for a stream or for events asks for, checked before the first byte goes out."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import quote

from litestar import Request, WebSocket
from litestar.connection import ASGIConnection
from msgspec import Meta, Struct, structs

from shared.channel.channel import Channel
from shared.channel.start import Start
from shared.edge.problems import BadInput, Gone
from shared.protocol.control import Gap
from shared.protocol.errors import MalformedPosition
from shared.protocol.filter import Filter
from shared.protocol.position import MAX_SEQ, Anchor, LogState, Position, ResetReason, parse_after
from shared.protocol.record import Record
from shared.protocol.schema import Schema

LISTS = ("run", "types")  # parameters that may be repeated
STREAM_PARAMETERS = ("after", "types", "lossless", "on_reset")
POLL_PARAMETERS = ("after", "until", "types", "limit", "wait", "on_reset")

Connection: TypeAlias = ASGIConnection[Any, Any, Any, Any]
AnyRequest: TypeAlias = Request[Any, Any, Any]
AnyWebSocket: TypeAlias = WebSocket[Any, Any, Any]


class Malformed(Struct, frozen=True):
    """A Last-Event-ID that is no position: its client cannot help it, so it is told to start over."""

    text: str


@dataclass(frozen=True, slots=True)
class CurrentPage:
    """The newest event of each key, in the order of the log, as one snapshot of the database saw them."""

    records: tuple[Record, ...]
    state: LogState


Current: TypeAlias = Callable[[int, int], Awaitable[CurrentPage]]
"""Called with two seqs: the next of the newest events above the first and not above the second; none when all were
told. Those that were replaced meanwhile are missing: their successors lie above the second."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How a stream of snapshots is slowed down: at most one per interval, and an end after so many of them."""

    interval_seconds: float
    max_ticks: int | None


Watch: TypeAlias = Callable[[Callable[[], object]], Callable[[], object]]
"""Is told what to call when the subject is no longer the reader's to see; returns what ends the watch."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """What somebody is to be sent.

    `arrived` is the log as this process knew it before the subject was looked up, so that `now` cannot lie after an
    end that the look-up did not see. `ended` is the subject's terminal status if it was over already. `primary` is the
    stream's primary type. `events_url` is the polling twin. `history` shows what is replayed, where that is less.
    `current` tells the newest event of each key: what a reset is followed by, and, if `jumps`, what the stream begins
    with. `pace` is that of a stream of snapshots. `watch` notices that the subject was taken away.
    `is_resumed`: a position is the client's own, not one that the service has chosen for it.
    """

    channel: Channel
    filter: Filter
    requested: Position | Anchor | Malformed
    arrived: LogState
    events_url: str
    on_reset: Literal["reset", "error"] = "reset"
    lossless: bool = False
    primary: str | None = None
    ended: str | None = None
    history: Filter | None = None
    current: Current | None = None
    jumps: bool = False
    pace: Pace | None = None
    watch: Watch | None = None
    is_resumed: bool = True

    def begins_with_current(self, start: Start) -> bool:
        """Whether the newest event of each key is sent, in place of what lies between `start` and the head."""
        return self.current is not None and (self.jumps or start.reset is not None)

    async def start(self) -> Start:
        """Where it begins. Raise Gone when that needs a reset and the client asked for an error; LogUnavailable."""
        if isinstance(self.requested, Malformed):
            state = await self.channel.ask()
            start = Start(state, state.start, reset=ResetReason.UNKNOWN_POSITION, requested=self.requested.text)
        elif self.ended is not None:
            # its end may be newer than what this process has heard: the database knows
            start = await self.channel.resolve(self._from_arrival(), ask=True)
        elif self.requested is Anchor.NOW:
            start = Start(self.arrived, self.arrived.head)
        else:
            start = await self.channel.resolve(self.requested)
        if not self.is_resumed:
            start = structs.replace(start, resumed=False)
        if start.reset is not None and self.on_reset == "error":
            raise gone(start)
        return start

    def _from_arrival(self) -> Position | Anchor:
        if self.requested is Anchor.NOW:
            return Position(self.arrived.epoch, self.arrived.head)
        assert not isinstance(self.requested, Malformed)
        return self.requested

    async def has_nothing_more(self) -> bool:
        """Whether the subject has ended and nothing that the filter shows lies after the position: then 204."""
        if self.ended is None or (self.jumps and not isinstance(self.requested, Position)):
            return False
        start = await self.start()
        if start.reset is not None:
            return await self._is_past_the_end(start)
        after = start.after
        while after < start.state.head:
            page = await self.channel.read(self.filter, after, limit=100)
            if any(self.filter.shows(record) for record in page.records):
                return False
            after = max(page.scanned_to, after + 1)
        return True

    async def _is_past_the_end(self, start: Start) -> bool:
        """Whether the subject's newest event lies at the position or before it, though history was trimmed there: else
        who has seen the end of what ended long ago would be sent it at every return.
        """
        if start.reset is not ResetReason.HISTORY_TRIMMED or self.current is None:
            return False
        assert isinstance(self.requested, Position)
        return not (await self.current(self.requested.seq, MAX_SEQ)).records

    def where_it_stands(self) -> Position:
        """The position of a client that has been sent nothing yet."""
        if isinstance(self.requested, Position):
            return self.requested
        state = self.arrived
        return Position(state.epoch, state.head if self.requested is Anchor.NOW else state.start)

    def backfill(self, gap: Gap, epoch: str) -> str:
        """The URL that returns what a gap stands for."""
        joint = "&" if "?" in self.events_url else "?"
        types = f"&types={quote(','.join(self.filter.types), safe=',*')}" if self.filter.types else ""
        return f"{self.events_url}{joint}after={epoch}-{gap.from_seq - 1}&until={epoch}-{gap.to_seq}{types}"


class Ask(Struct, frozen=True):
    """What the request for a stream says of itself, whoever the subject is."""

    requested: Position | Anchor | Malformed
    is_default: bool
    types: tuple[str, ...] | None
    lossless: bool
    on_reset: Literal["reset", "error"]

    @classmethod
    def of(
        cls,
        connection: Connection,
        schema: Schema,
        default: Anchor,
        *,
        follow: "Follow | None" = None,
        on_reset: Literal["reset", "error"] = "reset",
    ) -> "Ask":
        """From a request's header and parameters, or from a `follow` message. Raise BadInput, ProtocolError."""
        if follow is not None:
            requested: Position | Anchor | Malformed = default if follow.after is None else parse_after(follow.after)
            is_default = follow.after is None
            types, lossless = follow.types, follow.lossless
            on_reset = follow.on_reset
        else:
            requested = requested_position(connection, default)
            is_default = not has_position(connection)
            given = "types" in connection.query_params
            types, lossless = list_parameter(connection, "types") if given else None, flag(connection, "lossless")
            on_reset = "error" if choice(connection, "on_reset", ("reset", "error"), on_reset) == "error" else "reset"
        if types is not None and not types:
            raise BadInput(f"types is empty; name some of {', '.join(schema.names)}, or leave it out for all")
        return cls(requested, is_default, None if types is None else schema.select(types), lossless, on_reset)

    def from_position(self, position: Position | Anchor) -> "Ask":
        """The same, from a position that the service chose."""
        return structs.replace(self, requested=position)

    def subscribe(
        self,
        channel: Channel,
        filter: Filter,
        arrived: LogState,
        events_url: str,
        *,
        primary: str | None = None,
        ended: str | None = None,
        endless: bool = False,
        history: Filter | None = None,
        current: Current | None = None,
        jumps: bool = False,
        pace: Pace | None = None,
        watch: Watch | None = None,
    ) -> Subscription:
        """The subscription. `endless`: the stream goes on whatever becomes of its subjects."""
        return Subscription(
            channel,
            structs.replace(filter, endless=endless),
            self.requested,
            arrived,
            events_url,
            on_reset=self.on_reset,
            lossless=self.lossless,
            primary=primary,
            ended=ended,
            history=history,
            current=current,
            jumps=jumps,
            pace=pace,
            watch=watch,
            is_resumed=not self.is_default,
        )


class Follow(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="follow"):
    """A WebSocket message: begin a stream whose frames carry `ref`. `channel` is `run/run_01j…`, `runs` and so on."""

    ref: Annotated[str, Meta(min_length=1, max_length=100)]
    channel: Annotated[str, Meta(max_length=500)]
    after: str | None = None
    types: list[str] | None = None
    lossless: bool = False
    on_reset: Literal["reset", "error"] = "reset"


def gone(start: Start) -> Gone:
    """The refusal that stands for a reset."""
    state = start.state
    return Gone(
        f"continuity from {start.requested!r} cannot be proved ({start.reset}): read the state anew and follow from "
        f"after=start or from {state.epoch}-{state.head}",
        reason=start.reset,
        requested=start.requested,
        epoch=state.epoch,
        oldest=state.oldest,
        head=state.head,
    )


def has_position(connection: Connection) -> bool:
    """Whether the client says where it stands."""
    return bool(connection.headers.get("last-event-id", "").strip()) or "after" in connection.query_params


def requested_position(connection: Connection, default: Anchor) -> Position | Anchor | Malformed:
    """The header Last-Event-ID, else the parameter `after`, else `default`. Raise MalformedPosition for `after`."""
    header = connection.headers.get("last-event-id", "").strip()
    if header:
        try:
            return parse_after(header)
        except MalformedPosition:
            return Malformed(header[:100])
    after = connection.query_params.get("after")
    return default if after is None else parse_after(after)


def flag(connection: Connection, name: str) -> bool:
    """A parameter that is 1 or 0, true or false. Raise BadInput."""
    value = connection.query_params.get(name, "0").lower()
    if value not in ("0", "1", "true", "false"):
        raise BadInput(f"{name} is {value!r}; give 1 or 0")
    return value in ("1", "true")


def choice(connection: Connection, name: str, allowed: Sequence[str], default: str) -> str:
    """A parameter with a few values. Raise BadInput."""
    value = connection.query_params.get(name, default)
    if value not in allowed:
        raise BadInput(f"{name} is {value!r}; give {' or '.join(allowed)}")
    return str(value)


def number(connection: Connection, name: str, default: float, lowest: float, highest: float) -> float:
    """A number within bounds. Raise BadInput."""
    text = connection.query_params.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not lowest <= value <= highest:
        raise BadInput(f"{name} is {text[:40]!r}; give a number from {lowest:g} to {highest:g}")
    return value


def whole_number(connection: Connection, name: str, default: int, lowest: int, highest: int) -> int:
    """A whole number within bounds. Raise BadInput."""
    value = float(number(connection, name, default, lowest, highest))  # an int has is_integer from Python 3.12 on
    if not value.is_integer():
        raise BadInput(f"{name} is {value:g}; give a whole number from {lowest} to {highest}")
    return int(value)


def check_parameters(connection: Connection, allowed: Sequence[str]) -> None:
    """Raise BadInput for a parameter that is not known here, and for one given twice that is not a list."""
    for name in allowed:
        if name not in LISTS and len(connection.query_params.getall(name, [])) > 1:
            raise BadInput(f"{name} is given more than once")
    strange = sorted(set(connection.query_params) - set(allowed))
    if strange:
        raise BadInput(f"there is no parameter {', '.join(map(repr, strange))} here; allowed: {', '.join(allowed)}")


def list_parameter(connection: Connection, name: str) -> list[str]:
    """A parameter that may come several times or as a comma list."""
    values = connection.query_params.getall(name, [])
    return [part for value in values for part in value.split(",") if part]
