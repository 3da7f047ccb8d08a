"""WebSockets handed through: a connection to the program for each, messages both ways, its close code handed on."""

import asyncio
from contextlib import suppress
from typing import Any

from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from services.previews.passage.headers import inward
from services.previews.passage.http import CONNECT_SECONDS, refuse
from services.previews.passage.way import Way
from shared.channel.tasks import end

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
SENDABLE_CODES = range(1000, 5000)
UNSENDABLE_CODES = (1004, 1005, 1006, 1015)


async def hand_through(scope: Any, receive: Any, send: Any, way: Way) -> None:
    """Connect to the program, then accept; what it refuses is refused with its status."""
    await receive()  # websocket.connect
    host = next((str(value, "latin-1") for name, value in scope["headers"] if name == b"host"), "preview")
    client = (scope.get("client") or ("",))[0]
    passed = inward(scope["headers"], way.door, host=host, scheme=scope["scheme"].replace("ws", "http"), client=client)
    own = (b"host", b"sec-websocket-protocol", b"origin", b"user-agent")
    try:
        program = await unix_connect(
            str(way.socket),
            f"ws://{host}{str(way.target, 'latin-1')}",
            additional_headers=[(str(n, "latin-1"), str(v, "latin-1")) for n, v in passed if n not in own],
            origin=_header(passed, b"origin"),
            user_agent_header=_header(passed, b"user-agent"),
            subprotocols=scope["subprotocols"] or None,
            compression=None,
            open_timeout=CONNECT_SECONDS,
            ping_interval=None,
            max_size=MAX_MESSAGE_BYTES,
            proxy=None,
        )
    except InvalidStatus as refusal:
        status = refusal.response.status_code
        await refuse(send, scope, status if 400 <= status < 600 else 502, "the program refused the WebSocket")
        return
    except (OSError, TimeoutError, InvalidHandshake) as error:
        await refuse(send, scope, 502, f"the program did not answer: {str(error) or type(error).__name__}")
        return
    try:
        await send({"type": "websocket.accept", "subprotocol": program.subprotocol})
        await _both_ways(program, receive, send)
    finally:
        await program.close()


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
    try:
        async for message in program:
            kind = "text" if isinstance(message, str) else "bytes"
            await send({"type": "websocket.send", kind: message})
    except ConnectionClosed:
        pass
    with suppress(OSError):  # the caller has left first: uvicorn's ClientDisconnected is one
        await send({"type": "websocket.close", "code": _code(program.close_code), "reason": program.close_reason or ""})


def _code(code: int | None) -> int:
    if code is None:
        return 1000
    return code if code in SENDABLE_CODES and code not in UNSENDABLE_CODES else 1011
