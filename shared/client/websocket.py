"""A stream over a WebSocket."""

import re
import ssl
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import msgspec
from msgspec import Struct
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.http11 import Response
from websockets.typing import Subprotocol

from shared.client.answers import Answer
from shared.client.connection import Cut, Frame, Target, finish, reason_of
from shared.client.errors import AccessRevoked, Forbidden, Refused, Unreadable, refused
from shared.protocol.ends import EndReason

SUBPROTOCOL = "tailrace.v1"
MAX_MESSAGE_BYTES = 8 * 1024 * 1024  # a burst is one message; the server's are far smaller
QUEUE = (1, 0)  # messages that are read ahead before the socket is left alone
CLOSED_NOT_THE_SAME = 4403  # the token that came in-band is somebody else's
CLOSED_TOO_BIG = 1009  # said by us
_SUBPROTOCOL_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


class _Wire(Struct):
    event: msgspec.Raw
    id: str = ""


class _Refused(Struct):
    type: str = ""
    problem: dict[str, Any] = {}


_messages = msgspec.json.Decoder(list[_Wire])
_refusals = msgspec.json.Decoder(_Refused)


class _Connect(connect):
    """Without following redirects: a token does not go where nobody sent it."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class SocketConnection:
    """A WebSocket that is read only when asked: what is not taken stays with the kernel, and then the server."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def receive(self) -> Sequence[Frame]:
        try:
            message = await self._socket.recv(decode=False)
        except ConnectionClosed as closed:
            raise self._closed(closed) from closed
        try:
            frames = [Frame(wire.id, bytes(wire.event)) for wire in _messages.decode(message)]
            for frame in frames:
                if not frame.id:
                    _raise_if_refused(frame)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Unreadable(f"a message is no array of frames ({error}): {message[:60]!r}") from error
        return frames

    def _closed(self, closed: ConnectionClosed) -> Exception:
        if closed.sent is not None and closed.sent.code == CLOSED_TOO_BIG:
            return Unreadable(f"a message is larger than {MAX_MESSAGE_BYTES} bytes: is this a stream of Tailrace?")
        code = None if closed.rcvd is None else closed.rcvd.code
        if code == EndReason.ACCESS_REVOKED.close_code:
            return AccessRevoked(404, {"detail": "access to what this stream is about has been revoked"})
        if code == CLOSED_NOT_THE_SAME:
            return Forbidden(403, {"detail": "the token belongs to somebody else than the one the stream began with"})
        return Cut(str(closed), token_expired=code == EndReason.TOKEN_EXPIRED.close_code)

    async def close(self) -> None:
        """At once, without a closing handshake: it would wait for the other side."""
        self._socket.transport.abort()
        await finish(self._socket.wait_closed())


def _raise_if_refused(frame: Frame) -> None:
    """Who brings no token is let in, since it may come as a first message; where none comes, a frame refuses."""
    said = _refusals.decode(frame.data)
    if said.type == "refused":
        raise refused(int(said.problem.get("status", 0)), said.problem)


async def open_websocket(
    base: str,
    headers: Mapping[str, str],
    target: Target,
    *,
    use_proxies: bool,
    ssl_context: ssl.SSLContext | None,
) -> SocketConnection:
    """Ask for the stream. Raise Cut, Refused."""
    parameters = list(target.parameters)
    if target.resume is not None:
        parameters.append(("after", target.resume))
    query = f"?{urlencode(parameters)}" if parameters else ""
    url = base.replace("http", "ws", 1) + target.path.partition("?")[0] + query
    try:
        socket = await _Connect(
            url,
            subprotocols=_subprotocols(target.token),
            additional_headers=headers,
            user_agent_header=None,
            compression=None,
            proxy=True if use_proxies else None,
            ssl=ssl_context,
            open_timeout=None,  # the stream has its own
            ping_interval=None,  # the heartbeat tells more than a pong
            max_size=MAX_MESSAGE_BYTES,
            max_queue=QUEUE,
        )
    except InvalidStatus as refusal:
        raise _refusal(refusal.response) from refusal
    except InvalidURI as error:
        raise ValueError(str(error)) from error
    except (InvalidHandshake, OSError, EOFError) as error:
        raise Cut(reason_of(error)) from error
    return SocketConnection(socket)


def _subprotocols(token: str | None) -> list[Subprotocol]:
    if token is None:
        return [Subprotocol(SUBPROTOCOL)]
    if not _SUBPROTOCOL_TOKEN.fullmatch(token):
        raise ValueError("this token has characters that no WebSocket subprotocol can carry; use the transport 'sse'")
    return [Subprotocol(SUBPROTOCOL), Subprotocol(f"bearer.{token}")]


def _refusal(response: Response) -> Cut | Refused:
    headers = {name.lower(): value for name, value in response.headers.raw_items()}
    answer = Answer(response.status_code, headers, bytes(response.body or b""))
    if answer.is_transient:
        return Cut(str(answer), asked_seconds=answer.retry_after(datetime.now(UTC)))
    if answer.status < 300:
        return Cut(f"the server answered {answer.status} with {answer.media_type} where a WebSocket was asked for")
    return answer.error
