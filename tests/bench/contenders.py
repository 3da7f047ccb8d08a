"""What the harness can measure: servers that differ inside and are treated alike outside.

A contender is started as a process of its own, on 127.0.0.1, on a port that it chooses and prints as
`http://127.0.0.1:PORT`. Once `set_up` has prepared it, it must accept readers (`subscribe`) and publish (`publish`)
over HTTP/1.1.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from re import Pattern
from typing import Final

from tests.bench import event, nchan, tailrace

SSE_SUBSCRIBE: Final = b"GET /stream HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n"
WEBSOCKET_SUBSCRIBE: Final = (
    b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def bench_publish(first: int, count: int) -> bytes:
    """The request by which the servers in this folder publish events `first` to `first + count - 1`."""
    return b"POST /bench/publish?first=%d&n=%d HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n" % (
        first,
        count,
    )


def one(_: int) -> int:
    """Publishing together is one request."""
    return 1


@dataclass(frozen=True, slots=True)
class Contender:
    """One server to measure.

    `subscribe` is a reader's whole request, `publish(first, count)` a whole request that publishes that many events
    together, to which `answers(count)` responses come, each with a Content-Length. `ready` must be among the bytes a
    reader gets before it can count on live events. `marker` occurs exactly once per event and nowhere else; `number`
    finds an event's number. `durable`: it keeps events in a database of its own, named to it in TAILRACE_DATABASE_URL.
    `set_up(contender, port)` is called when the server answers and returns the contender with what only then can be
    known, such as the requests.
    """

    name: str
    argv: tuple[str, ...]
    subscribe: bytes = SSE_SUBSCRIBE
    websocket: bool = False
    publish: Callable[[int, int], bytes] = bench_publish
    answers: Callable[[int], int] = one
    ready: bytes = b"\r\n\r\n"
    marker: bytes = event.MARKER
    number: Pattern[bytes] = event.NUMBER
    env: Mapping[str, str] = field(default_factory=dict)
    durable: bool = False
    set_up: Callable[["Contender", int], "Contender"] | None = None


def module(name: str, *args: str) -> tuple[str, ...]:
    """The command that runs a module of this folder with this Python."""
    return (sys.executable, "-m", f"tests.bench.{name}", *args)


LITESTAR: Final = Contender("litestar queue per reader", module("litestar_server"))
BARE: Final = Contender("bare loop of sends", module("bare_server"))
BASELINES: Final = (LITESTAR, BARE)

#: What else there is; measured beside them, and no bar is set by it.
CHANNELS: Final = Contender("litestar ChannelsPlugin", module("channels_server"))
STARLETTE: Final = Contender("sse-starlette", module("starlette_server"))


def nchan_in(directory: str) -> Contender:
    """Nchan, with its files in `directory`."""
    argv = module("nchan", directory)
    return Contender("Nchan (nginx, in C)", argv, publish=nchan.publish, answers=int)


#: Tailrace itself: the command that runs in production, every publish a checked change of the run's row.
TAILRACE_SSE: Final = Contender(
    "tailrace SSE",
    (sys.executable, "-m", "services.cli", "serve", "runs"),
    ready=b'"type":"live"',
    env={
        "TAILRACE_PORT": "0",
        "TAILRACE_LOG_LEVEL": "warning",
        "TAILRACE_LEASE_SECONDS": "3600",
        "TAILRACE_STREAMS_PER_TENANT": "20000",
        # one address makes all requests: they are counted, and never too many
        "TAILRACE_REQUESTS_PER_SECOND": "1000000",
        "TAILRACE_REQUEST_BURST": "10000000",
    },
    durable=True,
    set_up=tailrace.lease_run,
)
TAILRACE_WEBSOCKET: Final = replace(
    TAILRACE_SSE, name="tailrace WebSocket", subscribe=WEBSOCKET_SUBSCRIBE, websocket=True
)
