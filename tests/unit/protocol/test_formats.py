import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.protocol.control import (
    CONTROL_TYPES,
    BadMessage,
    Bookmark,
    Control,
    Gap,
    Hello,
    Live,
    Pong,
    Reset,
    StreamEnd,
)
from shared.protocol.formats import Format, MessagePackFormat, NdjsonFormat, SseFormat, WebSocketFormat
from shared.protocol.record import Record
from shared.protocol.sse import SseDecoder
from tests.unit.protocol.sample import record

CONTROLS: list[Control] = [
    Hello(epoch="e", head=9, oldest=1, after=3, resumed=True, heartbeat_seconds=15, filter={"a": "ü"}, server="x"),
    Live(replayed=3),
    Bookmark(),
    Gap(from_seq=1, to_seq=5, dropped=2, by_type={"log": 2}, backfill="/x?a=1&b=2"),
    Reset(reason="epoch_changed", requested="e-1", oldest=1, head=2),
    StreamEnd(status=None, reason="terminal", final=True, last_id="e-9"),
    Pong(),
    BadMessage(detail='what "is" this'),
]

Frame = tuple[str | None, Any]


def read_sse(message: bytes) -> list[Frame]:
    frames: list[Frame] = []
    for each in SseDecoder().decode(message):
        event = json.loads(each.data)
        assert each.event in (event["type"], "message")
        frames.append((each.id, event))
    return frames


def read_array(frames: list[dict[str, Any]]) -> list[Frame]:
    for frame in frames:
        assert frame.keys() <= {"id", "event"}
    return [(frame.get("id"), frame["event"]) for frame in frames]


def read_websocket(message: bytes) -> list[Frame]:
    return read_array(json.loads(message))


def read_msgpack(message: bytes) -> list[Frame]:
    return read_array(msgspec.msgpack.decode(message))


def read_ndjson(message: bytes) -> list[Frame]:
    assert message.endswith(b"\n")
    return read_array([json.loads(line) for line in message.split(b"\n")[:-1]])


FORMATS: list[tuple[Format, Callable[[bytes], list[Frame]]]] = [
    (SseFormat(), read_sse),
    (SseFormat(primary="log"), read_sse),
    (WebSocketFormat(), read_websocket),
    (MessagePackFormat(), read_msgpack),
    (NdjsonFormat(), read_ndjson),
]
each_format = pytest.mark.parametrize(("format", "read"), FORMATS, ids=lambda value: type(value).__name__)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
RECORDS = st.lists(
    st.builds(
        lambda type, value: record(1, type, data=msgspec.json.encode({"type": type, "value": value})),
        st.sampled_from(["log", "status"]),
        VALUES,
    ),
    min_size=1,
    max_size=5,
).map(lambda records: [msgspec.structs.replace(each, seq=seq) for seq, each in enumerate(records, start=41)])


@each_format
@given(records=RECORDS)
def test_every_format_says_the_same_of_events(
    format: Format, read: Callable[[bytes], list[Frame]], records: list[Record]
) -> None:
    expected = [(f"k3f9a2-{each.seq}", json.loads(each.data)) for each in records]
    assert read(format.records("k3f9a2", records)) == expected
    assert read(format.join([format.records("k3f9a2", [each]) for each in records])) == expected


@each_format
@pytest.mark.parametrize("frame", CONTROLS, ids=lambda frame: type(frame).__name__)
def test_every_format_says_the_same_of_control_frames(
    format: Format, read: Callable[[bytes], list[Frame]], frame: Control
) -> None:
    ((id, event),) = read(format.control("e-7", frame))
    assert event == {"type": event["type"], **msgspec.to_builtins(frame)}
    assert event["type"] in CONTROL_TYPES
    assert id == ("e-7" if frame.has_id or isinstance(format, SseFormat) else None)


@each_format
def test_events_and_control_frames_join_in_order(format: Format, read: Callable[[bytes], list[Frame]]) -> None:
    parts = [
        format.records("e", [record(1), record(2)]),
        format.control("e-4", CONTROLS[3]),
        format.records("e", [record(5)]),
    ]
    assert [id for id, _ in read(format.join(parts))] == ["e-1", "e-2", "e-4", "e-5"]
    assert format.join(parts[:1]) == parts[0]


def test_the_primary_type_has_no_event_line_and_all_else_has() -> None:
    records = [record(1, "log", data=b"{}"), record(2, "status", data=b"{}")]
    assert SseFormat(primary="log").records("e", records) == (
        b"id: e-1\ndata: {}\n\n" + b"id: e-2\nevent: status\ndata: {}\n\n"
    )
    from_a_database = "".join(["l", "og"])  # equal, and another object
    assert SseFormat(primary="log").records("e", [record(1, from_a_database, data=b"{}")]) == b"id: e-1\ndata: {}\n\n"
    assert SseFormat().records("e", records[:1]) == b"id: e-1\nevent: log\ndata: {}\n\n"
    assert SseFormat(primary="log").control("e-2", Bookmark()) == (
        b'id: e-2\nevent: bookmark\ndata: {"type":"bookmark"}\n\n'
    )


@pytest.mark.parametrize("format", [WebSocketFormat("a"), MessagePackFormat("a")])
def test_on_a_multiplexed_connection_every_frame_carries_its_ref(format: Format) -> None:
    decode = json.loads if isinstance(format, WebSocketFormat) else msgspec.msgpack.decode
    message = format.join([format.records("e", [record(1), record(2)]), format.control("e-2", Pong())])
    assert [frame["ref"] for frame in decode(message)] == ["a"] * 3


@given(st.text(st.characters(codec="utf-8")))
def test_a_ref_may_be_any_text(ref: str) -> None:
    ((frame),) = json.loads(WebSocketFormat(ref).control("e-2", Pong()))
    assert frame == {"ref": ref, "event": {"type": "pong"}}


def test_the_events_own_json_is_sent_byte_for_byte() -> None:
    data = b'{"type":"log","f":1.0,"u":"\\u00e9","big":123456789012345678901234567890}'
    for format in (SseFormat(), WebSocketFormat(), NdjsonFormat()):
        assert data in format.records("e", [record(1, data=data)])


@pytest.mark.parametrize("number", ["18446744073709551616", "-9223372036854775809", "1" + "0" * 400, "1e400"])
def test_a_number_that_messagepack_cannot_hold_is_no_reason_to_fail(number: str) -> None:
    # the fan-out writes for everybody: an exception in one reader's format would end it for all
    data = b'{"type":"log","n":%b}' % number.encode()
    ((_, event),) = read_msgpack(MessagePackFormat().records("e", [record(1, data=data)]))
    assert event["type"] == "log"


@pytest.mark.parametrize(
    ("number", "told"),
    [
        ("18446744073709551615", 2**64 - 1),
        ("18446744073709551616", "18446744073709551616"),
        ("-9223372036854775808", -(2**63)),
        ("-9223372036854775809", "-9223372036854775809"),
        ("99999999999999999999", "99999999999999999999"),
        ("1" + "0" * 5000, "1" + "0" * 5000),
        ("7", 7),
    ],
)
def test_beside_a_number_that_is_text_for_messagepack_only_such_are_text(number: str, told: object) -> None:
    data = b'{"n":%b,"beyond":%b}' % (number.encode(), b"9" * 30)
    ((_, event),) = read_msgpack(MessagePackFormat().records("e", [record(1, data=data)]))
    assert event == {"n": told, "beyond": "9" * 30}


def test_equal_formats_are_one_key_so_that_readers_share_the_bytes() -> None:
    assert len({SseFormat(), SseFormat(), SseFormat("log"), WebSocketFormat(), WebSocketFormat("a")}) == 4
    assert len({WebSocketFormat(), MessagePackFormat(), NdjsonFormat()}) == 3
