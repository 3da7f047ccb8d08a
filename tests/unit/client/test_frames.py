import json
from datetime import UTC, datetime
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.client.connection import Frame
from shared.client.errors import Unreadable
from shared.client.frames import decode
from shared.protocol import control
from shared.protocol.control import Control, encode_control
from shared.protocol.schema import Delivery, Event, Schema, UnknownEvent


class Spoken(Event, frozen=True, kw_only=True, tag="spoken"):
    delivery: ClassVar[Delivery] = Delivery.SHEDDABLE

    text: str


SCHEMA = Schema([Spoken])
TS = datetime(2026, 11, 20, tzinfo=UTC)
SPOKEN = SCHEMA.encode(Spoken(tenant="t", ts=TS, text="hello"))

FRAMES: list[Control] = [
    control.Hello(
        epoch="e", head=2, oldest=1, after=0, resumed=False, heartbeat_seconds=15, filter={"types": ["a"]}, server="s"
    ),
    control.Live(replayed=3),
    control.Bookmark(),
    control.Gap(from_seq=1, to_seq=2, dropped=2, by_type={"a": 2}, backfill="/x"),
    control.Reset(reason="epoch_changed", requested="x-1", oldest=1, head=2),
    control.StreamEnd(status="completed", reason="terminal", final=True, last_id="e-2"),
    control.Pong(),
    control.BadMessage(detail="no"),
]


def read(data: bytes, schema: Schema | None = SCHEMA) -> Any:
    return decode(Frame("e-1", data), schema)


def test_an_event_is_decoded_into_its_type() -> None:
    assert read(SPOKEN) == Spoken(tenant="t", ts=TS, text="hello")


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
@pytest.mark.parametrize("schema", [SCHEMA, None])
def test_control_frames_are_read_with_and_without_a_schema(frame: Control, schema: Schema | None) -> None:
    assert read(encode_control(frame), schema) == frame


def test_control_frames_may_have_fields_that_are_newer_than_we_are() -> None:
    assert read(b'{"type":"live","replayed":1,"more":2}') == control.Live(replayed=1)


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "unheard_of", "tenant": "t", "more": [1, 2]},
        {"type": "spoken", "tenant": "t", "ts": "2026-11-20T00:00:00Z", "text": 7},
        {"type": "spoken"},
        {"type": 7},
        {},
        {"type": "refused", "problem": {}},
    ],
)
def test_what_we_do_not_know_is_kept(fields: dict[str, Any]) -> None:
    assert read(msgspec.json.encode(fields)) == UnknownEvent(type=str(fields.get("type", "")), fields=fields)


def test_without_a_schema_everything_is_kept_as_it_came() -> None:
    assert read(SPOKEN, None) == UnknownEvent(type="spoken", fields=msgspec.json.decode(SPOKEN))


@pytest.mark.parametrize("data", [b"", b"7", b"[]", b"null", b'"x"', b"{", b"{}x", b"\xff", b'{"type":"gap"}'])
def test_what_is_no_frame_is_named(data: bytes) -> None:
    with pytest.raises(Unreadable):
        read(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=5), JSON)
def test_no_object_raises_but_a_broken_word_about_the_stream(fields: dict[str, Any], kind: Any) -> None:
    decoded = read(json.dumps({**fields, "type": kind}).encode())
    assert isinstance(decoded, UnknownEvent | Event)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_named(data: bytes) -> None:
    try:
        decoded = read(data)
    except Unreadable:
        return
    assert isinstance(decoded, UnknownEvent | Event | Control)
