"""The connection behind an ASGI request: uvicorn's protocols, opened just wide enough to write to many at once.

ASGI's `send` costs a coroutine, a dict and a framing per reader. For a stream all readers at the same place get the
same bytes, so they are framed once and sent to each socket. Measured at 1,000 readers, CPU per delivery against a bare
loop of `socket.send`: ASGI `send` driven by hand 1.8 (SSE) and 2.4 (WebSocket), `transport.write` 1.3, this 1.1
(tests/bench). Everything else of the connection (start, end, reading, closing) stays uvicorn's.
"""

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState

from shared.edge.lean import Flag, Mailbox

KEY = "tailrace.connection"


class StreamConnection(Protocol):
    """What a stream may do with the connection it answers on, once its response has started."""

    on_lost: Callable[[], object] | None  # called when the connection is lost; SSE only
    on_full: Callable[[], object] | None  # called when it stops being writable, for whatever reason

    @property
    def is_open(self) -> bool:
        """Whether bytes written now have a chance to arrive."""
        ...

    @property
    def is_writable(self) -> bool:
        """Whether it is open and nothing is left in its buffer."""
        ...

    def write(self, wire: bytes) -> None:
        """Write bytes that are framed for this transport already. Never waits."""
        ...

    @property
    def send_now(self) -> Callable[[bytes], int]:
        """Hands bytes to the socket itself, past the transport: only while it is writable. It returns how many were
        taken, and raises OSError when none could be: `write` has to be given the rest before anything else.
        """
        ...

    async def drain(self) -> None:
        """Wait until the buffer is empty, or the connection is lost."""
        ...

    @property
    def pending_bytes(self) -> int:
        """What is in the buffer still."""
        ...

    def abort(self) -> None:
        """Close without sending what is left in the buffer."""
        ...

    def close(self) -> None:
        """Close when what is left in the buffer has been sent."""
        ...


class StraightSocket:
    """The socket under a transport, which sends at once or says that it is full: while it does not, its buffer is empty
    and what is sent past it stays in order. That takes a second descriptor; without one to spare, the transport sends.
    """

    __slots__ = ("_socket", "_transport")

    spare: ClassVar[int] = 0  # descriptors that may still be taken in this process

    def __init__(self, transport: Any) -> None:
        transport.set_write_buffer_limits(high=0)
        self._transport = transport
        self._socket: socket.socket | None = None

    @property
    def send(self) -> Callable[[bytes], int]:
        if self._socket is None:
            if StraightSocket.spare <= 0:
                return self._send_by_transport
            under = self._transport.get_extra_info("socket")
            self._socket = socket.socket(under.family, under.type, under.proto, os.dup(under.fileno()))
            StraightSocket.spare -= 1
        return self._socket.send

    def _send_by_transport(self, wire: bytes) -> int:
        self._transport.write(wire)
        return len(wire)

    def close(self) -> None:
        """The peer sees the end of the connection only when this is closed too."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            StraightSocket.spare += 1


class _LeanFlow(FlowControl):
    def __init__(self, transport: Any) -> None:
        super().__init__(transport)
        self._is_writable_event = Flag(is_set=True)  # type: ignore[assignment]  # does the same


class StreamingHttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol; the response must be chunked, as one without a length is."""

    __slots__ = ("_socket", "is_writable", "on_full", "on_lost", "write")

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.on_lost: Callable[[], object] | None = None
        self.on_full: Callable[[], object] | None = None
        self.is_writable: bool = True
        self.write: Callable[[bytes], object] = transport.write
        self._socket = StraightSocket(transport)

        self.flow = _LeanFlow(transport)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"][KEY] = self

    def on_headers_complete(self) -> None:
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:  # its application has not begun yet
            self.cycle.message_event = Flag()  # type: ignore[assignment]  # does the same

    def pause_writing(self) -> None:
        super().pause_writing()
        self._fill()

    def resume_writing(self) -> None:
        self.is_writable = not self.transport.is_closing()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """uvicorn tells only a connection's newest request, and behind a stream another may have been pipelined."""
        super().connection_lost(exc)
        self._fill()
        self._socket.close()
        if self.on_lost is not None:
            self.on_lost()

    def _fill(self) -> None:
        self.is_writable = False
        if self.on_full is not None:
            self.on_full()

    @property
    def send_now(self) -> Callable[[bytes], int]:
        return self._socket.send

    @property
    def is_open(self) -> bool:
        return not self.transport.is_closing()

    async def drain(self) -> None:
        await self.flow.drain()

    @property
    def pending_bytes(self) -> int:
        return self.transport.get_write_buffer_size()

    def abort(self) -> None:
        self.transport.abort()

    def close(self) -> None:
        self.transport.close()


class StreamingWebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol; no extension may be negotiated, so that a frame is the same for all."""

    __slots__ = ("_close_sent", "_socket", "is_writable", "on_full", "on_lost", "write")

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.queue = Mailbox()  # type: ignore[assignment]  # does the same, and so does the other
        self.writable = Flag(is_set=True)  # type: ignore[assignment]

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.on_lost: Callable[[], object] | None = None
        self.on_full: Callable[[], object] | None = None
        self.is_writable: bool = True
        self.write: Callable[[bytes], object] = transport.write
        self._socket = StraightSocket(transport)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._fill()

    def resume_writing(self) -> None:
        self.is_writable = self.is_open
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._fill()
        self._socket.close()

    def start_keepalive(self) -> None:
        """The handshake is over: the parser's frame holds its request for as long as the connection lasts."""
        super().start_keepalive()
        self.request.headers.clear()
        del self.request, self.response

    @property
    def close_sent(self) -> bool:
        """Set by uvicorn in half a dozen places. After a close frame nothing may be written."""
        return self._close_sent

    @close_sent.setter
    def close_sent(self, sent: bool) -> None:
        self._close_sent = sent
        if sent:
            self._fill()

    def _fill(self) -> None:
        self.is_writable = False
        if self.on_full is not None:
            self.on_full()

    def shutdown(self) -> None:
        """uvicorn sends a close without looking whether the client was first. That cannot be done, and the error would
        end the shutdown of the whole process where it stands: browsers close as soon as they are told of it.
        """
        try:
            super().shutdown()
        except InvalidState:
            self.transport.close()

    def handle_connect(self, event: Any) -> None:
        super().handle_connect(event)
        if hasattr(self, "scope"):  # a handshake that was refused has none; the application starts only after this
            self.scope["state"][KEY] = self

    @property
    def send_now(self) -> Callable[[bytes], int]:
        return self._socket.send

    @property
    def is_open(self) -> bool:
        return not (self.close_sent or self.disconnected or self.transport.is_closing())

    async def drain(self) -> None:
        await self.writable.wait()

    @property
    def pending_bytes(self) -> int:
        return self.transport.get_write_buffer_size()

    def abort(self) -> None:
        self.transport.abort()

    def close(self) -> None:
        self.transport.close()


def connection_of(scope: Any) -> StreamConnection:
    """The connection of a request that our server took."""
    connection = scope["state"].get(KEY)
    if connection is None:
        raise RuntimeError("streams need Tailrace's own server: run them with shared.edge.server")
    return connection  # type: ignore[no-any-return]  # put there above


def chunk(payload: bytes) -> bytes:
    """One chunk of a chunked HTTP body (RFC 9112, section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def websocket_frame(payload: bytes, *, binary: bool) -> bytes:
    """One unmasked, unfragmented message (RFC 6455, section 5.2)."""
    size = len(payload)
    first = b"\x82" if binary else b"\x81"
    if size < 126:
        return b"%b%b%b" % (first, bytes((size,)), payload)
    if size < 65536:
        return b"%b\x7e%b%b" % (first, size.to_bytes(2, "big"), payload)
    return b"%b\x7f%b%b" % (first, size.to_bytes(8, "big"), payload)


async def wait_writable(connection: StreamConnection, seconds: float) -> float:
    """Wait for room; return the seconds it took. Raise TimeoutError when the socket takes nothing for `seconds`."""
    if connection.is_writable or not connection.is_open:
        return 0.0
    loop = asyncio.get_running_loop()
    since = loop.time()
    while True:
        before = connection.pending_bytes
        try:
            async with asyncio.timeout(seconds):
                await connection.drain()
            return loop.time() - since
        except TimeoutError:
            if connection.pending_bytes >= before:
                raise
