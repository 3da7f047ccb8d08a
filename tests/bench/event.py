"""The event that every contender delivers: the same JSON of about 300 bytes, numbered."""

import json
import re
from typing import Any, Final

#: Occurs exactly once per event, whatever surrounds the JSON, so that counting it counts events.
MARKER: Final = b'"type":"node_update"'
#: Finds an event's number, for the latencies.
NUMBER: Final = re.compile(rb'"iteration":(\d+)')

_JSON: Final = (
    b'{"type":"node_update","tenant":"default","run_id":"run_01jd3v8q6w4m2k9x7c5b1n0zyt",'
    b'"ts":"2025-11-20T10:41:46.123456Z","node":"writer","agent":"writer-1","iteration":%d,"phase":"draft",'
    b'"tokens_in":1834,"tokens_out":412,"elapsed_ms":9182,"attempt":1,"snippet":"The tailrace carries the '
    b'water away from the wheel that did the work"}'
)


def event_json(number: int) -> bytes:
    """Event `number` as JSON."""
    return _JSON % number


def fields(number: int) -> dict[str, Any]:
    """Event `number` as a worker appends it: all but what the service adds."""
    given = ("tenant", "run_id", "ts")
    return {name: value for name, value in json.loads(event_json(number)).items() if name not in given}


def sse_frames(first: int, count: int) -> bytes:
    """`count` events from `first` on as SSE frames, in one piece."""
    frame = b"id: k3f9a2-%d\nevent: node_update\ndata: %b\n\n"
    return b"".join(frame % (n, event_json(n)) for n in range(first, first + count))


def websocket_message(first: int, count: int) -> bytes:
    """`count` events from `first` on as one WebSocket message: a JSON array of frames (DESIGN 4.3)."""
    items = (b'{"id":"k3f9a2-%d","event":%b}' % (n, event_json(n)) for n in range(first, first + count))
    return b"[" + b",".join(items) + b"]"
