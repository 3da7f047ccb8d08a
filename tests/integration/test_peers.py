"""Other people's servers and readers: what they really send over a socket is read the same by all of us."""

import asyncio
import json
import random
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import httpx_sse
import pytest
import uvicorn
from litestar import Litestar, Request, get
from litestar.params import FromPath
from litestar.response import ServerSentEvent
from litestar.response.sse import ServerSentEventMessage
from sse_starlette.event import ServerSentEvent as StarletteEvent
from sse_starlette.sse import EventSourceResponse

from services.runs.events import SCHEMA
from shared.client import Client
from shared.client.follow import Item
from shared.protocol.schema import UnknownEvent
from tests.integration.client_support import rest_of
from tests.support.contract import ANSWER_SECONDS, RUNS, Served, ended_run, events_of
from tests.support.cutting_proxy import cutting_proxy, up_to
from tests.support.server import SseStream

SEPARATORS = {"crlf": "\r\n", "lf": "\n", "cr": "\r"}
COUNT = 60
END = {
    "type": "stream_end",
    "status": None,
    "reason": "terminal",
    "final": True,
    "last_id": "x",
    "retry_after_ms": None,
}


def event_of(number: int) -> dict[str, Any]:
    """With all that a line-based format could stumble over."""
    texts = ["plain", "", "zwei\nZeilen", "\r", "☃ \u2028 \u0085", ": no comment", "data: x", "😀" * 20, "\ufeff"]
    return {"type": "made_up", "number": number, "text": texts[number % len(texts)]}


def data_of(number: int) -> str:
    """Every other one over several lines."""
    return json.dumps(event_of(number), ensure_ascii=False, indent=2 if number % 2 else None)


def numbers_after(last_event_id: str | None) -> range:
    return range(int((last_event_id or "e-0").partition("-")[2]) + 1, COUNT + 1)


# ── their servers ──────────────────────────────────────────────────────────────────────────────────────────────


@get("/litestar/{sep:str}")
async def by_litestar(request: Request[Any, Any, Any], sep: FromPath[str]) -> ServerSentEvent:
    async def messages() -> AsyncIterator[ServerSentEventMessage]:
        separator = SEPARATORS[sep]
        yield ServerSentEventMessage(data=None, comment="open", retry=20, sep=separator)
        for number in numbers_after(request.headers.get("last-event-id")):
            yield ServerSentEventMessage(data_of(number), "made_up", f"e-{number}", sep=separator)
            if number % 7 == 0:
                yield ServerSentEventMessage(data=None, comment="still\nhere", sep=separator)
        yield ServerSentEventMessage(json.dumps(END), "stream_end", f"e-{COUNT}", sep=separator)

    return ServerSentEvent(messages())


async def by_sse_starlette(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application: `/sse-starlette/crlf`."""
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}

    async def messages() -> AsyncIterator[StarletteEvent]:
        yield StarletteEvent(comment="open", retry=20)
        for number in numbers_after(headers.get("last-event-id")):
            yield StarletteEvent(data_of(number), event="made_up", id=f"e-{number}")
            if number % 20 == 0:
                await asyncio.sleep(0.05)  # its own pings come meanwhile
        yield StarletteEvent(json.dumps(END), event="stream_end", id=f"e-{COUNT}")

    separator = SEPARATORS[scope["path"].rpartition("/")[2]]

    async def with_separator() -> AsyncIterator[StarletteEvent]:
        async for message in messages():
            message._sep = separator
            yield message

    await EventSourceResponse(with_separator(), ping=0.01, sep=separator)(scope, receive, send)


litestar = Litestar([by_litestar])


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http" and scope["path"].startswith("/sse-starlette/"):
        await by_sse_starlette(scope, receive, send)
    else:
        await litestar(scope, receive, send)


@contextmanager
def listening() -> Iterator[str]:
    """Both of them behind one uvicorn, in a thread of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(application, log_config=None, timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield "http://{}:{}".format(*listener.getsockname())
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def peers() -> Iterator[str]:
    with listening() as url:
        yield url


PATHS = [f"/{name}/{separator}" for name in ("litestar", "sse-starlette") for separator in SEPARATORS]
EXPECTED = [(f"e-{number}", event_of(number)) for number in range(1, COUNT + 1)]


def plain(items: list[tuple[str, Item]]) -> list[tuple[str, dict[str, Any]]]:
    assert all(isinstance(item, UnknownEvent) for _, item in items)
    return [(position, item.fields) for position, item in items if isinstance(item, UnknownEvent)]


@pytest.mark.parametrize("path", PATHS)
async def test_we_read_what_other_servers_send(peers: str, path: str) -> None:
    async with asyncio.timeout(ANSWER_SECONDS), Client(peers) as client, client.follow(path) as stream:
        assert plain(await rest_of(stream)) == EXPECTED
    assert stream.end is not None
    assert stream.end.reason == "terminal"


@pytest.mark.usefixtures("quick_backoff")
@pytest.mark.parametrize("path", PATHS)
async def test_we_resume_at_other_servers_over_cuts_at_any_byte(peers: str, path: str) -> None:
    dice = random.Random(path)
    async with (
        asyncio.timeout(ANSWER_SECONDS),
        cutting_proxy(peers) as proxy,
        Client(proxy.url) as client,
        client.follow(path) as stream,
    ):
        proxy.answers = up_to(dice, 3_000)
        assert plain(await rest_of(stream)) == EXPECTED
    assert proxy.cuts > 3


@pytest.mark.parametrize("path", PATHS)
async def test_our_decoder_and_httpx_sse_read_the_same(peers: str, path: str) -> None:
    async with httpx.AsyncClient(base_url=peers) as http:
        async with http.stream("GET", path) as response:
            ours = [(m.event, m.data, m.id) async for m in SseStream(response)]
        async with httpx_sse.aconnect_sse(http, "GET", path) as source:
            theirs = [(event.event, event.data, event.id) async for event in source.aiter_sse() if event.data]
    assert ours == theirs
    assert len(ours) == COUNT + 1


# ── their readers ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_httpx_sse_and_our_client_see_the_same_of_our_server(client: httpx.AsyncClient, tailrace: Served) -> None:
    run_id = await ended_run(client, 40)
    path = f"{RUNS}/{run_id}/stream"
    async with httpx_sse.aconnect_sse(client, "GET", path) as source:
        theirs = [(event.id, event.event) async for event in source.aiter_sse()]
    async with Client(tailrace.url) as ours, ours.follow(path, schema=SCHEMA) as stream:
        seen = [(position, str(item.__struct_config__.tag)) for position, item in await rest_of(stream)]
    assert [pair for pair in theirs if pair[1] not in ("hello", "live", "stream_end")] == seen
    assert [position for position, _ in seen] == [frame.id for frame in await events_of(client, run_id)]
