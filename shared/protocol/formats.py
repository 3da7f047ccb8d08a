"""Formats: how each transport writes the same frames. Equal formats at the same position share the same bytes."""

import json
from collections.abc import Sequence
from typing import Protocol

import msgspec
from msgspec import Struct

from shared.protocol import sse
from shared.protocol.control import Control, encode_control
from shared.protocol.record import Record


class Format(Protocol):
    """Immutable and hashable; `epoch` is the log's."""

    def records(self, epoch: str, records: Sequence[Record]) -> bytes:
        """One message that carries all of `records`, in order."""
        ...

    def control(self, position: str, frame: Control) -> bytes:
        """One message that carries a control frame whose id is `position`."""
        ...

    def join(self, parts: Sequence[bytes]) -> bytes:
        """Several messages as one; `parts` is not empty."""
        ...


class SseFormat(Struct, frozen=True):
    """`text/event-stream`. Events of the `primary` type go without an `event:` line."""

    primary: str | None = None

    def records(self, epoch: str, records: Sequence[Record]) -> bytes:
        return b"".join(
            sse.frame(f"{epoch}-{record.seq}", None if record.type == self.primary else record.type, record.data)
            for record in records
        )

    def control(self, position: str, frame: Control) -> bytes:
        return sse.frame(position, frame.__struct_config__.tag, encode_control(frame))  # type: ignore[arg-type]  # our tags are str

    def join(self, parts: Sequence[bytes]) -> bytes:
        return b"".join(parts)


def json_frame(id: str | None, data: bytes, ref: str | None = None) -> bytes:
    """`{"ref": …, "id": …, "event": …}`, with the event's own JSON spliced in; `ref` and `id` only if given."""
    start = b"{" if ref is None else b'{"ref":%b,' % msgspec.json.encode(ref)
    if id is None:
        return b'%b"event":%b}' % (start, data)
    return b'%b"id":"%b","event":%b}' % (start, id.encode(), data)


def _control_id(position: str, frame: Control) -> str | None:
    return position if frame.has_id else None


class WebSocketFormat(Struct, frozen=True):
    """`tailrace.v1`: each text message is a JSON array of frames. On a multiplexed connection each carries `ref`."""

    ref: str | None = None

    def records(self, epoch: str, records: Sequence[Record]) -> bytes:
        return b"[%b]" % b",".join(json_frame(f"{epoch}-{record.seq}", record.data, self.ref) for record in records)

    def control(self, position: str, frame: Control) -> bytes:
        return b"[%b]" % json_frame(_control_id(position, frame), encode_control(frame), self.ref)

    def join(self, parts: Sequence[bytes]) -> bytes:
        return parts[0] if len(parts) == 1 else b"[%b]" % b",".join(part[1:-1] for part in parts)


class MessagePackFormat(Struct, frozen=True):
    """`tailrace.v1.msgpack`: the same arrays as binary MessagePack."""

    ref: str | None = None

    def records(self, epoch: str, records: Sequence[Record]) -> bytes:
        return _repack(WebSocketFormat(self.ref).records(epoch, records))

    def control(self, position: str, frame: Control) -> bytes:
        return _repack(WebSocketFormat(self.ref).control(position, frame))

    def join(self, parts: Sequence[bytes]) -> bytes:
        if len(parts) == 1:
            return parts[0]
        return msgspec.msgpack.encode([frame for part in parts for frame in msgspec.msgpack.decode(part)])


def _repack(message: bytes) -> bytes:
    try:
        return msgspec.msgpack.encode(msgspec.json.decode(message))
    except (OverflowError, msgspec.DecodeError):  # JSON knows no largest number
        return msgspec.msgpack.encode(json.loads(message, parse_int=_integer))


def _integer(digits: str) -> object:
    """Beyond 64 bits as the text of the digits: rather that than a wrong number."""
    number = int(digits) if len(digits) <= 20 else 2**64  # int() takes no more than 4,300
    return number if -(2**63) <= number < 2**64 else digits


class NdjsonFormat(Struct, frozen=True):
    """`application/x-ndjson`: one frame a line."""

    def records(self, epoch: str, records: Sequence[Record]) -> bytes:
        return b"".join(json_frame(f"{epoch}-{record.seq}", record.data) + b"\n" for record in records)

    def control(self, position: str, frame: Control) -> bytes:
        return json_frame(_control_id(position, frame), encode_control(frame)) + b"\n"

    def join(self, parts: Sequence[bytes]) -> bytes:
        return b"".join(parts)
