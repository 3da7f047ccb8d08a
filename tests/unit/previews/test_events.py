"""The previews schema: delivery classes, and what is always on the wire."""

from datetime import UTC, datetime
from typing import Any, get_args

import msgspec
import pytest

from services.previews.events import (
    FEED_TYPES,
    LOG_STREAM_TYPES,
    SCHEMA,
    TERMINAL,
    Deleted,
    Exit,
    Log,
    PreviewState,
    PreviewStatus,
    Ready,
)
from shared.protocol.schema import Delivery, Event

NOW = datetime(2026, 7, 1, 10, tzinfo=UTC)
ABOUT: dict[str, Any] = {"tenant": "default", "ts": NOW, "preview_id": "prv_1", "generation_id": "gen_1"}
LOG = Log(
    **ABOUT,
    line=7,
    timestamp=NOW,
    level="INFO",
    message="hello",
    source="preview",
    stream="stdout",
    part=0,
    last=True,
    partial=False,
    attempt=1,
)
STATUS = PreviewStatus(**ABOUT, status="failed", kind="asgi", attempt=2, exit=Exit(code=1))


def wire(event: Event) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.json.decode(SCHEMA.encode(event))
    return fields


@pytest.mark.parametrize(
    ("name", "delivery"),
    [
        ("log", Delivery.SHEDDABLE),
        ("preview_status", Delivery.CRITICAL),
        ("ready", Delivery.CRITICAL),
        ("deleted", Delivery.CRITICAL),
    ],
)
def test_only_output_may_be_skipped(name: str, delivery: Delivery) -> None:
    assert SCHEMA.delivery(name) == delivery


def test_the_named_types_are_in_the_schema() -> None:
    assert SCHEMA.select(LOG_STREAM_TYPES) == tuple(sorted(LOG_STREAM_TYPES))
    assert SCHEMA.select(FEED_TYPES) == FEED_TYPES
    assert set(get_args(PreviewState)) > TERMINAL


def test_a_log_always_has_what_the_design_names() -> None:
    assert wire(LOG) == {
        "type": "log",
        "tenant": "default",
        "ts": "2026-07-01T10:00:00Z",
        "preview_id": "prv_1",
        "generation_id": "gen_1",
        "line": 7,
        "timestamp": "2026-07-01T10:00:00Z",
        "level": "INFO",
        "message": "hello",
        "source": "preview",
        "stream": "stdout",
        "part": 0,
        "last": True,
        "partial": False,
        "attempt": 1,
    }


def test_what_is_not_known_is_left_out_of_a_status() -> None:
    assert set(wire(STATUS)) == {"type", *ABOUT, "status", "kind", "attempt", "exit"}
    assert wire(STATUS)["exit"] == {"code": 1, "signal": None}


@pytest.mark.parametrize(
    "event", [LOG, STATUS, Ready(**ABOUT, url="http://prv-1.localhost", ready_after_ms=3, attempt=1), Deleted(**ABOUT)]
)
def test_an_event_comes_back_as_it_was(event: Event) -> None:
    assert SCHEMA.decode(SCHEMA.encode(event)) == event
