"""HTTP handed through: the request's body as it comes, the answer as it comes, neither held back nor changed."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx

from services.previews.passage.headers import Door, inward, outward
from services.previews.passage.way import Way
from shared.channel.tasks import end
from shared.edge.problems import MEDIA_TYPE, http_document

CONNECT_SECONDS = 5.0
TIMEOUT = {"connect": CONNECT_SECONDS, "read": None, "write": None, "pool": None}  # how long it works is its affair


async def hand_through(scope: Any, receive: Any, send: Any, way: Way) -> None:
    """Answer a request with the program's answer."""
    gone = asyncio.Event()
    request = httpx.Request(
        scope["method"],
        httpx.URL("http://preview/").copy_with(raw_path=way.target),
        headers=_request_headers(scope, way.door),
        content=_body(receive, gone) if _has_body(scope) else None,
        extensions={"timeout": TIMEOUT},
    )
    async with httpx.AsyncHTTPTransport(uds=str(way.socket)) as transport:
        answering = asyncio.create_task(_answer(transport, request, send, scope, way.door))
        leaving = asyncio.create_task(_left(receive, gone, has_body=_has_body(scope)))
        try:
            await asyncio.wait([answering, leaving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(leaving, answering if not answering.done() else None)
        if answering.done() and not answering.cancelled():
            answering.result()


def _request_headers(scope: Any, door: Door) -> list[tuple[bytes, bytes]]:
    host = next((str(value, "latin-1") for name, value in scope["headers"] if name == b"host"), "preview")
    client = (scope.get("client") or ("",))[0]
    return inward(scope["headers"], door, host=host, scheme=scope["scheme"], client=client)


def _has_body(scope: Any) -> bool:
    names = {name for name, _ in scope["headers"]}
    return b"content-length" in names or b"transfer-encoding" in names


async def _body(receive: Any, gone: asyncio.Event) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            gone.set()
            return
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body"):
            return


async def _left(receive: Any, gone: asyncio.Event, *, has_body: bool) -> None:
    """Returns when the caller has gone. While its body is being read, that reading notices."""
    if has_body:
        await gone.wait()
        return
    while (await receive())["type"] != "http.disconnect":
        pass


async def _answer(
    transport: httpx.AsyncHTTPTransport, request: httpx.Request, send: Any, scope: Any, door: Door
) -> None:
    try:
        response = await transport.handle_async_request(request)
    except (httpx.RequestError, OSError) as error:
        await refuse(send, scope, 502, f"the program did not answer: {str(error) or type(error).__name__}")
        return
    try:
        headers = outward(response.headers.raw, door)
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        assert isinstance(response.stream, httpx.AsyncByteStream)
        async for chunk in response.stream:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        await response.aclose()


async def refuse(
    send: Any, scope: Any, status: int, detail: str, headers: tuple[tuple[bytes, bytes], ...] = ()
) -> None:
    """A problem document in place of the program's answer; before a WebSocket's handshake too."""
    shown = http_document(status, detail, {}, str(scope.get("tailrace.request_id", "")))
    kind = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
    told = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(shown.body)).encode()), *headers]
    await send({"type": f"{kind}.start", "status": shown.status, "headers": told})
    await send({"type": f"{kind}.body", "body": shown.body})
