"""What a frame says: an event of the schema, or a word about the stream."""

from typing import Any

import msgspec

from shared.client.connection import Frame
from shared.client.errors import Unreadable
from shared.protocol import control
from shared.protocol.control import Control
from shared.protocol.schema import Event, Schema, UnknownEvent

_CONTROLS: dict[str, type[Control]] = {
    str(frame.__struct_config__.tag): frame
    for frame in (
        control.Hello,
        control.Live,
        control.Bookmark,
        control.Gap,
        control.Reset,
        control.StreamEnd,
        control.Pong,
        control.BadMessage,
    )
}


def decode(frame: Frame, schema: Schema | None) -> Control | Event | UnknownEvent:
    """What the frame says. Without a schema every event is an UnknownEvent. Raise Unreadable.

    Events are by far the most, so they are tried first; control types are in no schema.
    """
    try:
        if frame.data.lstrip()[:1] != b"{":
            raise Unreadable(f"a frame is no JSON object: {frame.data[:60]!r}")
        event = _unknown(frame.data) if schema is None else schema.decode(frame.data)
        if isinstance(event, UnknownEvent) and event.type in _CONTROLS:
            return msgspec.convert(event.fields, _CONTROLS[event.type])
        return event
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Unreadable(f"a frame cannot be read ({error}): {frame.data[:60]!r}") from error


def _unknown(data: bytes) -> UnknownEvent:
    fields: dict[str, Any] = msgspec.json.decode(data)
    return UnknownEvent(type=str(fields.get("type", "")), fields=fields)
