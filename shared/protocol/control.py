"""Control frames: what a transport says about the stream itself. They are never stored and never filtered."""

from typing import Any, ClassVar

import msgspec
from msgspec import Struct


class Control(Struct, frozen=True, kw_only=True, tag_field="type"):
    """The root of all control frames; `type` is the tag."""

    has_id: ClassVar[bool] = True


class Hello(Control, frozen=True, kw_only=True, tag="hello"):
    """First on every stream: where it starts (`after`) and what it will carry."""

    epoch: str
    head: int
    oldest: int
    after: int
    resumed: bool
    heartbeat_seconds: float
    filter: dict[str, Any]
    server: str


class Live(Control, frozen=True, kw_only=True, tag="live"):
    """Once per connection: the `replayed` events before it are history, what follows is happening now."""

    replayed: int


class Bookmark(Control, frozen=True, kw_only=True, tag="bookmark"):
    """Everything up to this frame's id has been seen, though the filter may have hidden it."""


class Gap(Control, frozen=True, kw_only=True, tag="gap"):
    """`dropped` sheddable events from `from_seq` to `to_seq` were skipped; `backfill` is a URL that returns them."""

    from_seq: int
    to_seq: int
    dropped: int
    by_type: dict[str, int]
    reason: str = "lag"
    backfill: str = ""


class Reset(Control, frozen=True, kw_only=True, tag="reset"):
    """Continuity from `requested` cannot be proved: start over with what follows."""

    reason: str
    requested: str
    oldest: int
    head: int


class StreamEnd(Control, frozen=True, kw_only=True, tag="stream_end"):
    """Last on every stream that could still be told. `final`: do not come back."""

    status: str | None
    reason: str
    final: bool
    last_id: str
    retry_after_ms: int | None = None


class Pong(Control, frozen=True, kw_only=True, tag="pong"):
    """The answer to `{"op":"ping"}`."""

    has_id: ClassVar[bool] = False


class Authenticated(Control, frozen=True, kw_only=True, tag="authenticated"):
    """The answer to `{"op":"auth"}` on a connection that goes on: its token expires then, in unix seconds."""

    has_id: ClassVar[bool] = False
    expires_at: float | None


class BadMessage(Control, frozen=True, kw_only=True, tag="bad_message"):
    """A message from the client that could not be understood; `detail` names the fault."""

    has_id: ClassVar[bool] = False
    detail: str


CONTROL_TYPES = (
    "hello",
    "live",
    "bookmark",
    "gap",
    "reset",
    "stream_end",
    "pong",
    "authenticated",
    "bad_message",
    "refused",
)

_encoder = msgspec.json.Encoder()


def encode_control(frame: Control) -> bytes:
    """Its JSON."""
    return _encoder.encode(frame)
