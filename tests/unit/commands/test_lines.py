"""Events as lines: what people read, whatever programs, models and other versions put into an event."""

import unicodedata
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.commands.lines import DETAIL_CHARACTERS, Line, line_of, seen
from services.runs.events import SCHEMA as RUNS
from services.tasks.events import SCHEMA as TASKS
from shared.protocol.control import Gap, Reset
from shared.protocol.schema import Event

TS = "2026-01-01T00:00:00Z"
TYPES: dict[str, type[Event]] = {**RUNS.types, **TASKS.types}
EVERY_TYPE = [*TYPES, "log", "preview_status", "ready", "gap", "reset", "never_heard_of", ""]
FIELDS = sorted(
    {field for event in TYPES.values() for field in event.__struct_fields__}
    | {*Gap.__struct_fields__, *Reset.__struct_fields__}
    | {"type", "level", "source", "exit", "url", "timestamp", "done", "total", "unit"}
)

WORDS = ("text", "message", "error", "output", "reason", "prompt", "plan", "description", "tool", "phase")


def told(event: Mapping[str, Any], *, named: bool = False) -> str:
    """The line without its time, as it is printed without colours."""
    return " ".join(text for _, text in line_of(event, named=named).parts if text)


@pytest.mark.parametrize(
    ("event", "line"),
    [
        ({"type": "status", "status": "queued", "attempt": 1, "tokens_out": 0}, "queued"),
        ({"type": "status", "status": "running", "attempt": 2}, "running attempt 2"),
        ({"type": "status", "status": "completed", "tokens_out": 7, "output": "a b"}, "completed 7 tokens a b"),
        ({"type": "status", "status": "failed", "error": "no\nway"}, "failed no way"),
        ({"type": "status", "status": "cancelling", "message": "as asked", "tokens_out": 7}, "cancelling as asked"),
        ({"type": "node_update", "node": "writer"}, "writer writer"),
        (
            {"type": "node_update", "node": "n", "worker_id": "w-1", "phase": "p", "iteration": 0, "tokens_out": 0},
            "w-1 n p #0 0 tokens",
        ),
        ({"type": "node_update", "node": "n", "agent": "a", "snippet": "so far"}, "a n so far"),
        ({"type": "error", "fatal": True, "code": "c", "message": "m"}, "c: m"),
        ({"type": "deleted", "run_id": "run_x"}, "deleted"),
        ({"type": "snapshot", "status": "queued", "progress": {"done": 0, "total": None}}, "queued       "),
        (
            {"type": "snapshot", "status": "running", "progress": {"done": 1, "total": 4, "unit": "runs"}},
            "running       █████░░░░░░░░░░░░░░░ 1/4 runs",
        ),
        (
            {"type": "snapshot", "status": "running", "progress": {"done": 9, "total": 4, "message": "more"}},
            "running       ████████████████████ 9/4 more",
        ),
        (
            {"type": "snapshot", "status": "running", "progress": {"done": 1_234_567, "unit": "rows"}},
            "running       1234567 rows",
        ),
        (
            {"type": "snapshot", "status": "running", "progress": {"done": 0.1 + 0.2, "unit": "GB"}},
            "running       0.3 GB",
        ),
        ({"type": "snapshot", "status": "failed", "progress": {}, "error": "e"}, "failed        e"),
        ({"type": "snapshot", "status": "failed", "error": "e"}, "failed        e"),
        ({"type": "log", "level": "ERROR", "message": "boom"}, "boom"),
        ({"type": "preview_status", "status": "exited", "exit": {"code": 1, "signal": None}}, "exited (code 1)"),
        ({"type": "preview_status", "status": "running"}, "running"),
        ({"type": "ready", "url": "http://x"}, "ready http://x"),
        ({"type": "gap", "dropped": 3}, "… 3 events skipped: this reader fell behind"),
        ({"type": "reset", "reason": "epoch_changed"}, "… starting over: epoch_changed"),
        ({"type": "client_output_delta", "text": "hi", "stream_id": "queen"}, "client_output_delta hi stream_id=queen"),
        ({"type": "custom.x", "data": {"a": [1, True]}, "node_id": None}, 'custom.x data={"a":[1,true]}'),
        ({}, "None"),
    ],
)
def test_each_kind_of_event_has_its_words(event: Mapping[str, Any], line: str) -> None:
    assert told(event) == line


def test_of_several_subjects_each_line_names_its_own() -> None:
    assert told({"type": "status", "status": "running", "run_id": "run_01jabcdefghij"}, named=True) == "efghij running"
    assert told({"type": "snapshot", "status": "queued", "task_id": "task_01jabcxyz"}, named=True).startswith("abcxyz ")
    assert told({"type": "status", "status": "running", "run_id": 7}, named=True) == "7 running"


def test_details_are_cut() -> None:
    line = told({"type": "custom.x", "data": "x" * 10_000})
    assert len(line) < DETAIL_CHARACTERS + 20
    assert line.endswith("…")


def test_a_result_is_never_cut() -> None:
    text = "word " * 40_000
    assert text.strip() in told({"type": "status", "status": "completed", "output": text})


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[2J\x1b[1;1Hgone", "[2J[1;1Hgone"),
        ("\x1b]0;title\x07", "]0;title"),
        ("\x9b31mred\x9c", "31mred"),  # the same controls as one character each
        ("a\r\nb\nc\rd", "a  b c d"),
        ("a\u2028b\u2029c\x85d\x0be", "a b c d e"),
        ("a\tb\u00a0c\u3000d", "a b c d"),
        ("user\u202egpj.exe\u202c", "usergpj.exe"),  # right to left, as in a file name that lies
        ("\u2066x\u2069\u200e\u200f\u061c", "x"),
        ("z\u200be\u200cr\u200do\ufeff\u00ad\u2060", "zero"),
        ("\0nul\x7fdel\b\b", "nuldel"),
        ("\ud800lone", "lone"),
        ("\U000e0041tag\U000e007f", "tag"),
        ("naïve 漢字 👍 e\u0301", "naïve 漢字 👍 e\u0301"),
    ],
)
def test_only_what_can_be_seen_goes_out(hostile: str, shown: str) -> None:
    assert seen(hostile) == shown
    assert told({"type": "log", "message": hostile}) == shown
    for event in (
        {"type": hostile},
        {"type": "status", "status": hostile, "message": hostile, "error": hostile, "output": hostile},
        {"type": "node_update", "node": hostile, "worker_id": hostile, "phase": hostile, "snippet": hostile},
        {"type": "error", "code": hostile, "message": hostile},
        {
            "type": "snapshot",
            "status": hostile,
            "progress": {"done": 1, "total": 2, "unit": hostile, "message": hostile},
        },
        {"type": "preview_status", "status": hostile, "exit": {"code": hostile, "signal": hostile}},
        {"type": "ready", "url": hostile},
        {"type": "reset", "reason": hostile},
        {"type": "custom.x", hostile: 1, "text": hostile},
        {"type": "custom.x", "run_id": hostile, "ts": hostile},
    ):
        assert_harmless(line_of(event, named=True))


def assert_harmless(line: Line) -> None:
    text = line.time + "".join(text for _, text in line.parts)
    assert text.isprintable(), text
    assert not any(unicodedata.category(c).startswith("C") for c in text)


@pytest.mark.parametrize(
    "ts",
    [TS, "2026-01-01T01:00:00+01:00", "2026-01-01T00:00:00", "2026-01-01T00:00:00.123456Z"],
)
def test_the_time_is_that_of_this_machine(ts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "UTC-2")  # POSIX counts westwards
    time.tzset()
    try:
        assert line_of({"type": "log", "ts": ts}).time == "02:00:00"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_the_time_is_when_a_line_was_captured_where_that_is_known() -> None:
    captured = line_of({"type": "log", "ts": "2026-01-01T00:00:00Z", "timestamp": "2026-01-01T00:00:01Z"})
    assert captured.time.endswith(":01")


@pytest.mark.parametrize("ts", [None, "", "today", 17, {}, "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
def test_a_time_that_is_none_leaves_room(ts: object) -> None:
    assert len(line_of({"type": "log", "ts": ts}).time) == 8


# ── whatever comes ─────────────────────────────────────────────────────────────────────────────────────────────────

_texts = st.text(max_size=20) | st.sampled_from(["running", "completed", "\x1b[31m", "ERROR", "\u202e", TS])
_numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
_json = st.recursive(
    st.none() | st.booleans() | _numbers | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | _texts, inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=300)
@given(
    name=st.sampled_from(EVERY_TYPE),
    fields=st.dictionaries(st.sampled_from(FIELDS) | _texts, _json, max_size=8),
    named=st.booleans(),
)
def test_no_event_of_any_shape_raises_or_moves_the_cursor(name: str, fields: dict[str, Any], named: bool) -> None:
    assert_harmless(line_of({**fields, "type": name}, named=named))
    assert_harmless(line_of(fields, named=named))


@pytest.mark.parametrize(
    "event",
    [
        {"type": "status", "status": "running", "attempt": "second"},
        {"type": "status", "status": "running", "attempt": None},
        {"type": "status", "status": ["running"]},
        {"type": "snapshot", "progress": 7},
        {"type": "snapshot", "progress": {"done": "3", "total": "4"}},
        {"type": "snapshot", "progress": {"done": -1, "total": -1}},
        {"type": "snapshot", "progress": {"done": 10**400, "total": 1}},
        {"type": "snapshot", "progress": {"done": 1.5, "total": 10**400}},
        {"type": "snapshot", "progress": [1]},
        {"type": "preview_status", "status": "exited", "exit": "code"},
        {"type": ["a"]},
        {"type": {"a": 1}},
    ],
)
def test_an_event_of_another_shape_is_shown_as_it_is(event: Mapping[str, Any]) -> None:
    assert_harmless(line_of(event))


# ── every type there is ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", sorted(TYPES))
def test_every_event_of_the_schemas_shows_what_it_says(name: str) -> None:
    said = [field for field in TYPES[name].__struct_fields__ if field in WORDS]
    event = {
        "type": name.replace("*", "x"),
        "ts": TS,
        "tenant": "t",
        **{field: f"the {field} it has" for field in said},
    }
    line = told(event)
    for field in said:
        assert f"the {field} it has" in line
    assert said or line == event["type"]


@pytest.mark.parametrize("name", sorted(TYPES))
def test_an_event_of_the_schemas_without_its_fields_has_a_line(name: str) -> None:
    event = dict.fromkeys(TYPES[name].__struct_fields__)
    assert_harmless(line_of({**event, "type": name}))
    assert_harmless(line_of({"type": name}))
