"""What the tests of the wire's contract share: one server a module, its database, and frames as plain values."""

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self, TypeVar

import asyncpg
import httpx
import msgspec
from msgspec import Struct
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from shared.protocol.sse import SseMessage
from tests.support.postgres import fresh_database
from tests.support.server import Server, SseStream, append, lease, sse

T = TypeVar("T")

RUNS = "/api/v1/runs"
NO_SUCH_RUN = "run_01jzzzzzzzzzzzzzzzzzzzzzzz"  # could exist
IMPOSSIBLE_RUN = "run_nonsense"
ANSWER_SECONDS = float(os.environ.get("TAILRACE_TEST_ANSWER_SECONDS", "20"))  # none takes that long, however busy


# ── a server for a whole module ────────────────────────────────────────────────────────────────────────────────


class Served(Struct, frozen=True):
    """A server that runs while a module's tests do."""

    server: Server
    database_url: str

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def websocket_url(self) -> str:
        return self.server.url.replace("http", "ws", 1)


@contextmanager
def served(postgres_url: str, **settings: Any) -> Iterator[Served]:
    """A server and its database, on an event loop of their own: those of the tests come and go."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="module's server")
    thread.start()

    def run(work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    try:
        database = fresh_database(postgres_url)
        database_url = run(database.__aenter__())
        server = Server(database_url, **settings)
        try:
            run(server.start())
            yield Served(server, database_url)
        finally:
            run(server.kill())
            run(database.__aexit__(None, None, None))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@asynccontextmanager
async def sql(database_url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection past the service."""
    connection = await asyncpg.connect(database_url)
    try:
        yield connection
    finally:
        await connection.close()


# ── frames ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Frame(Struct, frozen=True):
    """A frame of any transport."""

    id: str | None
    event: dict[str, Any]
    ref: str | None = None

    @classmethod
    def of_sse(cls, message: SseMessage) -> Self:
        event = json.loads(message.data)
        assert message.event == event["type"]  # runs streams have no primary type
        return cls(message.id, event)

    @classmethod
    def of_json(cls, frame: dict[str, Any]) -> Self:
        return cls(frame.get("id"), frame["event"], frame.get("ref"))

    @property
    def type(self) -> str:
        return str(self.event["type"])

    @property
    def seq(self) -> int:
        assert self.id is not None
        return int(self.id.rpartition("-")[2])

    @property
    def is_stored(self) -> bool:
        """Whether it is an event of the log, not a word about the stream."""
        return self.type in ("status", "node_update", "error")


def stored(frames: list[Frame]) -> list[Frame]:
    """The events among them."""
    return [frame for frame in frames if frame.is_stored]


def types_of(frames: list[Frame]) -> list[str]:
    return [frame.type for frame in frames]


async def read_to_end(client: httpx.AsyncClient, url: str, **options: Any) -> list[Frame]:
    """Every frame of an SSE stream that ends by itself."""
    async with asyncio.timeout(ANSWER_SECONDS), sse(client, url, **options) as stream:
        return [Frame.of_sse(message) async for message in stream]


async def read_until(stream: SseStream, wanted: Callable[[Frame], bool]) -> list[Frame]:
    """Frames up to and including the first that is wanted."""
    async with asyncio.timeout(ANSWER_SECONDS):
        seen = await stream.until(lambda message: wanted(Frame.of_sse(message)))
    return [Frame.of_sse(message) for message in seen]


async def read_until_live(stream: SseStream) -> list[Frame]:
    return await read_until(stream, lambda frame: frame.type == "live")


class Socket:
    """A WebSocket whose arrays are read frame by frame."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.messages: list[list[Frame]] = []  # as they came
        self._ready: list[Frame] = []

    async def send(self, message: Any) -> None:
        await self.connection.send(json.dumps(message))

    async def next(self) -> Frame:
        async with asyncio.timeout(ANSWER_SECONDS):
            while not self._ready:
                message = await self.connection.recv()
                frames = json.loads(message) if isinstance(message, str) else msgspec.msgpack.decode(message)
                assert isinstance(frames, list)
                assert frames
                self.messages.append([Frame.of_json(frame) for frame in frames])
                self._ready = list(self.messages[-1])
        return self._ready.pop(0)

    async def until(self, wanted: Callable[[Frame], bool]) -> list[Frame]:
        """Frames up to and including the first that is wanted."""
        seen: list[Frame] = []
        async with asyncio.timeout(ANSWER_SECONDS):  # heartbeats go on for ever
            while True:
                seen.append(await self.next())
                if wanted(seen[-1]):
                    return seen

    async def until_type(self, name: str, ref: str | None = None) -> list[Frame]:
        return await self.until(lambda frame: frame.type == name and frame.ref == ref)

    async def close_code(self) -> int | None:
        """Read on to the close; the code it had."""
        async with asyncio.timeout(ANSWER_SECONDS):
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await self.connection.recv()
            await self.connection.wait_closed()
        return self.connection.close_code


@asynccontextmanager
async def socket(url: str, *, subprotocol: str | None = "tailrace.v1", **options: Any) -> AsyncIterator[Socket]:
    """A WebSocket; raises websockets.InvalidStatus when it is refused."""
    offered = None if subprotocol is None else [Subprotocol(subprotocol)]
    async with connect(url, subprotocols=offered, max_size=None, close_timeout=2, **options) as connection:
        yield Socket(connection)


# ── runs ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def finish(
    client: httpx.AsyncClient, run_id: str, token: str, status: str = "completed", **more: Any
) -> httpx.Response:
    """End a leased run."""
    body = {"status": status, **more}
    return await client.post(f"{RUNS}/{run_id}/finish", json=body, headers={"tailrace-lease": token})


async def ended_run(client: httpx.AsyncClient, count: int = 3, **more: Any) -> str:
    """A run that has ended: two status events, `count` node updates, the terminal status."""
    run_id, token = await lease(client, **more)
    if count:
        (await append(client, run_id, token, count)).raise_for_status()
    (await finish(client, run_id, token)).raise_for_status()
    return run_id


async def events_of(client: httpx.AsyncClient, run_id: str, **parameters: Any) -> list[Frame]:
    """Its stored events, by polling."""
    answer = await client.get(f"{RUNS}/{run_id}/events", params={"limit": 1000, **parameters})
    answer.raise_for_status()
    return [Frame.of_json(frame) for frame in answer.json()["data"]]


async def status_of(client: httpx.AsyncClient, run_id: str) -> str:
    answer = await client.get(f"{RUNS}/{run_id}")
    answer.raise_for_status()
    return str(answer.json()["status"])


async def head_of(client: httpx.AsyncClient) -> tuple[str, int]:
    """The log's epoch and head, as the database has them."""
    epoch, _, head = (await client.get(RUNS, params={"limit": 1})).raise_for_status().json()["as_of"].rpartition("-")
    return epoch, int(head)


async def metric(client: httpx.AsyncClient, name: str, **labels: str) -> float:
    """The sum of a metric's series that have these labels."""
    series = [line for line in (await client.get("/metrics")).text.splitlines() if line.startswith(name + "{")]
    wanted = [line for line in series if all(f'{key}="{value}"' in line for key, value in labels.items())]
    return sum(float(line.rpartition(" ")[2]) for line in wanted)


# ── answers ────────────────────────────────────────────────────────────────────────────────────────────────────


def problem_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The problem document of a refusal; checks that it is one, complete."""
    assert answer.status_code == status, answer.text
    return check_problem(status, answer.headers["content-type"], answer.content, answer.headers["x-request-id"])


def check_problem(status: int, media_type: str, body: bytes, request_id: str) -> dict[str, Any]:
    """A problem document, decoded: RFC 9457's members and the request's id."""
    assert media_type == "application/problem+json"
    document: dict[str, Any] = json.loads(body)
    assert document["status"] == status
    assert document["request_id"] == request_id
    assert all(document[member] for member in ("type", "title", "detail"))
    return document
