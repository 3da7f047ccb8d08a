"""What the tests of the runs service share: one server for a file, and short words for what they ask of it."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest_asyncio
import websockets

from shared.protocol.sse import SseDecoder, SseMessage
from tests.support import server as plain
from tests.support.postgres import fresh_database
from tests.support.server import Server, SseStream, running

CONTROL = ("hello", "live", "bookmark", "gap", "reset", "stream_end")
SECONDS = 25.0  # nobody waits so long unless something is wrong


def server_fixture(**settings: Any) -> Any:
    """A fixture `server` that all tests of a file share; they mark themselves with `loop_scope="module"`."""

    @pytest_asyncio.fixture(scope="module", loop_scope="module")
    async def server(postgres_url: str) -> AsyncIterator[Server]:
        async with fresh_database(postgres_url) as url, running(url, **settings) as started:
            yield started

    return server


def client_fixture() -> Any:
    """A fixture `client` for the file's server."""

    @pytest_asyncio.fixture(loop_scope="module")
    async def client(server: Server) -> AsyncIterator[httpx.AsyncClient]:
        async with httpx.AsyncClient(base_url=server.url, timeout=SECONDS) as opened:
            yield opened

    return client


@asynccontextmanager
async def sse(client: httpx.AsyncClient, url: str, **options: Any) -> AsyncIterator["PatientStream"]:
    """An SSE stream; waiting for what never comes ends the test, however many heartbeats come instead."""
    async with plain.sse(client, url, **options) as stream:
        yield PatientStream(stream)


class PatientStream:
    """Messages of an open stream, one at a time, each within a time."""

    def __init__(self, stream: SseStream) -> None:
        self._stream = stream

    async def until(self, wanted: Callable[[SseMessage], bool]) -> list[SseMessage]:
        """Messages up to and including the first that is wanted."""
        async with asyncio.timeout(SECONDS):
            return await self._stream.until(wanted)

    async def rest(self) -> list[SseMessage]:
        """All messages to the end of the stream."""
        async with asyncio.timeout(SECONDS):
            return [message async for message in self._stream]


async def publish(client: httpx.AsyncClient, session: str, events: Sequence[Any], **more: Any) -> Any:
    """Publish into a session; names stand for events without fields."""
    sent = [{"type": event} if isinstance(event, str) else event for event in events]
    answer = await client.post(f"/api/v1/sessions/{session}/events", json={"events": sent, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def create(client: httpx.AsyncClient, **body: Any) -> Any:
    """A new run, as it was answered; `runner` sample and no pause between its words unless told."""
    body.setdefault("task", "work")
    if body.setdefault("runner", "sample") == "sample":
        body.setdefault("params", {"step_seconds": 0, "words": 2})
    answer = await client.post("/api/v1/runs", json=body)
    assert answer.status_code in (201, 202), answer.text
    return answer.json()


async def detail(client: httpx.AsyncClient, run_id: str) -> Any:
    """A run as GET shows it."""
    answer = await client.get(f"/api/v1/runs/{run_id}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def listed(client: httpx.AsyncClient, run_id: str, **params: Any) -> Any:
    """A run as the list shows it."""
    runs = (await client.get("/api/v1/runs", params={"limit": 500, **params})).json()["data"]
    return next(run for run in runs if run["id"] == run_id)


async def ended(client: httpx.AsyncClient, run_id: str) -> Any:
    """Wait for a run's end; the run then."""
    async with sse(client, f"/api/v1/runs/{run_id}/stream?types=status") as stream:
        await stream.rest()
    return await detail(client, run_id)


async def work(
    client: httpx.AsyncClient, run_id: str, token: str, events: Sequence[Any], **more: Any
) -> httpx.Response:
    """Append events to a leased run."""
    return await client.post(
        f"/api/v1/runs/{run_id}/events", json={"events": list(events), **more}, headers={"tailrace-lease": token}
    )


async def finish(client: httpx.AsyncClient, run_id: str, token: str, **fields: Any) -> httpx.Response:
    """End a leased run, `completed` unless told."""
    fields.setdefault("status", "completed")
    return await client.post(f"/api/v1/runs/{run_id}/finish", json=fields, headers={"tailrace-lease": token})


async def polled(client: httpx.AsyncClient, url: str, *, limit: int = 1000, **params: Any) -> list[Any]:
    """All events that polling returns, page after page."""
    events: list[Any] = []
    while True:
        answer = await client.get(url, params={"limit": limit, **params})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        events.extend(frame["event"] for frame in page["data"])
        if page["next"] == page["head"] or page["next"] == params.get("until"):
            return events
        params["after"] = page["next"]


def events_of(messages: Sequence[SseMessage]) -> list[Any]:
    """The events among an SSE stream's messages, decoded, without control frames."""
    return [msgspec.json.decode(m.data) for m in messages if m.event not in CONTROL]


def names(events: Sequence[Any]) -> list[str]:
    """Their types."""
    return [event["type"] for event in events]


def halves(messages: Sequence[SseMessage]) -> tuple[list[Any], list[Any]]:
    """The events before `live` and those after it; `live` must come exactly once."""
    kinds = [message.event for message in messages]
    assert kinds.count("live") == 1
    place = kinds.index("live")
    return events_of(messages[:place]), events_of(messages[place:])


def is_event(kind: str, **fields: Any) -> Callable[[SseMessage], bool]:
    """Tells whether a message is of this type and has these fields."""

    def tell(message: SseMessage) -> bool:
        if message.event != kind:
            return False
        data = msgspec.json.decode(message.data)
        return all(data.get(name) == value for name, value in fields.items())

    return tell


# ── WebSockets ─────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def socket_stream(server: Server, path: str) -> AsyncIterator["SocketStream"]:
    """A stream over a WebSocket."""
    url = server.url.replace("http://", "ws://") + path
    async with websockets.connect(url, subprotocols=[websockets.Subprotocol("tailrace.v1")]) as connection:
        yield SocketStream(connection)


class SocketStream:
    """The frames of a WebSocket, one at a time."""

    def __init__(self, connection: websockets.ClientConnection) -> None:
        self.connection = connection
        self._ready: list[Any] = []

    async def until(self, wanted: Callable[[Any], bool]) -> list[Any]:
        """Frames up to and including the first whose event is wanted."""
        seen: list[Any] = []
        async with asyncio.timeout(SECONDS):
            while True:
                while self._ready:
                    seen.append(self._ready.pop(0))
                    if wanted(seen[-1]["event"]):
                        return seen
                self._ready = msgspec.json.decode(await self.connection.recv())


# ── a reader that does not read ────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def stalling(server: Server, path: str) -> AsyncIterator["StallingStream"]:
    """An SSE stream of which nothing is taken but what is asked for: the buffers on our side are as small as can be."""
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    small.setblocking(False)
    await asyncio.get_running_loop().sock_connect(small, ("127.0.0.1", server.port))
    reader, writer = await asyncio.open_connection(sock=small, limit=4096)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{server.port}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        yield StallingStream(reader)
    finally:
        writer.transport.abort()


class StallingStream:
    """Messages of a chunked response, read only as they are asked for."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._decoder = SseDecoder()
        self._ready: list[SseMessage] = []

    async def until(self, wanted: Callable[[SseMessage], bool]) -> list[SseMessage]:
        """Messages up to and including the first that is wanted."""
        seen: list[SseMessage] = []
        async with asyncio.timeout(SECONDS):
            while True:
                while self._ready:
                    seen.append(self._ready.pop(0))
                    if wanted(seen[-1]):
                        return seen
                size = int(await self._reader.readuntil(b"\r\n"), 16)
                assert size, "the stream ended first"
                self._ready = list(self._decoder.decode((await self._reader.readexactly(size + 2))[:-2]))
