"""The two doors to a program: `…/preview/app/…`, and its own origin with a ticket that becomes a cookie."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import httpx
import pytest
import pytest_asyncio
from msgspec import Struct
from websockets.asyncio.client import ClientConnection, connect

from tests.support.contract import Served
from tests.support.previews import (
    SERVE,
    new_generation,
    preview_url,
    reached,
    running,
    stop,
)
from tests.support.readers import eventually

SETTINGS = {"previews_per_tenant": 60, "preview_ttl_seconds": 600}
TICKETS = "/api/v1/stream-tickets"
COOKIE = "tailrace_preview"
SECONDS = 30.0  # nothing here takes that long, however busy the machine
MEGABYTE = 1024 * 1024

# Tells what it was asked, answers as it is told, and notes what it notices.
PROGRAM = """\
import asyncio, hashlib, json, os
from urllib.parse import parse_qs, unquote

noticed, counts, gates = [], {}, {}


def gate(name):
    return gates.setdefault(name, asyncio.Semaphore(0))


async def whole(receive):
    size, digest, chunks = 0, hashlib.sha256(), 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            noticed.append("upload cut")
            return None
        size, chunks = size + len(message["body"]), chunks + 1
        digest.update(message["body"])
        if not message["more_body"]:
            return {"size": size, "sha256": digest.hexdigest(), "chunks": chunks}


async def left(receive, what):
    while (await receive())["type"] != "http.disconnect":
        pass
    noticed.append(what)


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    path = scope["path"].split("/")[1]
    query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    told = {name: values[0] for name, values in query.items()}
    if scope["type"] == "websocket":
        await talk(path, told, scope, receive, send)
        return

    async def start(status=200, headers=()):
        headers = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in headers]
        await send({"type": "http.response.start", "status": status, "headers": headers})

    async def body(data=b"", more=False):
        await send({"type": "http.response.body", "body": data, "more_body": more})

    if path == "answer":
        told = json.loads(unquote(scope["query_string"].decode("latin-1")))
        await start(told.get("status", 200), told.get("headers", ()))
        await body(bytes(told.get("body", ""), "latin-1"))
    elif path == "noticed":
        await start()
        await body(json.dumps([noticed, counts]).encode())
    elif path == "go":
        gate(told["gate"]).release()
        await start()
        await body()
    elif path == "events":
        await start(200, [("content-type", "text/event-stream")])
        leaving = asyncio.create_task(left(receive, told["name"]))
        waiting = gate(told["name"])
        for number in range(int(told.get("n", 1000))):
            await body(f"data: {number}\\n\\n".encode(), True)
            going = asyncio.create_task(waiting.acquire())
            await asyncio.wait([going, leaving], return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():
                return
        await body()
    elif path == "events-after-body":
        await whole(receive)
        await start(200, [("content-type", "text/event-stream")])
        await body(b"data: begun\\n\\n", True)
        await left(receive, told["name"])
    elif path == "echo":
        await start()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            await body(message["body"], message["more_body"])
            if not message["more_body"]:
                return
    elif path == "slow":
        noticed.append("asked " + told["name"])
        going = asyncio.create_task(gate(told["name"]).acquire())
        leaving = asyncio.create_task(left(receive, "left " + told["name"]))
        await asyncio.wait([going, leaving], return_when=asyncio.FIRST_COMPLETED)
        if going.done():
            await start()
            await body(b"at last")
    elif path == "big":
        await start(200, [("content-length", told["n"])] if "length" in told else [])
        leaving = asyncio.create_task(left(receive, "left big"))
        left_over = int(told["n"])
        while left_over and not leaving.done():
            data = bytes(min(65536, left_over))
            left_over -= len(data)
            await body(data, True)
            counts[told.get("name", "big")] = int(told["n"]) - left_over
        await body()
    elif path == "half":
        await start(200, [("content-length", "1000")] if "length" in told else [])
        await body(b"half", True)
        await gate("half").acquire()
        os._exit(3)
    elif path == "die":
        os._exit(3)
    elif path == "unread":
        await start(413)
        await body(b"too large")
    else:
        seen = {
            "method": scope["method"],
            "target": scope["raw_path"].decode("latin-1"),
            "query": scope["query_string"].decode("latin-1"),
            "headers": [[n.decode("latin-1"), v.decode("latin-1")] for n, v in scope["headers"]],
            "body": await whole(receive),
        }
        await start(200, [("content-type", "application/json")])
        await body(json.dumps(seen).encode())


async def talk(path, told, scope, receive, send):
    assert (await receive())["type"] == "websocket.connect"
    if path == "refuse":
        status, body = int(told["status"]), b"not you"
        await send({"type": "websocket.http.response.start", "status": status, "headers": []})
        await send({"type": "websocket.http.response.body", "body": body})
        return
    if path == "wait":
        await gate("handshake").acquire()
    chosen = told.get("choose")
    await send({"type": "websocket.accept", "subprotocol": chosen})
    if path == "closes":
        await send({"type": "websocket.send", "text": "bye"})
        await send({"type": "websocket.close", "code": int(told["code"]), "reason": told.get("reason", "")})
        return
    if path == "dies":
        await receive()
        os._exit(3)
    if path == "told":
        seen = {
            "target": scope["raw_path"].decode("latin-1"),
            "query": scope["query_string"].decode("latin-1"),
            "headers": [[n.decode("latin-1"), v.decode("latin-1")] for n, v in scope["headers"]],
            "offered": scope["subprotocols"],
        }
        await send({"type": "websocket.send", "text": json.dumps(seen)})
    if path == "flood":
        for number in range(int(told["n"])):
            await send({"type": "websocket.send", "bytes": bytes(65536)})
            counts["flood"] = number + 1
    if path == "deaf":
        await gate("deaf").acquire()
    if path == "large":
        await send({"type": "websocket.send", "bytes": bytes(int(told["n"]))})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            noticed.append(["closed", message["code"], message.get("reason") or ""])
            return
        kind = "text" if message.get("text") is not None else "bytes"
        counts["heard"] = counts.get("heard", 0) + 1
        await send({"type": "websocket.send", kind: message[kind]})
"""
# Answers each connection with the bytes that it finds in the query, and keeps what it was sent.
WIRE = SERVE.replace(
    "            answer = \"\"\n", "            answer = \"\"\n            if told.startswith('wire='):\n"
    "                connection.sendall(bytes.fromhex(told[5:])); continue\n"
)  # fmt: skip


class Answer(Struct, frozen=True):
    """What came back over a connection that was written by hand."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Door(Struct, frozen=True):
    """A way in to a running program."""

    name: Literal["passage", "origin"]
    url: str
    prefix: str
    headers: dict[str, str]
    generation: str

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return str(parts.hostname), parts.port or 80

    @asynccontextmanager
    async def stream(self, method: str, target: str, **options: Any) -> AsyncIterator[httpx.Response]:
        """An answer as it comes; the target is sent as it stands here, below the door's own."""
        headers = list(self.headers.items()) + list(options.pop("headers", {}).items())
        async with httpx.AsyncClient(base_url=self.url, timeout=SECONDS, trust_env=False) as client:
            extensions = {"target": (self.prefix + target).encode()}
            async with client.stream(method, "/", headers=headers, extensions=extensions, **options) as response:
                yield response

    async def ask(self, method: str, target: str, **options: Any) -> httpx.Response:
        async with self.stream(method, target, **options) as response:
            await response.aread()
            return response

    async def seen(self, method: str = "GET", target: str = "/seen", **options: Any) -> dict[str, Any]:
        """What the program was asked."""
        answer = await self.ask(method, target, **options)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def answer(self, *, method: str = "GET", **told: Any) -> httpx.Response:
        """What becomes of an answer of the program's."""
        return await self.ask(method, "/answer?" + quote(json.dumps(told), safe=""))

    async def noticed(self) -> tuple[list[Any], dict[str, int]]:
        events, counts = (await self.ask("GET", "/noticed")).json()
        return events, counts

    async def notices(self, what: Any) -> None:
        """Wait until the program has noticed it."""

        async def has() -> bool:
            return what in (await self.noticed())[0]

        await eventually(has, f"the program notices {what}", SECONDS)

    async def go(self, gate: str) -> None:
        await self.ask("GET", f"/go?gate={gate}")

    async def wire(self, request: bytes) -> bytes:
        """All that comes back for these bytes, up to the end of the connection."""
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            writer.write(request)
            async with asyncio.timeout(SECONDS):
                return await reader.read()
        finally:
            writer.close()

    def head(self, method: str, target: str, *headers: str) -> bytes:
        """A request's head, ending its connection."""
        own = {"host": f"{self.address[0]}:{self.address[1]}", **self.headers}
        lines = [f"{method} {self.prefix}{target} HTTP/1.1", *(f"{n}: {v}" for n, v in own.items()), *headers]
        return "\r\n".join([*lines, "connection: close", "", ""]).encode("latin-1")

    @asynccontextmanager
    async def socket(self, target: str, **options: Any) -> AsyncIterator[ClientConnection]:
        host, port = self.address
        name = self.headers.get("host", f"{host}:{port}")
        headers = {name: value for name, value in self.headers.items() if name != "host"} | options.pop("headers", {})
        async with connect(
            f"ws://{name}{self.prefix}{target}",
            host=host,
            port=port,
            additional_headers=headers,
            max_size=None,
            close_timeout=5,
            proxy=None,
            ping_interval=None,
            **options,
        ) as opened:
            yield opened


async def ticket_for(client: httpx.AsyncClient, generation: str) -> str:
    answer = await client.post(TICKETS, json={"path": f"{preview_url(generation)}/app/"})
    assert answer.status_code == 201, answer.text
    ticket: str = answer.json()["ticket"]
    return ticket


def host_of(preview: dict[str, Any]) -> str:
    return urlsplit(str(preview["url"])).netloc


async def enter(client: httpx.AsyncClient, preview: dict[str, Any]) -> str:
    """The cookie with which its origin is open."""
    ticket = await ticket_for(client, preview["generation_id"])
    answer = await client.get("/", params={"ticket": ticket}, headers={"host": host_of(preview)})
    assert answer.status_code == 303, answer.text
    cookie: str = answer.headers["set-cookie"].partition(";")[0]
    return cookie


async def door_to(client: httpx.AsyncClient, url: str, preview: dict[str, Any], name: Any) -> Door:
    generation = preview["generation_id"]
    if name == "passage":
        return Door(name, url, f"{preview_url(generation)}/app", {}, generation)
    return Door(name, url, "", {"host": host_of(preview), "cookie": await enter(client, preview)}, generation)


async def launched(client: httpx.AsyncClient) -> dict[str, Any]:
    generation = new_generation("door")
    answer = await client.post(
        preview_url(generation), json={"files": {"main.py": PROGRAM}, "kind": "asgi", "entry": "main:app"}
    )
    assert answer.status_code == 202, answer.text
    return await reached(client, generation, "running")


_shared: dict[str, dict[str, Any]] = {}  # one program a server, for the tests that leave it alive


@pytest_asyncio.fixture
async def preview(client: httpx.AsyncClient, tailrace: Served) -> dict[str, Any]:
    if tailrace.url not in _shared:
        _shared[tailrace.url] = await launched(client)
    return _shared[tailrace.url]


@pytest_asyncio.fixture(params=["passage", "origin"])
async def door(
    request: pytest.FixtureRequest, client: httpx.AsyncClient, tailrace: Served, preview: dict[str, Any]
) -> Door:
    return await door_to(client, tailrace.url, preview, request.param)


@pytest_asyncio.fixture(params=["passage", "origin"])
async def own_door(request: pytest.FixtureRequest, client: httpx.AsyncClient, tailrace: Served) -> AsyncIterator[Door]:
    """To a program that the test may kill."""
    preview = await launched(client)
    yield await door_to(client, tailrace.url, preview, request.param)
    await client.delete(preview_url(preview["generation_id"]))


@pytest.fixture(autouse=True)
def nothing_unforeseen(tailrace: Served) -> Iterator[None]:
    """Whatever callers and programs do, it is no error of the service's."""
    seen = len(tailrace.server.output)
    yield
    assert "".join(tailrace.server.output[seen:]).count("Traceback") == 0, "".join(tailrace.server.output[seen:])


def values(headers: list[list[str]], name: str) -> list[str]:
    return [value for key, value in headers if key == name]


# ── requests ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
async def test_every_method_passes_with_its_body(door: Door, method: str) -> None:
    seen = await door.seen(method, content=b"a body \0\xff")
    assert (seen["method"], seen["body"]["size"]) == (method, 9)
    assert seen["body"]["sha256"] == hashlib.sha256(b"a body \0\xff").hexdigest()
    assert (await door.seen(method))["body"]["size"] == 0


async def test_head_has_headers_and_no_body(door: Door) -> None:
    answer = await door.answer(method="HEAD", headers=[["content-length", "5"], ["x-more", "1"]])
    assert (answer.status_code, answer.content) == (200, b"")
    assert (answer.headers["content-length"], answer.headers["x-more"]) == ("5", "1")


@pytest.mark.parametrize("status", [200, 201, 203, 206, 301, 302, 307, 400, 401, 404, 418, 429, 500, 503, 599])
async def test_every_status_passes_and_redirects_are_not_followed(door: Door, status: int) -> None:
    answer = await door.answer(status=status, headers=[["location", "http://elsewhere.test/x"]], body="as it is")
    assert (answer.status_code, answer.text) == (status, "as it is")
    assert answer.headers["location"] == "http://elsewhere.test/x"


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("headers", [[], [["etag", '"1"'], ["content-length", "1234"]]])
async def test_answers_without_a_body_pass(door: Door, status: int, headers: list[list[str]]) -> None:
    if status == 204:
        headers = headers[:1]  # a length is not allowed there
    raw = bytes(f"HTTP/1.1 {status} x\r\n" + "".join(f"{n}: {v}\r\n" for n, v in headers) + "\r\n", "latin-1")
    async with wired(door) as wire:
        answer = await wire.ask("GET", f"/x?wire={raw.hex()}")
        assert (answer.status_code, answer.content) == (status, b"")
        assert answer.headers.get("etag") == ('"1"' if headers else None)


@asynccontextmanager
async def wired(door: Door) -> AsyncIterator[Door]:
    """The same door of a program that writes its answers by hand."""
    generation = new_generation("wire")
    async with httpx.AsyncClient(base_url=door.url, timeout=SECONDS) as client:
        preview = await running(client, generation, WIRE)
        try:
            yield await door_to(client, door.url, preview, door.name)
        finally:
            await stop(client, generation)


async def test_headers_pass_repeated_ones_too(door: Door) -> None:
    sent = [(b"x-one", b"1"), (b"x-one", b"2"), (b"accept", b"a/b"), (b"x-odd", b"caf\xe9")]
    async with httpx.AsyncClient(base_url=door.url, trust_env=False) as client:
        own = [(name.encode(), value.encode()) for name, value in door.headers.items()]
        seen = (await client.get(f"{door.prefix}/seen", headers=[*own, *sent])).json()["headers"]
    assert values(seen, "x-one") == ["1", "2"]
    assert values(seen, "accept")[-1] == "a/b"
    assert values(seen, "x-odd") == ["caf\xe9"]
    answer = await door.answer(headers=[["x-two", "1"], ["x-two", "2"], ["vary", "a"], ["x-odd", "caf\xe9"]])
    assert [value for name, value in answer.headers.multi_items() if name == "x-two"] == ["1", "2"]
    assert answer.headers["x-odd"] == "caf\xe9"


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/seen",
        "/a%2Fb",
        "/a%2fb",
        "/%00",
        "/a/../b",
        "/../../../etc/passwd",
        "/./x",
        "//",
        "//evil.test/x",
        "/a//b/",
        "/%2e%2e/x",
        "/%C3%A9",
        "/%ff",
        "/x?",
        "/x?a=1&a=2&b",
        "/x?q=%2F%20+%00&ticket=1",
        "/x?a=b?c=/../d",
        "/x?http://evil.test/",
        '/x"y|z',
        "/{x}?{y}|`'\"",
        "/@evil.test/:80",
        "/%",
        "/%zz?%",
    ],
)
async def test_the_target_arrives_as_it_was_sent(door: Door, target: str) -> None:
    seen = await door.seen(target=target)
    path, _, query = target.partition("?")
    assert (seen["target"], seen["query"]) == (path, query)


async def test_the_passage_without_its_last_slash_is_the_root(door: Door) -> None:
    if door.name == "passage":
        assert (await door.seen(target=""))["target"] == "/"
        seen = await door.seen(target="?a=1")
        assert (seen["target"], seen["query"]) == ("/", "a=1")


async def test_what_is_compressed_stays_so(door: Door) -> None:
    answer = await door.answer(headers=[["content-encoding", "gzip"]], body="not gzip at all", method="HEAD")
    assert answer.headers["content-encoding"] == "gzip"
    raw = "/answer?" + quote(json.dumps({"headers": [["content-encoding", "gzip"]], "body": "\x1f\x8bzip"}), safe="")
    async with door.stream("GET", raw) as response:
        assert b"".join([chunk async for chunk in response.aiter_raw()]) == b"\x1f\xc2\x8bzip"[:1] + b"\x8bzip"
    seen = await door.seen(headers={"accept-encoding": "br", "content-encoding": "gzip"}, content=b"xyz")
    assert values(seen["headers"], "accept-encoding")[-1] == "br"
    assert values(seen["headers"], "content-encoding") == ["gzip"]
    assert seen["body"]["size"] == 3
