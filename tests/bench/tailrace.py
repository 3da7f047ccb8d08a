"""Tailrace as a contender: the real command, one run that everybody follows, published to by its worker's requests."""

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tests.bench.control import Control
from tests.bench.event import fields

if TYPE_CHECKING:  # contenders names this module's set-up
    from tests.bench.contenders import Contender

RUNS = "/api/v1/runs"


def post(path: str, body: Any, **headers: str) -> bytes:
    """A whole POST request with a JSON body."""
    content = json.dumps(body, separators=(",", ":")).encode()
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{''.join(lines)}"
    return b"%bContent-Length: %d\r\n\r\n%b" % (head.encode(), len(content), content)


def lease_run(contender: "Contender", port: int) -> "Contender":
    """Create a run and lease it; the contender whose readers follow it and whose publisher is its worker."""
    control = Control(port)
    try:
        run = json.loads(control.request(post(RUNS, {"task": "bench", "mode": "queued", "runner": "bench"})))
        given = json.loads(control.request(post(f"{RUNS}/lease", {"runners": ["bench"], "worker": "bench"})))
    finally:
        control.close()
    path, token = f"{RUNS}/{run['id']}", given["lease"]["token"]

    def publish(first: int, count: int) -> bytes:
        events = [fields(number) for number in range(first, first + count)]
        return post(f"{path}/events", {"events": events}, Tailrace_Lease=token)

    subscribe = re.sub(rb"^GET \S+", f"GET {path}/stream?after=now".encode(), contender.subscribe)
    return replace(contender, subscribe=subscribe, publish=publish)
