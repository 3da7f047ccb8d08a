import json
import re
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.protocol.errors import InvalidEvent, UnknownTypes
from shared.protocol.schema import Delivery, Event, Schema, UnknownEvent
from tests.unit.protocol.sample import SCHEMA, TS, Log, Snapshot, Status, record

GIVEN = {"tenant": "acme", "ts": TS}

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.dictionaries(
    st.sampled_from(["type", "tenant", "ts", "line", "text", "status", "attempt", "progress"]) | st.text(max_size=4),
    JSON | st.sampled_from([*SCHEMA.names, "acme", "2026-01-02T03:04:05Z", "nan"]),
)


@given(FIELDS)
def test_reading_any_json_object_never_raises(fields: dict[str, Any]) -> None:
    event = SCHEMA.decode(json.dumps(fields, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace"))
    if isinstance(event, UnknownEvent):
        assert event.type == str(fields.get("type", ""))
        assert event.fields.keys() == fields.keys()


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b'{"type":null}',
        b'{"type":["log"]}',
        b'{"type":"from_the_future","new":1}',
        b'{"type":"log","tenant":"acme","ts":"2026-01-02T03:04:05Z"}',  # line is missing
        b'{"type":"log","tenant":"acme","ts":"2026-01-02T03:04:05Z","line":"one"}',
        b'{"type":"log","tenant":"acme","ts":"yesterday","line":1}',
    ],
)
def test_an_event_of_unknown_type_or_shape_is_kept_as_it_came(data: bytes) -> None:
    event = SCHEMA.decode(data)
    assert isinstance(event, UnknownEvent)
    assert event.fields == json.loads(data)


def test_a_number_beyond_any_float_is_no_reason_to_raise() -> None:
    assert isinstance(SCHEMA.decode(b'{"type":"from_the_future","n":1e400}'), UnknownEvent)
    assert isinstance(SCHEMA.decode(b'{"type":"snapshot","tenant":"a","ts":"x","progress":1e400}'), UnknownEvent)


def test_a_schema_of_one_type_takes_nothing_else_for_it() -> None:
    event = Schema([Status]).decode(b'{"type":"other","tenant":"acme","ts":"2026-01-02T03:04:05Z","status":"x"}')
    assert isinstance(event, UnknownEvent)


@given(st.integers(-(2**63), 2**63 - 1), st.text(st.characters(codec="utf-8")))
def test_what_is_written_is_read_back_and_names_its_type_first(line: int, text: str) -> None:
    event = Log(tenant="acme", ts=TS, line=line, text=text)
    data = SCHEMA.encode(event)
    assert data.startswith(b'{"type":"log",')
    assert b"\n" not in data
    assert b"\r" not in data
    assert SCHEMA.decode(data) == event


def test_an_event_is_built_from_what_was_sent_and_what_is_known() -> None:
    built = SCHEMA.build({"type": "status", "status": "running"}, GIVEN, ["status", "log"])
    assert built.event == Status(tenant="acme", ts=TS, status="running")
    assert SCHEMA.decode(built.data) == built.event


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "type must be one of log, status; got None"),
        ({"type": "nope"}, "type must be one of log, status; got 'nope'"),
        ({"type": "snapshot"}, "type must be one of log, status; got 'snapshot'"),  # known, but not allowed here
        ({"type": ["log"]}, "type must be one of"),
        ({"type": {}}, "type must be one of"),
        ({"type": "log", "line": 1, "colour": "red"}, "log has no field 'colour' to set; allowed: line, text"),
        ({"type": "log", "line": 1, "tenant": "evil"}, "log has no field 'tenant' to set"),
        ({"type": "log", "line": 1, "ts": "2026-01-01T00:00:00Z"}, "log has no field 'ts' to set"),
        ({"type": "log", "line": 1, "z": 1, "a": 2}, "log has no field 'a', 'z' to set"),
        ({"type": "log"}, "log: Object missing required field `line`"),
        ({"type": "log", "line": "1"}, "log: Expected `int`, got `str`"),
        ({"type": "log", "line": 1.5}, "log: Expected `int`, got `float`"),
        ({"type": "log", "line": None}, "log: Expected `int`, got `null`"),
        ({"type": "log", "line": True}, "log: Expected `int`, got `bool`"),
    ],
)
def test_a_draft_that_does_not_fit_is_refused_with_what_is_allowed(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        SCHEMA.build(fields, GIVEN, ["status", "log"])
    assert words in str(caught.value)


def test_who_sets_a_field_in_vain_is_told_all_that_can_be_set() -> None:
    with pytest.raises(InvalidEvent) as caught:
        SCHEMA.build({"type": "log", "line": 1, "colour": "red"}, GIVEN, SCHEMA.names)
    assert str(caught.value) == "log has no field 'colour' to set; allowed: line, text"


def test_a_field_that_the_service_knows_cannot_be_set_by_a_publisher() -> None:
    with pytest.raises(InvalidEvent, match="no field 'attempt' to set; allowed: status"):
        SCHEMA.build({"type": "status", "status": "x", "attempt": 9}, {**GIVEN, "attempt": 1}, SCHEMA.names)


@given(FIELDS)
def test_building_from_any_json_object_makes_an_event_or_refuses(fields: dict[str, Any]) -> None:
    try:
        built = SCHEMA.build(fields, GIVEN, SCHEMA.names)
    except InvalidEvent:
        return
    assert built.event.tenant == "acme"
    assert built.event.ts == TS


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        (["log"], ("log",)),
        (["token", "log", "token"], ("log", "token")),
        (["worker.*", "*"], ("*", "worker.*")),
        (["*s*"], ("*s*",)),
        ([], ()),
    ],
)
def test_types_are_chosen_by_name_and_by_glob(patterns: list[str], chosen: tuple[str, ...]) -> None:
    assert SCHEMA.select(patterns) == chosen


@pytest.mark.parametrize(
    "pattern",
    ["", "lo", "logs", "LOG", "log ", "lo?", "[l]og", "(log|token)", "worker?state", "*x*", "log\n", "ä*", "^"],
)
def test_a_pattern_that_matches_no_type_is_named_with_all_that_are_valid(pattern: str) -> None:
    with pytest.raises(UnknownTypes) as caught:
        SCHEMA.select(["log", pattern])
    assert str(caught.value).startswith(f"no event type here matches {pattern!r}; valid: log, snapshot, status, token")


def test_choosing_types_never_takes_long() -> None:
    began = time.process_time()
    with pytest.raises(UnknownTypes):
        SCHEMA.select(["*" * 12 + "z"])
    assert time.process_time() - began < 0.1


def test_the_delivery_class_of_an_unknown_type_is_critical() -> None:
    assert SCHEMA.delivery("log") is Delivery.SHEDDABLE
    assert SCHEMA.delivery("snapshot") is Delivery.LATEST
    assert SCHEMA.delivery("from_the_future") is Delivery.CRITICAL


def test_the_latest_key_is_the_subject_or_the_worker_below_it() -> None:
    key = SCHEMA.latest_key
    assert key(record(1, "snapshot", worker="a")) == key(record(2, "snapshot", worker="b"))
    assert key(record(1, "snapshot", "run/1")) != key(record(1, "snapshot", "run/2"))
    assert key(record(1, "worker.state", worker="a")) == key(record(2, "worker.state", worker="a"))
    assert key(record(1, "worker.state", worker="a")) != key(record(2, "worker.state", worker="b"))
    assert key(record(1, "worker.state", "run/1", worker="a")) != key(record(2, "worker.state", "run/2", worker="a"))
    assert key(record(1, "snapshot")) != key(record(1, "worker.state"))


def test_an_event_class_without_a_name_is_refused() -> None:
    class Nameless(Event, frozen=True, kw_only=True):  # msgspec calls it by its class name then
        pass

    with pytest.raises(TypeError, match="Nameless names no type"):
        Schema([Nameless])


def test_a_name_may_sort_before_that_of_its_class() -> None:
    class Zulu(Event, frozen=True, kw_only=True, tag="Alpha"):
        pass

    assert Schema([Zulu]).names == ("Alpha",)


def test_the_json_schema_describes_every_type() -> None:
    schema = SCHEMA.json_schema()
    assert {reference["$ref"] for reference in schema["oneOf"]} == {f"#/$defs/{name}" for name in schema["$defs"]}
    tags = {part["properties"]["type"]["enum"][0] for part in schema["$defs"].values()}
    assert tags == set(SCHEMA.names)
    msgspec.json.encode(schema)
    assert Snapshot.__name__ in schema["$defs"]


def test_the_json_schema_of_a_family_takes_every_name_that_may_be_published_and_no_other() -> None:
    class Custom(Event, frozen=True, kw_only=True, tag="custom.*"):
        pass

    schema = Schema([Custom]).json_schema()["$defs"]["Custom"]["properties"]["type"]
    assert schema["type"] == "string"
    taken = re.compile(schema["pattern"]).search
    assert taken("custom.said")
    assert taken("custom.a.b_1")
    for name in ("custom", "custom.", "customs", "custom.*", "custom.Said", "a.custom.said"):
        assert not taken(name), name
