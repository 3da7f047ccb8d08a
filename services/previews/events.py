"""The previews service's part of the event schema."""

from datetime import datetime
from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from services.previews.capture import Stream
from services.previews.levels import Level
from shared.protocol.schema import Delivery, Event, Schema

Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]  # what JavaScript can hold

PreviewState = Literal[
    "preparing", "starting", "running", "unhealthy", "stopping", "stopped", "exited", "failed", "lost"
]
TERMINAL = frozenset({"stopped", "exited", "failed", "lost"})
Kind = Literal["asgi", "wsgi", "static", "node", "command"]
Isolation = Literal["bubblewrap", "uid", "process"]
Source = Literal["preview", "system"]


class Exit(Struct, frozen=True, kw_only=True):
    """How the program ended: its exit code, or the signal that ended it (`SIGKILL`), never both."""

    code: int | None = None
    signal: str | None = None


class PreviewEvent(Event, frozen=True, kw_only=True, omit_defaults=True):
    """An event of one preview. `attempt` counts its starts from 1."""

    preview_id: str
    generation_id: str


class Log(PreviewEvent, frozen=True, kw_only=True, omit_defaults=True, tag="log"):
    """A line of output, one part of a long one (`part`, `last`), or a line that is still coming (`partial`).

    Pieces of a line have its `line`; a piece replaces what was partial of the same `part`. `timestamp` is when it was
    captured. `dropped` is on the system's line that stands for that many dropped ones.
    """

    delivery: ClassVar[Delivery] = Delivery.SHEDDABLE

    line: Count
    timestamp: datetime
    level: Level
    message: str
    source: Source
    stream: Stream | None  # none of the system's own lines
    part: Count
    last: bool
    partial: bool
    attempt: Count
    dropped: Count | None = None


class PreviewStatus(PreviewEvent, frozen=True, kw_only=True, omit_defaults=True, tag="preview_status"):
    """The preview is in this status now. After a terminal one only a restart follows."""

    status: PreviewState
    kind: Kind
    attempt: Count
    isolation: Isolation | None = None  # not known before it is prepared
    url: str | None = None
    exit: Exit | None = None
    ready_after_ms: Count | None = None
    message: str | None = None
    expires_at: datetime | None = None


class Ready(PreviewEvent, frozen=True, kw_only=True, omit_defaults=True, tag="ready"):
    """The program's health URL has answered: it can be opened at `url`."""

    url: str
    ready_after_ms: Count
    attempt: Count


class Deleted(PreviewEvent, frozen=True, kw_only=True, omit_defaults=True, tag="deleted"):
    """The preview is gone, and its events with it. Its last event."""


SCHEMA = Schema([Log, PreviewStatus, Ready, Deleted])
LOG_STREAM_TYPES = ("log", "preview_status", "ready")
FEED_TYPES = ("preview_status",)
