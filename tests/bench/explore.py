"""What uvicorn allows, apart from Tailrace: one loop over all connections, by ASGI `send` or past it.

`python -m tests.bench --explore` measures these beside the baselines. Readers that would
wait are not looked after.
"""

import os
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final
from urllib.parse import parse_qs

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from tests.bench.contenders import WEBSOCKET_SUBSCRIBE, Contender, module
from tests.bench.event import sse_frames, websocket_message
from tests.bench.serving import run_uvicorn

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Coroutine[Any, Any, None]]

REFERENCES: Final = (
    Contender("C' SSE, ASGI send", module("explore", "send")),
    Contender("C'' SSE, transport.write", module("explore", "transport")),
    Contender("C''' SSE, os.write", module("explore", "socket")),
    Contender("W' WebSocket, ASGI send", module("explore", "send"), WEBSOCKET_SUBSCRIBE, websocket=True),
    Contender("W'' WebSocket, transport.write", module("explore", "transport"), WEBSOCKET_SUBSCRIBE, websocket=True),
    Contender("W''' WebSocket, os.write", module("explore", "socket"), WEBSOCKET_SUBSCRIBE, websocket=True),
)


class ExposedHttp(HttpToolsProtocol):
    """Lets the application reach the connection."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["connection"] = self
        self.descriptor = self.transport.get_extra_info("socket").fileno()


class ExposedWebSocket(WebSocketsSansIOProtocol):
    """Lets the application reach the connection."""

    def handle_connect(self, event: Any) -> None:
        super().handle_connect(event)
        self.scope["state"]["connection"] = self
        self.descriptor = self.transport.get_extra_info("socket").fileno()


def text_frame(payload: bytes) -> bytes:
    """A whole unmasked WebSocket text message."""
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 65536:
        return b"\x81\x7e" + size.to_bytes(2) + payload
    return b"\x81\x7f" + size.to_bytes(8) + payload


class App:
    """An ASGI application that delivers in one of three ways."""

    def __init__(self, way: str) -> None:
        self.way = way
        self.readers: dict[str, dict[int, Any]] = {"http": {}, "websocket": {}}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Accept a reader or a publish."""
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await self.hold(scope, receive, send)
        elif scope["path"] == "/stream":
            headers = [(b"content-type", b"text/event-stream")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await self.hold(scope, receive, send)
        elif scope["type"] == "http":
            query = parse_qs(scope["query_string"].decode())
            self.publish(int(query["first"][0]), int(query["n"][0]))
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body"})

    async def hold(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Keep a reader until it leaves."""
        readers = self.readers[scope["type"]]
        readers[id(scope)] = send if self.way == "send" else scope["state"]["connection"]
        try:
            while not (await receive())["type"].endswith("disconnect"):
                pass
        finally:
            del readers[id(scope)]

    def publish(self, first: int, count: int) -> None:
        """Deliver to all readers from one loop."""
        deliver = {"send": _by_send, "transport": _by_transport, "socket": _by_socket}[self.way]
        if readers := self.readers["http"]:
            body = sse_frames(first, count)
            chunk = b"%x\r\n%b\r\n" % (len(body), body)
            message: Message = {"type": "http.response.body", "body": body, "more_body": True}
            deliver(list(readers.values()), message, chunk)
        if readers := self.readers["websocket"]:
            text = websocket_message(first, count)
            message = {"type": "websocket.send", "text": text.decode()}
            deliver(list(readers.values()), message, text_frame(text))


def _by_send(readers: list[Send], message: Message, _: bytes) -> None:
    for send in readers:
        try:
            send(message).send(None)
        except StopIteration:
            continue
        raise RuntimeError("a reader would have to be waited for")


def _by_transport(readers: list[Any], _: Message, data: bytes) -> None:
    for connection in readers:
        connection.transport.write(data)


def _by_socket(readers: list[Any], _: Message, data: bytes) -> None:
    """Send past the transport while it has nothing buffered; hand it what the kernel did not take."""
    size = len(data)
    for connection in readers:
        transport = connection.transport
        sent = 0
        if not transport.get_write_buffer_size():
            try:  # noqa: SIM105  (`suppress` costs 0.4 us each time)
                sent = os.write(connection.descriptor, data)
            except BlockingIOError:
                pass
        if sent < size:
            transport.write(data[sent:])


if __name__ == "__main__":
    run_uvicorn(App(sys.argv[1]), http=ExposedHttp, ws=ExposedWebSocket, lifespan="off")
