"""The WebSocket edge: the same subscriptions on the same URLs, upgraded; and several of them on one connection."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import msgspec
from litestar import WebSocket
from msgspec import Struct

from shared.channel.tasks import end
from shared.edge.admission import Follow, Subscription
from shared.edge.auth.permit import Permit
from shared.edge.connection import connection_of, wait_writable
from shared.edge.delivery import Delivery
from shared.edge.gate import entry_of
from shared.edge.lean import Flag
from shared.edge.problems import Away, BadInput, Document, Forbidden, Unauthorized, document
from shared.edge.sinks import SharedSocketSink, WebSocketSink
from shared.edge.snapshots import delivery_of
from shared.edge.staying import stay
from shared.edge.streams import Streams
from shared.protocol.control import Authenticated, BadMessage, Control, Pong
from shared.protocol.ends import EndReason

SUBPROTOCOL = "tailrace.v1"
SUBPROTOCOL_BINARY = "tailrace.v1.msgpack"
BAD_MESSAGES_ALLOWED = 3
CLOSE_BAD_MESSAGES = 4400
CLOSE_FLOOD = 4429
FLOOD_MESSAGES, FLOOD_SECONDS = 200, 10.0
CLOSE_NOT_THE_SAME = 4403  # the token that came in-band is somebody else's
CLOSE_FAILED, CLOSE_LATER = 1011, 1013  # RFC 6455's registry: as 500 and 503
FOLLOWS_PER_SOCKET = 200
AUTH_SECONDS = 5.0  # in which a connection that brought no token has to send one

T = TypeVar("T")

Admit = Callable[[], Awaitable[Subscription]]
AdmitChannel = Callable[[Follow], Awaitable[Subscription]]


class Ping(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="ping"):
    """`{"op":"ping"}`: answered with `pong`."""


class Auth(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="auth"):
    """Who this connection is from, in its first message; later a newer token of the same bearer."""

    token: str

    def __repr__(self) -> str:
        return "Auth()"


class Unfollow(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="unfollow"):
    """End the stream that carries `ref`."""

    ref: str


class Decoders:
    """JSON and MessagePack, straight into the messages: what is in neither never becomes a value."""

    def __init__(self, messages: Any) -> None:
        self.json = msgspec.json.Decoder(messages)
        self.msgpack = msgspec.msgpack.Decoder(messages)


_messages = Decoders(
    Ping | Auth | Follow | Unfollow
)  # a union, also for a stream of its own: alone, a tag may be missing


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
        self._entry = entry_of(socket.scope)
        self._binary = False
        self._accepted = False
        self._bad = 0
        self._recent: list[float] = []  # when messages came
        self._idle = Flag()  # set when the last stream has ended
        self._leaving: asyncio.Task[None] | None = None

    # ── one stream ─────────────────────────────────────────────────────────────────────────────────────────────

    async def serve_one(self, admit: Admit) -> None:
        subscription = await self._enter(partial(self._admit, admit))
        if subscription is not None:
            stay(self._scope, partial(self._stream, subscription))

    async def _stream(self, subscription: Subscription, receive: Any, send: Any) -> None:
        self._receive, self._send = receive, send
        sink = WebSocketSink(binary=self._binary)
        delivery = delivery_of(subscription, sink, self._connection, self._streams, say=self._send)
        delivery.open()
        permit = self._permit
        permit.watch(delivery.finish)
        try:
            async for data in self._messages():
                message = await self._understand(data)
                if isinstance(message, Ping):
                    await self._answer(Pong())
                elif isinstance(message, Auth):
                    await self._renew(message)
                elif message is not None:
                    await self._complain("this connection carries one stream and takes only ping and auth")
        finally:
            permit.close()
            await delivery.close()

    async def _enter(self, admit: Callable[[], Awaitable[T]]) -> T | None:
        """Find out who it is, if that is not known, and let it in: None when it was refused, by an HTTP answer with a
        problem document, or after the handshake by a frame with one, and a close.
        """
        try:
            subprotocol = choose_subprotocol(self._scope["subprotocols"])
            if self._entry.permit is None:
                with self._streams.waiting_room():
                    await self._accept(subprotocol)
                    await self._introduce()
            admitted = await admit()
        except Exception as error:  # noqa: BLE001  whatever it is becomes an answer, a 500 with its log included
            if not self._accepted:
                await refuse(self._send, self._document(error))
            elif not isinstance(error, OSError):  # it has left
                shown = self._document(error)
                await self._answer(Refused(problem=msgspec.Raw(shown.body)))
                await self._close(
                    {500: CLOSE_FAILED, 503: CLOSE_LATER}.get(shown.status, 4000 + shown.status), "refused"
                )
            return None
        if not self._accepted:
            await self._accept(subprotocol)
        return admitted

    async def _introduce(self) -> None:
        """Wait for `{"op":"auth"}`. Raise Unauthorized, OutOfScope, Away; ConnectionResetError when the client left."""
        try:
            async with asyncio.timeout(AUTH_SECONDS):
                received = await self._receive()
        except TimeoutError:
            raise Unauthorized(
                f'The first message, {{"op":"auth"}} with a token, did not come within {AUTH_SECONDS:g} s.'
            ) from None
        if received["type"] == "websocket.disconnect":
            raise ConnectionResetError
        message = None
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            message = self._decode(_data(received))
        if not isinstance(message, Auth):
            raise Unauthorized(
                'The first message must be {"op":"auth","token":…}, since the handshake brought no token.'
            )
        await self._entry.introduce(message.token)

    async def _renew(self, message: Auth) -> None:
        """A newer token; one that is not taken leaves all as it is, unless it is somebody else's."""
        try:
            await self._entry.renew(message.token)
        except Forbidden as error:
            await self._answer(Refused(problem=msgspec.Raw(self._document(error).body)))
            await self._close(CLOSE_NOT_THE_SAME, "another bearer")
        except (Unauthorized, Away) as error:
            self._bad += 1
            await self._answer(Refused(problem=msgspec.Raw(self._document(error).body)))
        else:
            await self._answer(Authenticated(expires_at=self._entry.principal.expires_at))

    @property
    def _permit(self) -> Permit:
        assert self._entry.permit is not None  # since it was let in
        return self._entry.permit

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
        if await self._enter(self._admit_channels) is not None:
            stay(self._scope, partial(self._multiplex, admit))

    async def _multiplex(self, admit: AdmitChannel, receive: Any, send: Any) -> None:
        self._receive, self._send = receive, send
        following: dict[str, Delivery] = {}
        permit = self._permit
        permit.watch(partial(self._send_away, following))
        try:
            async for data in self._messages():
                message = await self._understand(data)
                if isinstance(message, Ping):
                    await self._answer(Pong())
                elif isinstance(message, Auth):
                    await self._renew(message)
                elif isinstance(message, Follow):
                    await self._follow(message, following, admit)
                elif isinstance(message, Unfollow):
                    await self._unfollow(message, following)
        finally:
            permit.close()
            await end(self._leaving)
            for delivery in tuple(following.values()):
                await delivery.close()

    async def _admit_channels(self) -> bool:
        if not self._streams.settings.websockets:
            raise Forbidden("WebSockets are switched off here; each stream is served as SSE at its own URL")
        self._streams.check_room(None)
        return True

    def _send_away(self, following: Mapping[str, Delivery], reason: EndReason) -> None:
        """The token has ended: each stream is told, then the connection is closed."""

        async def leave() -> None:
            self._idle.clear()
            for delivery in tuple(following.values()):
                delivery.finish(reason)
            if following:
                await self._idle.wait()  # not for longer than a slow reader is given
            await self._close(reason.close_code, reason.label)

        self._leaving = asyncio.create_task(leave(), name="leaving")

    async def _follow(self, follow: Follow, following: dict[str, Delivery], admit: AdmitChannel) -> None:
        try:
            self._permit.check()
            if follow.ref in following:
                raise BadInput(
                    f"ref {follow.ref[:40]!r} is in use on this connection; unfollow it first or choose another"
                )
            if len(following) >= FOLLOWS_PER_SOCKET:
                raise BadInput(f"a connection carries at most {FOLLOWS_PER_SOCKET} streams")

            async def admitted() -> Subscription:
                return await admit(follow)

            subscription = await self._admit(admitted)
            self._permit.check()  # it may have ended meanwhile, and the other streams have been told already
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
            on_end=partial(self._forget, follow.ref, following),
        )
        delivery.open()

    def _forget(self, ref: str, following: dict[str, Delivery]) -> None:
        following.pop(ref, None)
        if not following:
            self._idle.set()

    async def _unfollow(self, message: Unfollow, following: dict[str, Delivery]) -> None:
        delivery = following.pop(message.ref, None)
        if delivery is not None:  # it may have ended by itself while the message was on its way
            await delivery.close()

    # ── messages ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _accept(self, subprotocol: str | None) -> None:
        self._binary = subprotocol == SUBPROTOCOL_BINARY
        await self._receive()  # websocket.connect
        await self._send({"type": "websocket.accept", "subprotocol": subprotocol})
        self._accepted = True

    async def _messages(self) -> Any:
        """What the client sends, until it leaves or is sent away."""
        while self._bad < BAD_MESSAGES_ALLOWED:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                return
            if self._is_flood():
                await self._close(CLOSE_FLOOD, "too many messages")
                return
            yield _data(message)
        await self._close(CLOSE_BAD_MESSAGES, "bad messages")

    async def _understand(self, data: Any) -> Any:
        try:
            return self._decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            await self._complain(str(error))
        except RecursionError:
            await self._complain("the message is nested too deeply")
        return None

    def _decode(self, data: Any) -> Any:
        decoder = _messages.msgpack if self._binary and isinstance(data, bytes) else _messages.json
        return decoder.decode(data)

    async def _complain(self, detail: str) -> None:
        self._bad += 1
        await self._answer(BadMessage(detail=detail))

    async def _answer(self, frame: Control, ref: str | None = None) -> None:
        sink = WebSocketSink(binary=self._binary, ref=ref)
        try:
            await wait_writable(self._connection, self._streams.settings.slow_reader_seconds)
        except TimeoutError:  # who asks and does not read
            self._connection.abort()
        if self._connection.is_open:
            self._connection.write(sink.wire(sink.format.control("", frame)))

    async def _close(self, code: int, reason: str) -> None:
        try:
            async with asyncio.timeout(self._streams.settings.slow_reader_seconds):
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
        except TimeoutError:
            self._connection.abort()

    def _is_flood(self) -> bool:
        now = asyncio.get_running_loop().time()
        self._recent.append(now)
        while self._recent[0] < now - FLOOD_SECONDS:
            del self._recent[0]
        return len(self._recent) > FLOOD_MESSAGES


def _data(message: Mapping[str, Any]) -> Any:
    return message.get("text") or message.get("bytes") or b""


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
