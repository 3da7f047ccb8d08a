"""An HTTP server on a real socket that answers as a test tells it, well or badly, and remembers what it was asked."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from shared.protocol import sse


@dataclass
class Asked:
    """One request."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    at: float


@dataclass
class Reply:
    """How one request is answered. `then`: `end` the body properly, `cut` the connection, `hang`
    until the client leaves, or `beat` a few times and cut."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    then: str = "end"


def stream(*frames: tuple[str, dict[str, Any]], then: str = "end", beginning: bytes = b": open\n") -> Reply:
    """An event stream of these ids and events."""
    body = beginning + b"".join(
        sse.frame(id, str(event["type"]), json.dumps(event, separators=(",", ":")).encode()) for id, event in frames
    )
    return Reply(200, {"content-type": "text/event-stream"}, body, then)


def hello(position: str, *, heartbeat_seconds: float = 15.0, resumed: bool = True) -> tuple[str, dict[str, Any]]:
    epoch, _, seq = position.partition("-")
    return position, {
        "type": "hello",
        "epoch": epoch,
        "head": 99,
        "oldest": 1,
        "after": int(seq),
        "resumed": resumed,
        "heartbeat_seconds": heartbeat_seconds,
        "filter": {},
        "server": "tailrace/0",
    }


def live(position: str) -> tuple[str, dict[str, Any]]:
    return position, {"type": "live", "replayed": 0}


def end(position: str, reason: str, *, final: bool, retry_after_ms: int | None = None) -> tuple[str, dict[str, Any]]:
    return position, {
        "type": "stream_end",
        "status": None,
        "reason": reason,
        "final": final,
        "last_id": position,
        "retry_after_ms": retry_after_ms,
    }


def event(position: str, **fields: Any) -> tuple[str, dict[str, Any]]:
    return position, {"type": "made_up", "tenant": "default", "ts": "2026-11-20T11:28:52Z", **fields}


def problem(status: int, detail: str, **headers: str) -> Reply:
    body = {"type": "about:blank", "title": "T", "status": status, "detail": detail, "request_id": "r1"}
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, {"content-type": "application/problem+json", **given}, json.dumps(body).encode())


def answer(value: Any, status: int = 200) -> Reply:
    return Reply(status, {"content-type": "application/json"}, json.dumps(value).encode())


class ScriptedServer:
    """Gives one reply after the other, the last one again and again."""

    def __init__(self, replies: Sequence[Reply]) -> None:
        self.asked: list[Asked] = []
        self.open = 0
        self.url = ""
        self._replies = list(replies)
        self._handlers: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    async def until_asked(self, count: int) -> None:
        """Wait until so many requests have come."""
        while len(self.asked) < count:
            self._changed.clear()
            await self._changed.wait()

    async def until_left(self, but: int = 0) -> None:
        """Wait until no connection is open, or no more than so many."""
        while self.open > but:
            self._changed.clear()
            await self._changed.wait()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A plain function: a task that is cancelled before its first step would leave its connection open."""
        task = asyncio.create_task(self._handle(reader, writer))
        self._handlers.add(task)
        task.add_done_callback(partial(self._handled, writer))
        self.open += 1

    def _handled(self, writer: asyncio.StreamWriter, task: "asyncio.Task[None]") -> None:
        writer.transport.abort()
        self._handlers.discard(task)
        self.open -= 1
        self._changed.set()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while await self._one(reader, writer):
                pass

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether another request may come on this connection."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        parts = urlsplit(target)
        now = asyncio.get_running_loop().time()
        self.asked.append(Asked(method, parts.path, dict(parse_qsl(parts.query)), headers, body, now))
        self._changed.set()
        reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
        return await self._answer(reply, reader, writer)

    async def _answer(self, reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if reply.status == 0:  # no answer at all
            return False
        lines = [f"HTTP/1.1 {reply.status} Status", *(f"{name}: {value}" for name, value in reply.headers.items())]
        if reply.status == 204:
            writer.write("\r\n".join([*lines, "", ""]).encode())
        else:
            writer.write("\r\n".join([*lines, "transfer-encoding: chunked", "", ""]).encode())
            if reply.body:
                writer.write(b"%x\r\n%b\r\n" % (len(reply.body), reply.body))
            if reply.then == "end":
                writer.write(b"0\r\n\r\n")
        await writer.drain()
        if reply.then == "beat":
            for _ in range(5):  # two seconds
                await asyncio.sleep(0.4)
                writer.write(b"2\r\n:\n\r\n")
        if reply.then == "hang":
            await reader.read()  # until the client leaves
            return False
        if reply.then in ("cut", "beat"):
            writer.write_eof()
        return reply.then == "end"

    async def close(self) -> None:
        for task in tuple(self._handlers):
            task.cancel()
        if self._handlers:
            await asyncio.wait(tuple(self._handlers))


@asynccontextmanager
async def scripted(*replies: Reply) -> AsyncIterator[ScriptedServer]:
    """A server that listens at `url`."""
    server = ScriptedServer(replies)
    listening = await asyncio.start_server(server.accept, "127.0.0.1", 0)
    host, port = listening.sockets[0].getsockname()[:2]
    server.url = f"http://{host}:{port}"
    try:
        yield server
    finally:
        listening.close()
        await server.close()
        await listening.wait_closed()
