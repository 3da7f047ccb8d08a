"""What the tests of tasks share: tasks made and changed, and their streams over every transport, frame by frame."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal
from urllib.parse import urlencode

import httpx
from msgspec import structs
from websockets.exceptions import ConnectionClosed

from services.tasks.events import TERMINAL
from shared.protocol.sse import SseMessage
from tests.support.contract import ANSWER_SECONDS, Frame, Socket, socket
from tests.support.server import SseStream, sse

TASKS = "/api/v1/tasks"
NO_SUCH_TASK = "task_01jzzzzzzzzzzzzzzzzzzzzzzz"  # could exist
IMPOSSIBLE_TASK = "task_nonsense"
NO_TASK = "There is no such task."
NDJSON = {"accept": "application/x-ndjson"}

Transport = Literal["sse", "tailrace.v1", "tailrace.v1.msgpack", "channels"]
SINGLE: tuple[Transport, ...] = ("sse", "tailrace.v1", "tailrace.v1.msgpack")
TRANSPORTS: tuple[Transport, ...] = (*SINGLE, "channels")  # the last: as one of several on /ws
REF = "mine"


# ── tasks ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def create(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    """A new task, as it was answered."""
    answer = await client.post(TASKS, json={"title": "t", **body})
    assert answer.status_code == 201, answer.text
    task: dict[str, Any] = answer.json()
    return task


async def create_many(client: httpx.AsyncClient, count: int) -> list[dict[str, Any]]:
    """So many tasks, a few at a time: what waits in httpx's pool costs it the square."""
    few = asyncio.Semaphore(20)

    async def one(number: int) -> dict[str, Any]:
        async with few:
            return await create(client, title=str(number))

    return await asyncio.gather(*(one(number) for number in range(count)))


async def patch(client: httpx.AsyncClient, task_id: str, **fields: Any) -> dict[str, Any]:
    """The task after a change of these fields."""
    answer = await client.patch(f"{TASKS}/{task_id}", json=fields)
    assert answer.status_code == 200, answer.text
    task: dict[str, Any] = answer.json()
    return task


async def progress(client: httpx.AsyncClient, task_id: str, done: int) -> dict[str, Any]:
    """The task with so much of it done."""
    return await patch(client, task_id, progress={"done": done})


async def get(client: httpx.AsyncClient, task_id: str) -> dict[str, Any]:
    answer = await client.get(f"{TASKS}/{task_id}")
    assert answer.status_code == 200, answer.text
    task: dict[str, Any] = answer.json()
    return task


async def as_of(client: httpx.AsyncClient) -> tuple[str, int]:
    """The log's epoch and head, as the database has them."""
    answer = await client.get(TASKS, params={"limit": 1})
    epoch, _, head = answer.raise_for_status().json()["as_of"].rpartition("-")
    return epoch, int(head)


async def listed(client: httpx.AsyncClient, **params: Any) -> tuple[list[dict[str, Any]], str]:
    """All tasks that a list shows, page after page, and the first page's `as_of`."""
    tasks: list[dict[str, Any]] = []
    first: str | None = None
    while True:
        page = (await client.get(TASKS, params=params)).raise_for_status().json()
        tasks += page["data"]
        first = first or page["as_of"]
        if page["next_cursor"] is None:
            return tasks, first
        params["cursor"] = page["next_cursor"]


def shown(event: dict[str, Any]) -> dict[str, Any]:
    """What a snapshot and GET both say of a task, in the same words."""
    differing = ("type", "ts", "task_id", "id", "last_position")
    return {"id": event.get("id") or event["task_id"], **{k: v for k, v in event.items() if k not in differing}}


def is_terminal(event: dict[str, Any]) -> bool:
    return event["type"] == "snapshot" and event["status"] in TERMINAL


def snapshots(frames: list[Frame]) -> list[Frame]:
    return [frame for frame in frames if frame.type == "snapshot"]


def done_of(frames: list[Frame]) -> list[int]:
    """How much each snapshot says is done."""
    return [frame.event["progress"]["done"] for frame in snapshots(frames)]


# ── streams ────────────────────────────────────────────────────────────────────────────────────────────────────


class Stream:
    """An open stream of any transport, whose frames are read one at a time, each within a time."""

    def __init__(self, source: SseStream | Socket, ref: str | None = None) -> None:
        self._source = source
        self._ref = ref
        self.frames: list[Frame] = []  # all that came

    async def next(self) -> Frame:
        """Raise StopAsyncIteration at the end of an SSE stream, ConnectionClosed at that of a WebSocket."""
        async with asyncio.timeout(ANSWER_SECONDS):
            if isinstance(self._source, SseStream):
                frame = frame_of(await anext(self._source))
            else:
                frame = await self._source.next()
                assert frame.ref == self._ref
                frame = structs.replace(frame, ref=None)
        self.frames.append(frame)
        return frame

    async def until(self, wanted: Callable[[Frame], bool]) -> list[Frame]:
        """Frames up to and including the first that is wanted."""
        seen: list[Frame] = []
        async with asyncio.timeout(ANSWER_SECONDS):  # heartbeats go on for ever
            while not seen or not wanted(seen[-1]):
                seen.append(await self.next())
        return seen

    async def until_type(self, name: str) -> list[Frame]:
        return await self.until(lambda frame: frame.type == name)

    async def until_rev(self, rev: int) -> list[Frame]:
        """Frames up to and including the snapshot of this revision."""
        return await self.until(lambda frame: frame.type == "snapshot" and frame.event["rev"] >= rev)

    async def until_id(self, position: str) -> list[Frame]:
        """Frames up to and including the one with this id."""
        return await self.until(lambda frame: frame.id == position)

    async def rest(self) -> list[Frame]:
        """Frames up to and including stream_end; nothing may follow it."""
        seen = await self.until_type("stream_end")
        if isinstance(self._source, SseStream):
            async with asyncio.timeout(ANSWER_SECONDS):
                assert [message async for message in self._source] == []
        return seen

    async def close_code(self) -> int | None:
        """The code with which a WebSocket of its own is closed; what comes before it must be nothing."""
        assert isinstance(self._source, Socket)
        async with asyncio.timeout(ANSWER_SECONDS):
            try:
                message = await self._source.connection.recv()
            except ConnectionClosed:
                await self._source.connection.wait_closed()
                return self._source.connection.close_code
        raise AssertionError(f"after the end came {message!r}")


def frame_of(message: SseMessage) -> Frame:
    """A frame of a stream whose primary type is `snapshot`: that one is not named."""
    event = json.loads(message.data)
    assert message.event == ("message" if event["type"] == "snapshot" else event["type"])
    return Frame(message.id, event)


@asynccontextmanager
async def stream(
    url: str, transport: Transport, path: str, *, headers: dict[str, str] | None = None, **params: Any
) -> AsyncIterator[Stream]:
    """The stream `<path>/stream` of the server at `url`; raises what the library does when it is refused."""
    query = f"?{urlencode(params)}" if params else ""
    if transport == "sse":
        async with (
            httpx.AsyncClient(base_url=url, timeout=ANSWER_SECONDS) as client,
            sse(client, f"{path}/stream{query}", headers=headers) as source,
        ):
            yield Stream(source)
        return
    base = url.replace("http", "ws", 1)
    if transport == "channels":
        async with socket(f"{base}{TASKS}/ws") as opened:
            follow = {"op": "follow", "ref": REF, "channel": channel_of(path), **params}
            await opened.send(follow)
            yield Stream(opened, REF)
        return
    async with socket(f"{base}{path}/stream{query}", subprotocol=transport, additional_headers=headers or {}) as opened:
        yield Stream(opened)


def channel_of(path: str) -> str:
    """The name a stream has on /ws."""
    return "tasks" if path == TASKS else f"task/{path.removeprefix(TASKS + '/')}"


def of(task: dict[str, Any]) -> str:
    """The path of a task."""
    return f"{TASKS}/{task['id']}"
