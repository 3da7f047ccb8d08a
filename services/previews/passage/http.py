"""HTTP handed through: the request's body as it comes, the answer as it comes, neither held back nor changed."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from services.previews.passage.exchange import Exchange, Unanswered, connected
from services.previews.passage.headers import Door, inward, outward
from services.previews.passage.way import Way
from shared.channel.tasks import end
from shared.edge.connection import connection_of
from shared.edge.problems import MEDIA_TYPE, http_document

MAX_STATUS, BODILESS = 599, (204, 304)


class _Left(Exception):
    """The caller has gone before its body was complete."""


class _Caller:
    """Who asks: its body is read as fast as the program takes it, and then whether it is still there."""

    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope = scope
        self.send = send
        names = {name for name, _ in scope["headers"]}
        self.has_length = b"content-length" in names
        self.has_body = self.has_length or b"transfer-encoding" in names
        self._receive = receive

    async def body(self) -> AsyncIterator[bytes]:
        """Raise _Left: a body that merely ended here would be a complete one for the program."""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise _Left
            if message.get("body"):
                yield message["body"]
            if not message.get("more_body"):
                return

    async def left(self) -> None:
        """Wait until it has gone."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


async def hand_through(scope: Any, receive: Any, send: Any, way: Way) -> None:
    """Answer a request with the program's answer."""
    caller = _Caller(scope, receive, send)
    try:
        async with connected(way.socket) as program:
            program.begin(scope["method"], way.target, _request_headers(caller, way.door))
            asking = asyncio.create_task(_ask(program, caller), name="asking")
            answering = asyncio.create_task(_answer(program, caller, way.door), name="answering")
            try:
                await asyncio.wait([asking, answering], return_when=asyncio.FIRST_COMPLETED)
            finally:
                await end(asking, answering)
    except OSError as error:
        await refuse(send, scope, 502, f"the program did not answer: {str(error) or type(error).__name__}")
        return
    except ValueError as error:
        await refuse(send, scope, 400, f"this request cannot be handed on: {error}")
        return
    if asking.done() and not asking.cancelled():
        asking.result()
    if answering.done() and not answering.cancelled() and not answering.result():
        connection_of(scope).close()  # the caller must not take for whole what is not
        await caller.left()


def _request_headers(caller: _Caller, door: Door) -> list[tuple[bytes, bytes]]:
    scope = caller.scope
    host = next((str(value, "latin-1") for name, value in scope["headers"] if name == b"host"), "preview")
    client = (scope.get("client") or ("",))[0]
    headers = inward(scope["headers"], door, host=host, scheme=scope["scheme"], client=client)
    if caller.has_body and not caller.has_length:
        headers.append((b"transfer-encoding", b"chunked"))
    return headers


async def _ask(program: Exchange, caller: _Caller) -> None:
    """Returns when the caller has gone."""
    try:
        await program.send(caller.body() if caller.has_body else None)
    except _Left:
        return
    except OSError:
        pass  # the program takes no more
    await caller.left()


async def _answer(program: Exchange, caller: _Caller, door: Door) -> bool:
    """False: the program left in the middle of its answer."""
    try:
        head = await program.head()
    except Unanswered as error:
        await refuse(caller.send, caller.scope, 502, f"the program did not answer: {error}")
        return True
    status = head.status_code
    if status > MAX_STATUS:
        await refuse(caller.send, caller.scope, 502, f"the program answered with {status}, which is no status")
        return True
    headers = outward(head.headers.raw_items(), door)
    if status in BODILESS:  # the length of what there would be: our server would wait for that much
        headers = [(name, value) for name, value in headers if name != b"content-length"]
    await caller.send({"type": "http.response.start", "status": status, "headers": headers})
    try:
        async for chunk in program.body():
            await caller.send({"type": "http.response.body", "body": chunk, "more_body": True})
    except Unanswered:
        return False
    await caller.send({"type": "http.response.body", "body": b"", "more_body": False})
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
