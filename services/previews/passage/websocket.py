"""WebSockets handed through: a connection to the program for each, messages both ways, its close code handed on."""

import asyncio
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.uri import WebSocketURI

from services.previews.passage.exchange import CONNECT_SECONDS
from services.previews.passage.headers import inward
from services.previews.passage.http import refuse
from services.previews.passage.way import Way
from shared.channel.tasks import end

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
REFUSALS = frozenset(status for status in HTTPStatus if status >= 400)
SENDABLE_CODES = range(1000, 5000)
NO_CODE = 1005  # told of a close that has none, and never sent: what a page's `close()` comes as
UNSENDABLE_CODES = (1004, 1005, 1006, 1015)


async def hand_through(scope: Any, receive: Any, send: Any, way: Way) -> None:
    """Connect to the program, then accept; what it refuses is refused with its status."""
    await receive()  # websocket.connect
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            program = await _connect(scope, way)
    except InvalidStatus as refusal:
        status = refusal.response.status_code
        await refuse(send, scope, status if status in REFUSALS else 502, "the program refused the WebSocket")
        return
    except (OSError, TimeoutError, InvalidHandshake) as error:
        await refuse(send, scope, 502, f"the program did not answer: {str(error) or type(error).__name__}")
        return
    try:
        await send({"type": "websocket.accept", "subprotocol": program.subprotocol})
        await _both_ways(program, receive, send)
    finally:
        await program.close()


async def _connect(scope: Any, way: Way) -> ClientConnection:
    """The library's own `connect` would put the target in order, and follow redirects."""
    host = next((str(value, "latin-1") for name, value in scope["headers"] if name == b"host"), "preview")
    client = (scope.get("client") or ("",))[0]
    passed = inward(scope["headers"], way.door, host=host, scheme=scope["scheme"].replace("ws", "http"), client=client)
    own = (b"host", b"sec-websocket-protocol", b"origin")
    protocol = ClientProtocol(
        WebSocketURI(secure=False, host=host, port=80, path=str(way.target, "latin-1"), query=""),
        origin=_header(passed, b"origin"),  # type: ignore[arg-type]  # a NewType of str
        subprotocols=scope["subprotocols"] or None,
        max_size=MAX_MESSAGE_BYTES,
    )
    loop = asyncio.get_running_loop()
    _, program = await loop.create_unix_connection(
        lambda: ClientConnection(protocol, ping_interval=None), str(way.socket)
    )
    try:
        await program.handshake([(str(n, "latin-1"), str(v, "latin-1")) for n, v in passed if n not in own], None)
    except BaseException:
        program.transport.abort()
        raise
    return program


def _header(headers: list[tuple[bytes, bytes]], name: bytes) -> str | None:
    return next((str(value, "latin-1") for key, value in headers if key == name), None)


async def _both_ways(program: ClientConnection, receive: Any, send: Any) -> None:
    inward_task = asyncio.create_task(_to_program(program, receive))
    outward_task = asyncio.create_task(_from_program(program, send))
    try:
        await asyncio.wait([inward_task, outward_task], return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end(inward_task, outward_task)


async def _to_program(program: ClientConnection, receive: Any) -> None:
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            await program.close(_code(message.get("code")), message.get("reason") or "")
            return
        text = message.get("text")
        try:
            await program.send(message["bytes"] if text is None else text)
        except ConnectionClosed:
            return


async def _from_program(program: ClientConnection, send: Any) -> None:
    with suppress(OSError):  # the caller has left first: uvicorn's ClientDisconnected is one
        with suppress(ConnectionClosed):
            async for message in program:
                kind = "text" if isinstance(message, str) else "bytes"
                await send({"type": "websocket.send", kind: message})
        code, reason = _code(program.close_code), program.close_reason or ""
        await send({"type": "websocket.close", "code": code, "reason": reason})


def _code(code: int | None) -> int:
    if code is None or code == NO_CODE:
        return 1000
    return code if code in SENDABLE_CODES and code not in UNSENDABLE_CODES else 1011
