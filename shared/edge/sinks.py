"""Sinks: how a stream's frames leave over each transport."""

from typing import Any, Protocol

from shared.edge.connection import chunk, websocket_frame
from shared.protocol import sse
from shared.protocol.ends import EndReason
from shared.protocol.formats import Format, MessagePackFormat, SseFormat, WebSocketFormat

Message = dict[str, Any]


class Sink(Protocol):
    """One connection's way out. Equal `format`s make equal bytes, so readers share them."""

    transport: str
    format: Format
    shares: bool  # whether another connection may have an equal format

    def wire(self, payload: bytes) -> bytes:
        """The bytes that carry `payload` over this transport."""
        ...

    def heartbeat(self) -> bytes | None:
        """The payload that says "still here"; None: a bookmark does."""
        ...

    def farewell(self, reason: EndReason) -> Message | None:
        """The ASGI message that ends the connection after the stream_end frame; None: it stays."""
        ...


class SseSink:
    """`text/event-stream` over an HTTP response."""

    transport = "sse"
    shares = True

    def __init__(self, primary: str | None) -> None:
        self.format: Format = SseFormat(primary)

    def wire(self, payload: bytes) -> bytes:
        return chunk(payload)

    def heartbeat(self) -> bytes | None:
        return sse.HEARTBEAT

    def farewell(self, reason: EndReason) -> Message | None:
        return {"type": "http.response.body", "body": b"", "more_body": False}


class WebSocketSink:
    """A WebSocket of its own: it closes when the stream ends."""

    transport = "websocket"
    shares = True

    def __init__(self, *, binary: bool, ref: str | None = None) -> None:
        self.format: Format = MessagePackFormat(ref) if binary else WebSocketFormat(ref)
        self._binary = binary

    def wire(self, payload: bytes) -> bytes:
        return websocket_frame(payload, binary=self._binary)

    def heartbeat(self) -> bytes | None:
        return None

    def farewell(self, reason: EndReason) -> Message | None:
        return {"type": "websocket.close", "code": reason.close_code, "reason": reason.label}


class SharedSocketSink(WebSocketSink):
    """One of several streams on a multiplexed WebSocket: every frame carries its `ref`, and the socket stays open."""

    shares = False

    def farewell(self, reason: EndReason) -> Message | None:
        return None
