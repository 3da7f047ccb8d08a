"""HTTP handed through: the request's body as it comes, the answer as it comes, neither held back nor changed."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx

from services.previews.passage.headers import Door, inward, outward
from services.previews.passage.way import Way
from shared.channel.tasks import end
from shared.edge.connection import connection_of
from shared.edge.problems import MEDIA_TYPE, http_document

CONNECT_SECONDS = 5.0
MAX_STATUS, BODILESS = 599, (204, 304)
TIMEOUT = {"connect": CONNECT_SECONDS, "read": None, "write": None, "pool": None}  # how long it works is its affair


class _Left(Exception):
    """The caller has gone before its body was complete."""


class _Caller:
    """Who asks: its body is read as fast as the program takes it, and then whether it is still there."""

    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope = scope
        self.send = send
        self.has_body = not {name for name, _ in scope["headers"]}.isdisjoint((b"content-length", b"transfer-encoding"))
        self._receive = receive
        self._read = asyncio.Event()  # the body, or as much of it as the program wanted
        if not self.has_body:
            self.has_been_read()

    def has_been_read(self) -> None:
        self._read.set()

    async def body(self) -> AsyncIterator[bytes]:
        """Raise _Left: a body that merely ended here would be a complete one for the program."""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise _Left
            if message.get("body"):
                yield message["body"]
            if not message.get("more_body"):
                self.has_been_read()
                return

    async def left(self) -> None:
        """Wait until it has gone. While its body is being read, that reading notices."""
        await self._read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass


async def hand_through(scope: Any, receive: Any, send: Any, way: Way) -> None:
    """Answer a request with the program's answer."""
    caller = _Caller(scope, receive, send)
    request = httpx.Request(
        scope["method"],
        "http://preview/",
        headers=_request_headers(scope, way.door),
        content=caller.body() if caller.has_body else None,
        extensions={"timeout": TIMEOUT, "target": way.target},  # a URL of httpx's would be put in order
    )
    async with httpx.AsyncHTTPTransport(uds=str(way.socket), verify=False) as transport:  # TLS takes 30 ms to set up
        answering = asyncio.create_task(_answer(transport, request, caller, way.door), name="answer")
        leaving = asyncio.create_task(caller.left(), name="caller")
        try:
            await asyncio.wait([answering, leaving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(leaving, answering)
        if answering.done() and not answering.cancelled() and not answering.result():
            connection_of(scope).close()  # the caller must not take for whole what is not
            await caller.left()


def _request_headers(scope: Any, door: Door) -> list[tuple[bytes, bytes]]:
    host = next((str(value, "latin-1") for name, value in scope["headers"] if name == b"host"), "preview")
    client = (scope.get("client") or ("",))[0]
    return inward(scope["headers"], door, host=host, scheme=scope["scheme"], client=client)


async def _answer(transport: httpx.AsyncHTTPTransport, request: httpx.Request, caller: _Caller, door: Door) -> bool:
    """False: the program left in the middle of its answer."""
    try:
        response = await transport.handle_async_request(request)
    except _Left:
        return True
    except (httpx.RequestError, OSError) as error:
        detail = f"the program did not answer: {str(error) or type(error).__name__}"
        await refuse(caller.send, caller.scope, 502, detail)
        return True
    caller.has_been_read()  # what the program has not waited for it will not get
    try:
        status = response.status_code
        if status > MAX_STATUS:
            await refuse(caller.send, caller.scope, 502, f"the program answered with {status}, which is no status")
            return True
        headers = outward(response.headers.raw, door)
        if status in BODILESS:  # the length of what there would be: our server would wait for that much
            headers = [(name, value) for name, value in headers if name != b"content-length"]
        await caller.send({"type": "http.response.start", "status": status, "headers": headers})
        assert isinstance(response.stream, httpx.AsyncByteStream)
        async for chunk in response.stream:
            await caller.send({"type": "http.response.body", "body": chunk, "more_body": True})
        await caller.send({"type": "http.response.body", "body": b"", "more_body": False})
    except (httpx.RequestError, OSError):
        return False
    finally:
        await response.aclose()
    return True


async def refuse(
    send: Any, scope: Any, status: int, detail: str, headers: tuple[tuple[bytes, bytes], ...] = ()
) -> None:
    """A problem document in place of the program's answer; before a WebSocket's handshake too."""
    shown = http_document(status, detail, {}, str(scope.get("tailrace.request_id", "")))
    kind = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
    told = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(shown.body)).encode()), *headers]
    await send({"type": f"{kind}.start", "status": shown.status, "headers": told})
    await send({"type": f"{kind}.body", "body": shown.body})
