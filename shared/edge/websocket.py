"""The WebSocket edge: the same subscriptions on the same URLs, upgraded; and several of them on one connection."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
from litestar import WebSocket
from msgspec import Struct

from shared.edge.admission import Follow, Subscription
from shared.edge.connection import connection_of, wait_writable
from shared.edge.delivery import Delivery
from shared.edge.problems import BadInput, Document, Forbidden, document
from shared.edge.sinks import SharedSocketSink, WebSocketSink
from shared.edge.snapshots import delivery_of
from shared.edge.streams import Streams
from shared.protocol.control import BadMessage, Control, Pong

SUBPROTOCOL = "tailrace.v1"
SUBPROTOCOL_BINARY = "tailrace.v1.msgpack"
BAD_MESSAGES_ALLOWED = 3
CLOSE_BAD_MESSAGES = 4400
CLOSE_FLOOD = 4429
FLOOD_MESSAGES, FLOOD_SECONDS = 200, 10.0
FOLLOWS_PER_SOCKET = 200

Admit = Callable[[], Awaitable[Subscription]]
AdmitChannel = Callable[[Follow], Awaitable[Subscription]]


class Ping(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="ping"):
    """`{"op":"ping"}`: answered with `pong`."""


class Unfollow(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="unfollow"):
    """End the stream that carries `ref`."""

    ref: str


class Decoders:
    """JSON and MessagePack, straight into the messages: what is in neither never becomes a value."""

    def __init__(self, messages: Any) -> None:
        self.json = msgspec.json.Decoder(messages)
        self.msgpack = msgspec.msgpack.Decoder(messages)


_messages = Decoders(Ping | Follow | Unfollow)  # a union, also for a stream of its own: alone, a tag may be missing


class Refused(Control, frozen=True, kw_only=True, tag="refused"):
    """A `follow` that was not admitted: the problem document that a request for the stream would have got."""

    has_id = False
    problem: msgspec.Raw


async def serve_stream(socket: WebSocket[Any, Any, Any], streams: Streams, admit: Admit) -> None:
    """One subscription on one WebSocket; refusals are HTTP answers with problem documents."""
    await _Socket(socket, streams).serve_one(admit)


async def serve_channels(socket: WebSocket[Any, Any, Any], streams: Streams, admit: AdmitChannel) -> None:
    """Any number of subscriptions on one WebSocket, begun and ended by messages."""
    await _Socket(socket, streams).serve_many(admit)


class _Socket:
    """One WebSocket from its handshake to its close."""

    def __init__(self, socket: WebSocket[Any, Any, Any], streams: Streams) -> None:
        self._scope: Any = socket.scope
        self._receive: Any = socket.receive
        self._send: Any = socket.send
        self._streams = streams
        self._connection = connection_of(socket.scope)
        self._binary = False
        self._bad = 0
        self._recent: deque[float] = deque()

    # ── one stream ─────────────────────────────────────────────────────────────────────────────────────────────

    async def serve_one(self, admit: Admit) -> None:
        try:
            subscription = await self._admit(admit)
            subprotocol = choose_subprotocol(self._scope["subprotocols"])
        except Exception as error:  # noqa: BLE001  whatever it is becomes an HTTP answer, a 500 with its log included
            await refuse(self._send, self._document(error))
            return
        await self._accept(subprotocol)
        sink = WebSocketSink(binary=self._binary)
        delivery = delivery_of(subscription, sink, self._connection, self._streams, say=self._send)
        delivery.open()
        try:
            async for data in self._messages():
                message = await self._understand(data)
                if isinstance(message, Ping):
                    await self._answer(Pong())
                elif message is not None:
                    await self._complain("this connection carries one stream and takes only ping")
        finally:
            await delivery.close()

    async def _admit(self, admit: Admit) -> Subscription:
        if not self._streams.settings.websockets:
            raise Forbidden(
                f"WebSockets are switched off here; the same stream is served as SSE at {self._scope['path']}"
            )
        subscription = await admit()
        self._streams.check_room(subscription.filter.tenant)
        if subscription.on_reset == "error":
            await subscription.start()
            subscription = replace(subscription, on_reset="reset")
        return subscription

    def _document(self, error: Exception) -> Document:
        return document(error, str(self._scope.get("tailrace.request_id", "")))

    # ── many streams ───────────────────────────────────────────────────────────────────────────────────────────

    async def serve_many(self, admit: AdmitChannel) -> None:
        try:
            if not self._streams.settings.websockets:
                raise Forbidden("WebSockets are switched off here; each stream is served as SSE at its own URL")
            self._streams.check_room(None)
            subprotocol = choose_subprotocol(self._scope["subprotocols"])
        except Exception as error:  # noqa: BLE001  as above
            await refuse(self._send, self._document(error))
            return
        await self._accept(subprotocol)
        following: dict[str, Delivery] = {}
        try:
            async for data in self._messages():
                message = await self._understand(data)
                if isinstance(message, Ping):
                    await self._answer(Pong())
                elif isinstance(message, Follow):
                    await self._follow(message, following, admit)
                elif isinstance(message, Unfollow):
                    await self._unfollow(message, following)
        finally:
            for delivery in tuple(following.values()):
                await delivery.close()

    async def _follow(self, follow: Follow, following: dict[str, Delivery], admit: AdmitChannel) -> None:
        try:
            if follow.ref in following:
                raise BadInput(
                    f"ref {follow.ref[:40]!r} is in use on this connection; unfollow it first or choose another"
                )
            if len(following) >= FOLLOWS_PER_SOCKET:
                raise BadInput(f"a connection carries at most {FOLLOWS_PER_SOCKET} streams")

            async def admitted() -> Subscription:
                return await admit(follow)

            subscription = await self._admit(admitted)
        except Exception as error:  # noqa: BLE001  as above, but told in a frame
            await self._answer(Refused(problem=msgspec.Raw(self._document(error).body)), follow.ref)
            return
        sink = SharedSocketSink(binary=self._binary, ref=follow.ref)
        following[follow.ref] = delivery = delivery_of(
            subscription,
            sink,
            self._connection,
            self._streams,
            say=self._send,
            on_end=partial(following.pop, follow.ref, None),
        )
        delivery.open()

    async def _unfollow(self, message: Unfollow, following: dict[str, Delivery]) -> None:
        delivery = following.pop(message.ref, None)
        if delivery is not None:  # it may have ended by itself while the message was on its way
            await delivery.close()

    # ── messages ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _accept(self, subprotocol: str | None) -> None:
        self._binary = subprotocol == SUBPROTOCOL_BINARY
        await self._receive()  # websocket.connect
        await self._send({"type": "websocket.accept", "subprotocol": subprotocol})

    async def _messages(self) -> Any:
        """What the client sends, until it leaves or is sent away."""
        while self._bad < BAD_MESSAGES_ALLOWED:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                return
            if self._is_flood():
                await self._close(CLOSE_FLOOD, "too many messages")
                return
            yield message.get("text") or message.get("bytes") or b""
        await self._close(CLOSE_BAD_MESSAGES, "bad messages")

    async def _understand(self, data: Any) -> Any:
        try:
            decoder = _messages.msgpack if self._binary and isinstance(data, bytes) else _messages.json
            return decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            await self._complain(str(error))
        except RecursionError:
            await self._complain("the message is nested too deeply")
        return None

    async def _complain(self, detail: str) -> None:
        self._bad += 1
        await self._answer(BadMessage(detail=detail))

    async def _answer(self, frame: Control, ref: str | None = None) -> None:
        sink = WebSocketSink(binary=self._binary, ref=ref)
        await wait_writable(self._connection, self._streams.settings.slow_reader_seconds)
        if self._connection.is_open:
            self._connection.write(sink.wire(sink.format.control("", frame)))

    async def _close(self, code: int, reason: str) -> None:
        async with asyncio.timeout(self._streams.settings.slow_reader_seconds):
            await self._send({"type": "websocket.close", "code": code, "reason": reason})

    def _is_flood(self) -> bool:
        now = asyncio.get_running_loop().time()
        self._recent.append(now)
        while self._recent[0] < now - FLOOD_SECONDS:
            self._recent.popleft()
        return len(self._recent) > FLOOD_MESSAGES


def choose_subprotocol(offered: list[str]) -> str | None:
    """The one we speak; None when none was asked for. Raise BadInput when only strange ones were."""
    for name in (SUBPROTOCOL_BINARY, SUBPROTOCOL):
        if name in offered:
            return name
    if offered:
        raise BadInput(
            f"no subprotocol in {', '.join(offered)} is spoken here; offer {SUBPROTOCOL} or {SUBPROTOCOL_BINARY}"
        )
    return None


async def refuse(send: Any, shown: Document) -> None:
    """Answer a handshake with HTTP instead (ASGI's `websocket.http.response`)."""
    headers: Mapping[str, str] = {"content-type": "application/problem+json", **shown.headers}
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "websocket.http.response.start", "status": shown.status, "headers": encoded})
    await send({"type": "websocket.http.response.body", "body": shown.body, "more_body": False})
