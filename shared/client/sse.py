"""A stream over server-sent events."""

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime

import httpx

from shared.client.answers import MAX_REFUSAL_BYTES, Answer
from shared.client.connection import Cut, Frame, Target, finish, reason_of
from shared.client.errors import Unreadable
from shared.client.http import MakeHttp, answer_of
from shared.protocol.sse import SseDecoder

MAX_FRAME_BYTES = 8 * 1024 * 1024  # nothing Tailrace sends comes near
HEADERS = {"accept": "text/event-stream", "cache-control": "no-cache", "accept-encoding": "identity"}
NO_READ_LIMIT = httpx.Timeout(10, read=None, pool=None)  # how long a stream may be silent is the stream's to say


class SseConnection:
    """The body of a response, read only when asked: what is not taken stays with the kernel, and then the server."""

    def __init__(self, http: httpx.AsyncClient, response: httpx.Response) -> None:
        self._http = http
        self._chunks = response.aiter_bytes()
        self._decoder = SseDecoder()
        self._unfinished = 0

    async def receive(self) -> Sequence[Frame]:
        try:
            chunk = await anext(self._chunks, b"")
        except (httpx.RequestError, OSError) as error:
            raise self._cut(reason_of(error)) from error
        if not chunk:
            raise self._cut("the connection was closed")
        frames = [Frame(message.id, message.data.encode()) for message in self._decoder.decode(chunk)]
        self._unfinished = 0 if frames else self._unfinished + len(chunk)
        if self._unfinished > MAX_FRAME_BYTES:
            raise Unreadable(f"no frame has ended within {MAX_FRAME_BYTES} bytes: is this an event stream of Tailrace?")
        return frames

    def _cut(self, text: str) -> Cut:
        retry = self._decoder.retry
        return Cut(text, asked_seconds=None if retry is None else retry / 1000)

    async def close(self) -> None:
        await finish(self._close())

    async def _close(self) -> None:
        """Then what is left in memory is read away: httpx's generators end by that, and need no task of the event
        loop's to be ended later.
        """
        await self._http.aclose()
        # RuntimeError: another task is reading just now, and ends them itself.
        with contextlib.suppress(httpx.RequestError, httpx.StreamError, OSError, RuntimeError):
            async for _ in self._chunks:
                pass


async def open_sse(make: MakeHttp, target: Target) -> SseConnection | None:
    """Ask for the stream. None for 204. Raise Cut, Refused.

    Each connection has an httpx client of its own, since closing that closes everything, however far it had got.
    """
    http, opened = make(), None
    try:
        opened = await _open(http, target)
    except (httpx.RequestError, OSError) as error:
        raise Cut(reason_of(error)) from error
    finally:
        if opened is None:
            await finish(http.aclose())
    return opened


async def _open(http: httpx.AsyncClient, target: Target) -> SseConnection | None:
    headers = dict(HEADERS)
    if target.token is not None:
        headers["authorization"] = f"Bearer {target.token}"
    if target.resume is not None:
        headers["last-event-id"] = target.resume
    request = http.build_request(
        "GET", target.path, params=list(target.parameters), headers=headers, timeout=NO_READ_LIMIT
    )
    response = await http.send(request, stream=True)
    head = Answer(response.status_code, response.headers)
    if head.status == 200 and head.media_type == "text/event-stream":
        return SseConnection(http, response)
    answer = await answer_of(response, most=MAX_REFUSAL_BYTES)
    if answer.status == 204:
        return None
    if answer.is_transient:
        raise Cut(str(answer), asked_seconds=answer.retry_after(datetime.now(UTC)))
    if answer.status < 300:
        raise Cut(f"the answer is {answer.status} with {answer.media_type or 'nothing'}, and no event stream")
    raise answer.error
