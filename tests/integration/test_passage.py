"""The two doors to a program: `…/preview/app/…`, and its own origin with a ticket that becomes a cookie."""

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import httpx
import pytest
import pytest_asyncio
from msgspec import Struct
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin, Subprotocol

from tests.support.contract import Served, problem_of, sql
from tests.support.postgres import OwnPostgres
from tests.support.previews import (
    SERVE,
    ended,
    launch,
    new_generation,
    preview_url,
    reached,
    restart,
    running,
    stop,
)
from tests.support.readers import eventually
from tests.support.server import running as server_running

SETTINGS = {
    "previews_per_tenant": 60,
    "preview_ttl_seconds": 600,
    "trusted_proxies": "127.0.0.1",
    "origins": "http://a.test",
}
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
    elif path == "deaf":
        noticed.append("asked " + told["name"])
        await gate(told["name"]).acquire()
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
        away = [(b"location", b"/told")]
        await send({"type": "websocket.http.response.start", "status": status, "headers": away})
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
    host: str = urlsplit(preview["url"]).netloc
    return host


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


# ── bodies ─────────────────────────────────────────────────────────────────────────────────────────────────────

BIG = 50 * MEGABYTE
GROWTH = 24 * MEGABYTE  # of the service while 50 MB pass


def memory_of(pid: int) -> int:
    """Bytes that are its own."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


async def settled(count: Callable[[], Awaitable[int]]) -> int:
    """What is counted when it no longer grows: there is no event of what does not happen."""
    for _ in range(100):
        before = await count()
        await asyncio.sleep(0.3)
        if before == await count():
            return before
    raise AssertionError("it goes on growing")


async def pieces(count: int, piece: bytes = bytes(MEGABYTE)) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield piece


async def test_a_large_upload_passes_without_being_kept(door: Door, tailrace: Served) -> None:
    before = memory_of(tailrace.server.pid)
    expected = hashlib.sha256(bytes(BIG)).hexdigest()
    for headers in ({}, {"content-length": str(BIG)}):
        seen = await door.seen("PUT", headers=headers, content=pieces(50))
        assert (seen["body"]["size"], seen["body"]["sha256"]) == (BIG, expected)
        assert ("content-length" in dict(seen["headers"])) == ("content-length" in headers)
    assert memory_of(tailrace.server.pid) - before < GROWTH


@pytest.mark.parametrize("suffix", ["", "&length"])
async def test_a_large_answer_passes_without_being_kept(door: Door, tailrace: Served, suffix: str) -> None:
    before, size = memory_of(tailrace.server.pid), 0
    async with door.stream("GET", f"/big?n={BIG}{suffix}") as response:
        async for chunk in response.aiter_raw():
            size += len(chunk)
    assert size == BIG
    assert memory_of(tailrace.server.pid) - before < GROWTH


async def test_a_caller_that_reads_nothing_holds_the_program_back(door: Door, tailrace: Served) -> None:
    before = memory_of(tailrace.server.pid)
    name = f"unread-{door.name}"
    async with door.stream("GET", f"/big?n={BIG}&name={name}") as response:
        assert response.status_code == 200

        async def how_many() -> int:
            return (await door.noticed())[1].get(name, 0)

        sent = await settled(how_many)
        assert 0 < sent < BIG // 2
        assert memory_of(tailrace.server.pid) - before < GROWTH
    await door.notices("left big")


async def test_a_program_that_reads_nothing_holds_the_caller_back(door: Door, tailrace: Served) -> None:
    before, given = memory_of(tailrace.server.pid), 0

    async def counted() -> AsyncIterator[bytes]:
        nonlocal given
        async for piece in pieces(50):
            given += len(piece)
            yield piece

    name = f"unread-upload-{door.name}"
    uploading = asyncio.create_task(door.ask("POST", f"/deaf?name={name}", content=counted()))
    await door.notices(f"asked {name}")

    async def how_many() -> int:
        return given

    await settled(how_many)
    assert given < BIG // 2
    assert memory_of(tailrace.server.pid) - before < GROWTH
    uploading.cancel()
    await asyncio.wait([uploading])
    await door.go(name)


async def test_an_upload_cut_short_is_not_a_whole_one_for_the_program(door: Door) -> None:
    before = (await door.noticed())[0].count("upload cut")
    for head in ("transfer-encoding: chunked", "content-length: 1000"):
        _, writer = await asyncio.open_connection(*door.address)
        body = b"5\r\nbegun\r\n" if "chunked" in head else b"begun"
        writer.write(door.head("POST", "/seen", head) + body)
        await writer.drain()
        writer.close()

    async def both() -> bool:
        return (await door.noticed())[0].count("upload cut") == before + 2

    await eventually(both, "the program sees both uploads end", SECONDS)


async def test_what_is_uploaded_comes_back_while_it_is_uploaded(door: Door) -> None:
    answered, given = 0, asyncio.Semaphore(1)

    async def one_by_one() -> AsyncIterator[bytes]:
        for _ in range(5):
            async with asyncio.timeout(SECONDS):
                await given.acquire()
            yield b"piece"

    reader, writer = await asyncio.open_connection(*door.address)
    writer.write(door.head("POST", "/echo", "transfer-encoding: chunked"))
    async with asyncio.timeout(SECONDS):
        async for piece in one_by_one():
            writer.write(b"5\r\n" + piece + b"\r\n")
            if not answered:
                await reader.readuntil(b"\r\n\r\n")
            assert await reader.readuntil(b"piece\r\n")
            answered += 1
            given.release()
        writer.write(b"0\r\n\r\n")
        assert await reader.read() == b"0\r\n\r\n"
    assert answered == 5
    writer.close()


async def test_a_program_may_answer_before_it_has_read_the_body(door: Door) -> None:
    answer = await door.ask("POST", "/unread", content=b"x" * 1000)
    assert (answer.status_code, answer.text) == (413, "too large")


# ── streams ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_events_arrive_one_by_one(door: Door) -> None:
    name = f"one-by-one-{door.name}"
    async with door.stream("GET", f"/events?name={name}&n=5") as response:
        assert response.headers["content-type"] == "text/event-stream"
        chunks = response.aiter_raw()
        for number in range(5):  # the next one is not sent before this one has arrived
            async with asyncio.timeout(SECONDS):
                assert await anext(chunks) == f"data: {number}\n\n".encode()
            await door.go(name)
        assert [chunk async for chunk in chunks] == []


async def test_a_caller_that_leaves_a_stream_is_noticed(door: Door) -> None:
    for method, target in (("GET", "events"), ("POST", "events"), ("POST", "events-after-body")):
        name = f"left-{target}-{method}-{door.name}"
        content = b"something" if method == "POST" else None
        async with door.stream(method, f"/{target}?name={name}", content=content) as response:
            await anext(response.aiter_raw())
        await door.notices(name)


@pytest.mark.parametrize("content", [None, b"something"])
async def test_a_caller_that_leaves_before_the_answer_is_noticed(door: Door, content: bytes | None) -> None:
    name = f"early-{door.name}-{content is None}"
    asking = asyncio.create_task(door.ask("POST", f"/slow?name={name}", content=content))
    await door.notices(f"asked {name}")
    asking.cancel()
    await asyncio.wait([asking])
    await door.notices(f"left {name}")


async def test_a_slow_program_is_waited_for(door: Door) -> None:
    name = f"slow-{door.name}"
    asking = asyncio.create_task(door.ask("GET", f"/slow?name={name}"))
    await door.notices(f"asked {name}")
    await door.go(name)
    assert (await asking).text == "at last"


@pytest.mark.parametrize("suffix", ["", "?length"])
async def test_an_answer_is_cut_where_its_program_dies(own_door: Door, suffix: str) -> None:
    async with own_door.stream("GET", f"/half{suffix}") as response:
        chunks = response.aiter_raw()
        assert await anext(chunks) == b"half"
        await own_door.go("half")
        with pytest.raises(httpx.RemoteProtocolError):
            await anext(chunks)


async def test_a_program_that_dies_before_it_answers_is_502_and_afterwards_409(
    own_door: Door, client: httpx.AsyncClient
) -> None:
    answer = await own_door.ask("GET", "/die")
    assert "did not answer" in str(problem_of(answer, 502)["detail"])
    await ended(client, own_door.generation)
    answer = await own_door.ask("GET", "/")
    assert problem_of(answer, 409)["detail"] == "The preview is exited: it answers while it runs."


# ── when it does not run ───────────────────────────────────────────────────────────────────────────────────────


async def test_it_answers_409_until_it_is_ready_and_again_when_it_has_stopped(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    generation = new_generation()
    preview = await launch(client, generation, SERVE.replace("200}", "503}"))
    doors = [await door_to(client, tailrace.url, preview, name) for name in ("passage", "origin")]
    await reached(client, generation, "starting")
    for door in doors:
        problem_of(await door.ask("GET", "/"), 409)
    await stop(client, generation)
    for door in doors:
        assert "stopped" in str(problem_of(await door.ask("GET", "/"), 409)["detail"])
        with pytest.raises(InvalidStatus) as refusal:
            async with door.socket("/"):
                pass
        assert refusal.value.response.status_code == 409
    await client.delete(preview_url(generation))
    for door in doors:
        problem_of(await door.ask("GET", "/"), 404)


async def test_requests_while_it_restarts_are_answered_or_refused_but_never_lost(
    own_door: Door, client: httpx.AsyncClient
) -> None:
    statuses: set[int] = set()
    over = asyncio.Event()

    async def ask() -> None:
        while not over.is_set():
            statuses.add((await own_door.ask("POST", "/seen", content=b"x")).status_code)

    asking = [asyncio.create_task(ask()) for _ in range(4)]
    await restart(client, own_door.generation)
    await reached(client, own_door.generation, "running", attempt=2)
    over.set()
    async with asyncio.timeout(SECONDS):
        await asyncio.gather(*asking)
    assert statuses <= {200, 409, 502}
    assert 409 in statuses
    assert (await own_door.ask("GET", "/")).status_code == 200  # the same cookie


@pytest.mark.parametrize("generation", ["nothing-like-this", "%00", "a%2Fb", "%", "x" * 500, "%ff", "%F0%9F%98%80"])
async def test_an_unknown_generation_is_404(client: httpx.AsyncClient, tailrace: Served, generation: str) -> None:
    door = Door("passage", tailrace.url, "/api/v1/generations", {}, "")
    problem_of(await door.ask("GET", f"/{generation}/preview/app/"), 404)


@pytest.mark.parametrize(
    "target",
    [
        "/api%2Fv1%2Fgenerations%2F{g}%2Fpreview%2Fapp",
        "/api%2Fv1/generations/{g}/preview/app/",
        "/api/v1/generations/{g}/preview%2Fapp/seen",
        "/api/v1/generations/{g}/preview/app%2Fseen",
        "/api/v1/generations/{g}%2Fpreview%2Fapp/seen",
    ],
)
async def test_escaped_slashes_make_no_way_in(tailrace: Served, preview: dict[str, Any], target: str) -> None:
    door = Door("passage", tailrace.url, "", {}, "")
    problem_of(await door.ask("GET", target.format(g=preview["generation_id"])), 404)


# ── headers ────────────────────────────────────────────────────────────────────────────────────────────────────

OURS = {"authorization": "Bearer x", "last-event-id": "1-1", "tailrace-lease": "lea", "idempotency-key": "k"}


async def test_our_credentials_do_not_pass_the_passage_and_at_its_own_origin_they_are_the_programs(door: Door) -> None:
    headers = (await door.seen(headers={**OURS, "x-mine": "1"}))["headers"]
    found = {name: values(headers, name) for name in OURS}
    assert values(headers, "x-mine") == ["1"]
    if door.name == "passage":
        headers = (await door.seen(headers={"cookie": "session=1"}))["headers"]
        assert not any(found.values())
        assert values(headers, "cookie") == []
    else:
        assert found == {name: [value] for name, value in OURS.items()}


async def test_our_cookie_is_not_shown_to_the_program(client: httpx.AsyncClient, door: Door) -> None:
    if door.name == "passage":
        return
    assert values((await door.seen())["headers"], "cookie") == []
    own = door.headers["cookie"]
    for given, kept in ((f"a=1; {own}; b=2", "a=1; b=2"), (f"{own};a=1", "a=1"), (f"a=1;  {own} ;", "a=1")):
        both = Door("origin", door.url, "", {**door.headers, "cookie": given}, "")
        assert values((await both.seen())["headers"], "cookie") == [kept]
    twice = Door("origin", door.url, "", {**door.headers, "cookie": f"{COOKIE}=somebody-elses; {own}"}, "")
    assert values((await twice.seen())["headers"], "cookie") == []


async def test_what_is_between_neighbours_does_not_pass(door: Door) -> None:
    own = {"connection": "close, x-hop, Authorization", "x-hop": "1", "keep-alive": "5", "te": "trailers"}
    own |= {"proxy-authorization": "Basic x", "proxy-connection": "close", "trailer": "x", "upgrade": "h2c"}
    seen = {name for name, _ in (await door.seen(headers={**own, "authorization": "x"}))["headers"]}
    assert not seen & (set(own) - {"connection"})
    assert "authorization" not in seen
    async with wired(door) as wire:
        raw = (
            b"HTTP/1.1 200 x\r\nconnection: close, X-Hop\r\nx-hop: 1\r\nkeep-alive: 5\r\nx-kept: 1\r\n"
            b"proxy-authenticate: Basic\r\ntrailer: x\r\nupgrade: h2c\r\ncontent-length: 2\r\n\r\nok"
        )
        answer = await wire.ask("GET", f"/x?wire={raw.hex()}")
    assert (answer.text, answer.headers["x-kept"]) == ("ok", "1")
    assert not set(answer.headers) & {"x-hop", "keep-alive", "proxy-authenticate", "trailer", "upgrade"}
    assert answer.headers.get("connection") in (None, "close")


async def test_what_is_forwarded_says_who_asks(door: Door) -> None:
    forged = {"x-forwarded-host": "evil.test", "forwarded": "for=6.6.6.6", "x-real-ip": "6.6.6.6"}
    headers = (await door.seen(headers=forged))["headers"]
    host = door.headers.get("host", f"{door.address[0]}:{door.address[1]}")
    assert values(headers, "host") == values(headers, "x-forwarded-host") == [host]
    assert values(headers, "x-forwarded-for") == ["127.0.0.1"]
    assert values(headers, "x-forwarded-proto") == ["http"]
    assert values(headers, "forwarded") == values(headers, "x-real-ip") == []
    # who asks from loopback is a proxy of ours here, and is believed who was before it
    proxied = {"x-forwarded-for": "6.6.6.6, 7.7.7.7", "x-forwarded-proto": "https"}
    headers = (await door.seen(headers=proxied))["headers"]
    assert values(headers, "x-forwarded-for") == ["7.7.7.7"]
    assert values(headers, "x-forwarded-proto") == ["https"]


POLICY = "content-security-policy"


async def test_answers_in_the_passage_are_sandboxed_and_set_no_cookies(
    client: httpx.AsyncClient, tailrace: Served, preview: dict[str, Any]
) -> None:
    door = await door_to(client, tailrace.url, preview, "passage")
    given = [["set-cookie", "a=1"], ["Set-Cookie", "b=2; Path=/"], [POLICY, "sandbox allow-same-origin"]]
    for status in (200, 404, 500, 302):
        answer = await door.answer(status=status, headers=given)
        policies = [value for name, value in answer.headers.multi_items() if name == POLICY]
        assert any(p.startswith("sandbox ") and "allow-same-origin" not in p for p in policies)
        assert "set-cookie" not in answer.headers


async def test_cookies_at_its_own_origin_are_of_that_host_alone_and_never_ours(
    client: httpx.AsyncClient, tailrace: Served, preview: dict[str, Any]
) -> None:
    door = await door_to(client, tailrace.url, preview, "origin")
    given = ["a=1; Domain=localhost; Path=/", "b=2;DOMAIN = .localhost;HttpOnly", "c=3; domain", f"{COOKIE}=x; Path=/"]
    given += [f" {COOKIE} =x", f"{COOKIE}", f"={COOKIE}=x; Path=/deep", f"= {COOKIE}=x", "d=Domain=x"]
    answer = await door.answer(headers=[["set-cookie", value] for value in given])
    cookies = [value for name, value in answer.headers.multi_items() if name == "set-cookie"]
    assert cookies == ["a=1; Path=/", "b=2;HttpOnly", "c=3", "d=Domain=x"]
    assert POLICY not in answer.headers


async def test_nothing_reaches_beyond_the_programs_pages(door: Door) -> None:
    names = ["clear-site-data", "service-worker-allowed", "alt-svc", "strict-transport-security", "nel", "report-to"]
    answer = await door.answer(headers=[*([name, "x"] for name in names), ["x-kept", "1"]])
    assert answer.headers["x-kept"] == "1"
    assert not set(names) & set(answer.headers)


async def test_the_script_of_a_service_worker_is_refused(door: Door) -> None:
    answer = await door.ask("GET", "/sw.js", headers={"Service-Worker": "script"})
    problem_of(answer, 403)


# ── smuggling ──────────────────────────────────────────────────────────────────────────────────────────────────

INNER = b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"


async def test_two_lengths_make_no_second_request(door: Door) -> None:
    before = (await door.noticed())[1]
    chunked, length = "transfer-encoding: chunked", f"content-length: {5 + len(INNER)}"
    for headers in (
        (length, chunked),
        (chunked, length),
        (length, "Transfer-Encoding : chunked"),
        (length, "transfer-encoding: xchunked"),
        (length, "transfer-encoding: identity, chunked"),
        (length, "transfer-encoding:\tchunked"),
        (length, "transfer-encoding: chunked", "transfer-encoding: x"),
        (length, "content-length: 5"),
        ("content-length: +5",),
        ("content-length: 5, 5",),
        ("content-length: 0x5",),
    ):
        answer = await door.wire(door.head("POST", "/seen", *headers) + b"0\r\n\r\n" + INNER)
        assert answer.count(b"HTTP/1.1 ") <= 1, (headers, answer)
        assert b"/smuggled" not in answer
    assert (await door.noticed())[1] == before


async def test_line_ends_do_not_pass_in_targets_or_headers(door: Door) -> None:
    seen = await door.seen(target="/a%0d%0aX-Evil:%201?%0d%0ab")
    assert seen["target"] == "/a%0d%0aX-Evil:%201"
    assert "x-evil" not in {name for name, _ in seen["headers"]}
    for head in (
        door.head("GET", "/a\rx-evil: 1"),
        door.head("GET", "/seen", "x-a: b\rx-evil: 1"),
        door.head("GET", "/seen", "x-a: b\0"),
        door.head("GET", "/seen", "x-a\0: b"),
        door.head("GET", "/a b"),
        door.head("GET", "/a\tb"),
    ):
        answer = await door.wire(head)
        assert answer.startswith(b"HTTP/1.1 40"), (head, answer)


@pytest.mark.parametrize("target", ["/caf\xe9", "/x?caf\xe9", "/#fragment", "/x#y?z", "/\\evil.test", "/^`"])
async def test_targets_that_are_none_are_answered_all_the_same(door: Door, target: str) -> None:
    answer = await door.wire(door.head("GET", target))
    assert re.match(rb"HTTP/1\.1 (200|400|403|502) ", answer), answer


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"nonsense\r\n\r\n", 502),
        (b"HTTP/1.1 200 x\r\nbad header\r\n\r\n", 502),
        (b"HTTP/1.1 999 x\r\ncontent-length: 0\r\n\r\n", 502),
        (b"HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", 502),
        (b"HTTP/1.1 200 x\r\n" + b"x: " + b"y" * 200_000 + b"\r\n\r\n", 502),
        (b"HTTP/1.1 103 hints\r\nlink: x\r\n\r\nHTTP/1.1 200 x\r\ncontent-length: 2\r\n\r\nok", 200),
        (b"HTTP/1.1 200 x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nok", 502),
        (b"HTTP/1.1 200 x\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200),
        (b"HTTP/1.1 200 x\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 x\r\n\r\nsmuggled", 200),
        (b"HTTP/1.0 200 x\r\n\r\nok", 200),
        (b"", 502),
    ],
)
async def test_an_answer_that_is_none_is_502(
    client: httpx.AsyncClient, tailrace: Served, raw: bytes, status: int
) -> None:
    generation = new_generation("wire")
    code = SERVE.replace(
        '            answer = ""\n',
        "            answer = \"\"\n            if path == '/wire':\n"
        "                connection.sendall(bytes.fromhex(open('raw').read())); continue\n",
    )
    preview = await running(client, generation, code, files={"raw": raw.hex()})
    door = await door_to(client, tailrace.url, preview, "passage")
    answer = await door.ask("GET", "/wire")
    assert answer.status_code == status
    if status == 200:
        assert answer.text == "ok"
    await stop(client, generation)


# ── tickets ────────────────────────────────────────────────────────────────────────────────────────────────────


async def redeem(url: str, host: str, ticket: str, target: str = "/") -> httpx.Response:
    """Come to an origin with a ticket, as a browser that has no cookie does."""
    door = Door("origin", url, "", {"host": host}, "")
    return await door.ask("GET", f"{target}?ticket={ticket}")


async def test_a_ticket_becomes_a_cookie_of_the_host_and_leaves_the_address(
    client: httpx.AsyncClient, tailrace: Served, preview: dict[str, Any]
) -> None:
    ticket = await ticket_for(client, preview["generation_id"])
    answer = await redeem(tailrace.url, host_of(preview), ticket, "/deep/page")
    assert (answer.status_code, answer.headers["location"]) == (303, "/deep/page")
    cookie, *attributes = answer.headers["set-cookie"].split("; ")
    assert cookie.startswith(f"{COOKIE}=")
    assert sorted(attributes) == ["HttpOnly", "Path=/", "SameSite=Lax"]
    assert (answer.headers["cache-control"], answer.headers["referrer-policy"]) == ("no-store", "no-referrer")
    assert ticket not in str(answer.headers)
    door = Door("origin", tailrace.url, "", {"host": host_of(preview), "cookie": cookie}, "")
    assert (await door.seen())["target"] == "/seen"


async def test_behind_tls_the_cookie_is_for_tls_only(
    client: httpx.AsyncClient, tailrace: Served, preview: dict[str, Any]
) -> None:
    door = Door("origin", tailrace.url, "", {"host": host_of(preview), "x-forwarded-proto": "https"}, "")
    answer = await door.ask("GET", f"/?ticket={await ticket_for(client, preview['generation_id'])}")
    assert answer.headers["set-cookie"].endswith("; Secure")


async def test_in_a_frame_the_cookie_is_one_that_browsers_take_from_a_third_party(
    client: httpx.AsyncClient, tailrace: Served, preview: dict[str, Any]
) -> None:
    door = Door("origin", tailrace.url, "", {"host": host_of(preview), "sec-fetch-dest": "iframe"}, "")
    answer = await door.ask("GET", f"/?ticket={await ticket_for(client, preview['generation_id'])}")
    _, *attributes = answer.headers["set-cookie"].split("; ")
    assert sorted(attributes) == ["HttpOnly", "Partitioned", "Path=/", "SameSite=None", "Secure"]


async def test_a_ticket_is_good_once(client: httpx.AsyncClient, tailrace: Served, preview: dict[str, Any]) -> None:
    ticket = await ticket_for(client, preview["generation_id"])
    answers = await asyncio.gather(*(redeem(tailrace.url, host_of(preview), ticket) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [303, *[403] * 19]
    assert sum("set-cookie" in answer.headers for answer in answers) == 1
    problem_of(await redeem(tailrace.url, host_of(preview), ticket), 403)


@pytest.mark.parametrize(("seconds", "status"), [(29, 303), (30, 403), (3600, 403)])
async def test_a_ticket_is_good_for_30_seconds(
    client: httpx.AsyncClient, tailrace: Served, preview: dict[str, Any], seconds: int, status: int
) -> None:
    ticket = await ticket_for(client, preview["generation_id"])
    async with sql(tailrace.database_url) as connection:
        moved = await connection.execute(
            "UPDATE access.tickets SET expires_at = now() + interval '30 s' - interval '1 s' * $1 WHERE hash = $2",
            seconds,
            hashlib.sha256(ticket.encode()).digest(),
        )
    assert moved == "UPDATE 1"
    assert (await redeem(tailrace.url, host_of(preview), ticket)).status_code == status


async def test_only_hashes_of_tickets_are_kept_and_old_ones_go(
    client: httpx.AsyncClient, tailrace: Served, preview: dict[str, Any]
) -> None:
    ticket = await ticket_for(client, preview["generation_id"])
    async with sql(tailrace.database_url) as connection:
        assert ticket not in str(await connection.fetch("SELECT *, encode(hash, 'escape') FROM access.tickets"))
        await connection.execute("UPDATE access.tickets SET expires_at = now() - interval '1 s'")
        await ticket_for(client, preview["generation_id"])
        assert await connection.fetchval("SELECT count(*) FROM access.tickets") == 1


@pytest.mark.parametrize(
    "path", ["/api/v1/runs/x/stream", "/api/v1/generations/other/preview/app/", "{own}", "{own}/x"]
)
async def test_a_ticket_for_something_else_opens_nothing_and_is_used_up(
    client: httpx.AsyncClient, tailrace: Served, preview: dict[str, Any], path: str
) -> None:
    path = path.format(own=f"{preview_url(preview['generation_id'])}/app")
    ticket = (await client.post(TICKETS, json={"path": path})).json()["ticket"]
    answer = await redeem(tailrace.url, host_of(preview), ticket)
    problem_of(answer, 403)
    assert "set-cookie" not in answer.headers
    async with sql(tailrace.database_url) as connection:
        digest = hashlib.sha256(ticket.encode()).digest()
        assert await connection.fetchval("SELECT count(*) FROM access.tickets WHERE hash = $1", digest) == 0


async def test_a_ticket_of_another_tenant_opens_nothing(
    client: httpx.AsyncClient, tailrace: Served, preview: dict[str, Any]
) -> None:
    ticket = await ticket_for(client, preview["generation_id"])
    async with sql(tailrace.database_url) as connection:
        await connection.execute("UPDATE access.tickets SET tenant = 'another'")
    problem_of(await redeem(tailrace.url, host_of(preview), ticket), 403)


@pytest.mark.parametrize("ticket", ["", "x", "%00", "%ff", "x" * 5000, "'; DROP TABLE access.tickets; --", "caf%C3%A9"])
async def test_a_ticket_that_is_none_is_403(tailrace: Served, preview: dict[str, Any], ticket: str) -> None:
    answer = await redeem(tailrace.url, host_of(preview), ticket.replace(" ", "%20"))
    problem_of(answer, 403)
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "path",
    ["nothing", "", "/api/v2/x", "/api/v1/", "/api/v1/x?y", "/api/v1/x#y", "/api/v1/x y", "/api/v1/x\n", "/api/v1/\0"],
)
async def test_a_ticket_for_what_is_no_path_is_refused(client: httpx.AsyncClient, path: str) -> None:
    problem_of(await client.post(TICKETS, json={"path": path}), 400)


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("//evil.test/", "/evil.test/"),
        ("///evil.test", "/evil.test"),
        ("/\\evil.test", "/evil.test"),
        ("/\\/evil.test", "/evil.test"),
        ("//\\/\\evil.test", "/evil.test"),
        ("/@evil.test", "/@evil.test"),
        ("/%2F%2Fevil.test", "/%2F%2Fevil.test"),
        ("/%5Cevil.test", "/%5Cevil.test"),
        ("/%0d%0aset-cookie:x", "/%0d%0aset-cookie:x"),
        ("/http://evil.test/", "/http://evil.test/"),
        ("/a/../..//evil.test", "/a/../..//evil.test"),
    ],
)
async def test_entering_never_leads_to_another_host(
    client: httpx.AsyncClient, tailrace: Served, preview: dict[str, Any], target: str, location: str
) -> None:
    ticket = await ticket_for(client, preview["generation_id"])
    answer = await redeem(tailrace.url, host_of(preview), ticket, target)
    assert (answer.status_code, answer.headers["location"]) == (303, location)


async def test_a_ticket_beside_other_parameters_is_not_taken_nor_shown_to_the_program(
    client: httpx.AsyncClient, tailrace: Served, preview: dict[str, Any]
) -> None:
    ticket = await ticket_for(client, preview["generation_id"])
    closed = Door("origin", tailrace.url, "", {"host": host_of(preview)}, "")
    for query in (f"a=1&ticket={ticket}", f"ticket={ticket}&a=1", f"Ticket={ticket}", f"x?ticket={ticket}"):
        answer = await closed.ask("GET", f"/?{query}")
        problem_of(answer, 403)
        assert "set-cookie" not in answer.headers
    assert (await redeem(tailrace.url, host_of(preview), ticket)).status_code == 303


async def test_a_ticket_in_other_addresses_is_not_used(
    client: httpx.AsyncClient, tailrace: Served, preview: dict[str, Any]
) -> None:
    generation = preview["generation_id"]
    ticket = await ticket_for(client, generation)
    for path in (f"{preview_url(generation)}/app/seen", "/", "/health"):
        answer = await client.get(path, params={"ticket": ticket})
        assert "set-cookie" not in answer.headers
    closed = Door("origin", tailrace.url, "", {"host": host_of(preview)}, "")
    with pytest.raises(InvalidStatus):
        async with closed.socket(f"/echo?ticket={ticket}"):
            pass
    assert (await redeem(tailrace.url, host_of(preview), ticket)).status_code == 303


# ── origins ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_origin_is_closed_without_its_own_cookie(
    client: httpx.AsyncClient, tailrace: Served, preview: dict[str, Any]
) -> None:
    other = await launched(client)
    foreign = await enter(client, other)
    for cookies in (
        {},
        {"cookie": foreign},
        {"cookie": f"{COOKIE}="},
        {"cookie": f"{COOKIE}=\u00e9"},
        {"cookie": COOKIE},
    ):
        door = Door("origin", tailrace.url, "", {"host": host_of(preview), **cookies}, "")
        answer = await door.wire(door.head("GET", "/"))
        assert answer.startswith(b"HTTP/1.1 403"), answer
        if "\u00e9" not in str(cookies):
            with pytest.raises(InvalidStatus) as refusal:
                async with door.socket("/told"):
                    pass
            assert refusal.value.response.status_code == 403
    await stop(client, other["generation_id"])


async def test_the_origin_of_a_preview_is_found_however_its_host_is_written(
    client: httpx.AsyncClient, tailrace: Served, preview: dict[str, Any]
) -> None:
    cookie, label = await enter(client, preview), host_of(preview).partition(".")[0]
    for host in (f"{label}.localhost", f"{label}.localhost:1", f"{label.upper()}.LocalHost:{tailrace.server.port}"):
        door = Door("origin", tailrace.url, "", {"host": host, "cookie": cookie}, "")
        assert values((await door.seen())["headers"], "host") == [host]
        assert (await door.seen(target="/health"))["target"] == "/health"  # everything is the program's
        assert (await door.seen(target=preview_url("x")))["target"] == preview_url("x")


async def test_hosts_that_only_look_like_a_previews_reach_no_program(
    client: httpx.AsyncClient, tailrace: Served, preview: dict[str, Any]
) -> None:
    cookie, label = await enter(client, preview), host_of(preview).partition(".")[0]
    for host in (
        f"{label}.localhost.",
        f"{label}.evil.com",
        f"{label}.localhost.evil.com",
        f"x.{label}.localhost",
        f"{label}",
        f"{label}.localhost:80:80",
        f"{label}x.localhost",
        f"{label[:-1]}.localhost",
        f"{label.replace('-', '_')}.localhost",
        f"{label}.localhost@evil.com",
        "prv-.localhost",
        "run-01jzzzzzzzzzzzzzzzzzzzzzzz.localhost",
    ):
        door = Door("origin", tailrace.url, "", {"host": host, "cookie": cookie}, "")
        for target in ("/seen", f"{preview_url('nothing-like-this')}/app/seen"):
            answer = await door.ask("GET", target)
            assert answer.status_code in (400, 403, 404), (host, answer.text)
            assert '"target"' not in answer.text
    unknown = Door("origin", tailrace.url, "", {"host": "prv-01jzzzzzzzzzzzzzzzzzzzzzzz.localhost"}, "")
    assert problem_of(await unknown.ask("GET", "/"), 404)["detail"] == "There is no such preview."


# ── WebSockets ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_messages_pass_both_ways(door: Door) -> None:
    async with door.socket("/told?a=%2F&b") as opened:
        seen = json.loads(await opened.recv())
        assert (seen["target"], seen["query"]) == ("/told", "a=%2F&b")
        for message in ("text", "caf\u00e9 \0", "", b"", b"bytes \0\xff", "x" * 60_000, b"y" * 60_000):
            await opened.send(message)
            assert await opened.recv() == message
        await opened.send(["in ", "three ", "frames"])
        assert await opened.recv() == "in three frames"


async def test_a_large_message_of_the_programs_passes(door: Door) -> None:
    async with door.socket(f"/large?n={10 * MEGABYTE}") as opened:
        assert len(await opened.recv()) == 10 * MEGABYTE


@pytest.mark.parametrize(
    "target", ["/told", "/told/a%2Fb?x=%20", "/told//x", "/told/../x", "/told/;x=1;y?z;a", "/told?{y}|"]
)
async def test_the_target_of_a_websocket_arrives_as_it_was_sent(door: Door, target: str) -> None:
    path, _, query = target.partition("?")
    async with door.socket(target) as opened:
        seen = json.loads(await opened.recv())
    assert (seen["target"], seen["query"]) == (path, query)


async def test_the_programs_subprotocol_is_the_one_that_is_spoken(door: Door) -> None:
    async with door.socket("/told?choose=two", subprotocols=[Subprotocol("one"), Subprotocol("two")]) as opened:
        assert opened.subprotocol == "two"
        assert json.loads(await opened.recv())["offered"] == ["one", "two"]
    async with door.socket("/told", subprotocols=[Subprotocol("one")]) as opened:
        assert opened.subprotocol is None


async def test_headers_of_a_websocket_pass_as_those_of_a_request_do(door: Door) -> None:
    async with door.socket("/told", headers={**OURS, "x-mine": "1"}, origin=Origin("http://a.test")) as opened:
        headers = json.loads(await opened.recv())["headers"]
    assert values(headers, "x-mine") == ["1"]
    assert values(headers, "origin") == ["http://a.test"]
    assert values(headers, "host") == [door.headers.get("host", f"127.0.0.1:{door.address[1]}")]
    assert values(headers, "x-forwarded-for") == ["127.0.0.1"]
    assert COOKIE not in str(headers)
    assert [bool(values(headers, name)) for name in OURS] == [door.name == "origin"] * len(OURS)


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1000, "done"), (1001, ""), (3000, "x"), (4999, "caf\u00e9")])
async def test_close_codes_pass_both_ways(door: Door, code: int, reason: str) -> None:
    async with door.socket(f"/closes?code={code}&reason={quote(reason)}") as opened:
        assert await opened.recv() == "bye"
        with pytest.raises(ConnectionClosed):
            await opened.recv()
    assert (opened.close_code, opened.close_reason) == (code, reason)
    async with door.socket("/told") as opened:
        await opened.recv()
        await opened.close(code, f"{reason} {door.name}")
    await door.notices(["closed", code, f"{reason} {door.name}"])


async def test_a_close_without_a_code_is_a_normal_one(door: Door) -> None:
    before = (await door.noticed())[0].count(["closed", 1000, ""])
    async with door.socket("/told") as opened:
        await opened.recv()
        opened.transport.write(b"\x88\x80\0\0\0\0")  # as a page's `close()` sends it
        await opened.wait_closed()

    async def has() -> bool:
        return (await door.noticed())[0].count(["closed", 1000, ""]) == before + 1

    await eventually(has, "the program is told of a normal end", SECONDS)


async def test_a_caller_that_vanishes_is_noticed(door: Door) -> None:
    before = len((await door.noticed())[0])
    for target in ("/told", "/flood?n=1000", "/flood?n=1000"):
        async with door.socket(target) as opened:
            await opened.recv()
            opened.transport.abort()

    async def has() -> bool:
        return len((await door.noticed())[0]) > before

    await eventually(has, "the program notices", SECONDS)


async def test_a_program_that_dies_ends_its_websockets(own_door: Door, client: httpx.AsyncClient) -> None:
    async with own_door.socket("/dies") as opened, own_door.socket("/told") as other:
        await opened.send("now")
        for each in (opened, other):
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await each.recv()
            assert each.close_code == 1011
    await ended(client, own_door.generation)


@pytest.mark.parametrize(("status", "told"), [(401, 401), (403, 403), (418, 418), (503, 503), (499, 502), (302, 502)])
async def test_a_websocket_that_the_program_refuses_is_refused_with_its_status(
    door: Door, status: int, told: int
) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        async with door.socket(f"/refuse?status={status}"):
            pass
    assert refusal.value.response.status_code == told


async def test_what_is_no_websocket_of_the_programs_is_502(door: Door) -> None:
    async with wired(door) as wire:
        for answer in (b"HTTP/1.1 200 x\r\n\r\n", b"nonsense\r\n\r\n", b"HTTP/1.1 101 x\r\n\r\n", b""):
            with pytest.raises(InvalidStatus) as refusal:
                async with wire.socket(f"/x?wire={answer.hex()}"):
                    pass
            assert refusal.value.response.status_code == 502


async def test_a_websocket_of_odd_targets_and_hosts_is_answered(tailrace: Served, preview: dict[str, Any]) -> None:
    door = Door("passage", tailrace.url, f"{preview_url(preview['generation_id'])}/app", {}, "")
    upgrade = ("upgrade: websocket", "sec-websocket-version: 13", "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==")
    for host, target in (
        ("x", "/told#fragment"),
        ("x", "/caf\u00e9"),
        ("[::1", "/told"),
        ("a b", "/told"),
        ("me:secret@x", "/told"),
        ("x:99999999", "/told"),
        ("", "/told"),
        ("x/y?z#", "/told"),
        ("caf\u00e9", "/told"),
    ):
        odd = Door("passage", tailrace.url, door.prefix, {"host": host}, "")
        reader, writer = await asyncio.open_connection(*door.address)
        writer.write(odd.head("GET", target, *upgrade).replace(b"connection: close", b"connection: upgrade"))
        async with asyncio.timeout(SECONDS):
            assert re.match(rb"HTTP/1.1 (101|400|403|502) ", await reader.readline()), (host, target)
        writer.close()


async def test_a_caller_that_reads_no_messages_holds_the_program_back(door: Door, tailrace: Served) -> None:
    before = memory_of(tailrace.server.pid)
    async with door.socket("/flood?n=800", max_queue=1) as opened:
        await opened.recv()

        async def how_many() -> int:
            return (await door.noticed())[1]["flood"]

        assert await settled(how_many) < 700
        assert memory_of(tailrace.server.pid) - before < GROWTH
        for _ in range(799):
            await opened.recv()


async def test_a_program_that_reads_no_messages_holds_the_caller_back(door: Door, tailrace: Served) -> None:
    before, given = memory_of(tailrace.server.pid), 0
    async with door.socket("/deaf") as opened:

        async def flood() -> None:
            nonlocal given
            for _ in range(1000):
                await opened.send(bytes(50_000))
                given += 1

        async def how_many() -> int:
            return given

        flooding = asyncio.create_task(flood())
        assert await settled(how_many) < 700
        assert memory_of(tailrace.server.pid) - before < GROWTH
        await door.go("deaf")
        async with asyncio.timeout(SECONDS):
            for _ in range(1000):
                await opened.recv()
        await flooding


async def test_hundreds_of_websockets_at_once_pass_and_leave_nothing(door: Door, tailrace: Served) -> None:
    files = Path(f"/proc/{tailrace.server.pid}/fd")

    def opened_files() -> int:
        return len(list(files.iterdir()))

    before = opened_files()
    async with contextlib.AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(door.socket("/told")) for _ in range(300)]
        for opened in sockets:
            await opened.recv()
            await opened.send("x")
        assert {await opened.recv() for opened in sockets} == {"x"}
        assert opened_files() >= before + 590  # another connection may have gone meanwhile
    await eventually(lambda: opened_files() <= before + 5, "all are closed", SECONDS)


async def test_a_message_of_a_callers_is_as_long_as_any_message_to_us(door: Door) -> None:
    async with door.socket("/told") as opened:
        await opened.recv()
        await opened.send(bytes(64 * 1024 + 1))
        with pytest.raises(ConnectionClosed):
            await opened.recv()
        assert opened.close_code == 1009
    await door.notices(["closed", 1009, "frame with 65537 bytes exceeds limit of 65536 bytes"])


# ── the end of the service ─────────────────────────────────────────────────────────────────────────────────────


async def test_a_service_that_leaves_waits_for_nobody_in_its_doors(database_url: str) -> None:
    async with server_running(database_url) as server, httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        preview = await launched(client)
        door = await door_to(client, server.url, preview, "passage")
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(20):
                opened = await stack.enter_async_context(door.socket("/told"))
                await opened.recv()
                stream = await stack.enter_async_context(door.stream("GET", "/events?name=end"))
                await anext(stream.aiter_raw())
            asking = asyncio.create_task(door.ask("GET", "/slow?name=end"))
            await door.notices("asked end")
            async with asyncio.timeout(8):
                assert await server.end() == 0
            await asyncio.wait([asking])
            assert asking.exception() is not None or asking.result().status_code >= 500
        assert "never retrieved" not in "".join(server.output)


async def test_without_the_database_the_doors_say_so_and_what_is_open_stays(own_postgres: OwnPostgres) -> None:
    postgres = own_postgres()
    url = await postgres.start()
    async with server_running(url) as server, httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        preview = await launched(client)
        doors = [await door_to(client, server.url, preview, name) for name in ("passage", "origin")]
        async with doors[0].socket("/told") as opened:
            await opened.recv()
            await postgres.stop()
            for door in doors:
                answer = await door.ask("POST", "/seen", content=b"x")
                problem_of(answer, 503)
                assert int(answer.headers["retry-after"]) >= 1
                with pytest.raises(InvalidStatus) as refusal:
                    async with door.socket("/told"):
                        pass
                assert refusal.value.response.status_code == 503
            closed = Door("origin", server.url, "", {"host": host_of(preview)}, "")
            problem_of(await closed.ask("GET", "/?ticket=x"), 503)
            await opened.send("still here")
            assert await opened.recv() == "still here"
            await postgres.start()

            async def answers() -> bool:
                return {(await door.ask("GET", "/seen")).status_code for door in doors} == {200}

            await eventually(answers, "the doors are open again", SECONDS)
        assert "Exception in ASGI" not in "".join(server.output)
