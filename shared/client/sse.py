"""A stream over server-sent events."""

from collections.abc import Sequence
from datetime import UTC, datetime

import httpx

from shared.client.answers import MAX_REFUSAL_BYTES, Answer
from shared.client.connection import Cut, Frame, Target, finish
from shared.client.errors import Unreadable
from shared.protocol.sse import SseDecoder

MAX_FRAME_BYTES = 8 * 1024 * 1024  # nothing Tailrace sends comes near
HEADERS = {"accept": "text/event-stream", "accept-encoding": "identity", "cache-control": "no-cache"}
NO_READ_LIMIT = httpx.Timeout(10, read=None, pool=None)  # how long a stream may be silent is the stream's to say


class SseConnection:
    """The body of a response, read only when asked: what is not taken stays with the kernel, and then the server."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._chunks = response.aiter_bytes()
        self._decoder = SseDecoder()
        self._unfinished = 0

    async def receive(self) -> Sequence[Frame]:
        try:
            chunk = await anext(self._chunks, b"")
        except (httpx.RequestError, OSError) as error:
            raise self._cut(str(error) or type(error).__name__) from error
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
        await finish(self._response.aclose())


async def open_sse(http: httpx.AsyncClient, target: Target) -> SseConnection | None:
    """Ask for the stream. None for 204. Raise Cut, Refused."""
    headers = dict(HEADERS)
    if target.token is not None:
        headers["authorization"] = f"Bearer {target.token}"
    if target.resume is not None:
        headers["last-event-id"] = target.resume
    request = http.build_request(
        "GET", target.path, params=list(target.parameters), headers=headers, timeout=NO_READ_LIMIT
    )
    try:
        response = await http.send(request, stream=True)
    except (httpx.RequestError, OSError) as error:
        raise Cut(str(error) or type(error).__name__) from error
    opened = None
    try:
        opened = await _admitted(response)
    finally:
        if opened is None:
            await finish(response.aclose())
    return opened


async def _admitted(response: httpx.Response) -> SseConnection | None:
    head = Answer(response.status_code, response.headers)
    if head.status == 200 and head.media_type == "text/event-stream":
        return SseConnection(response)
    if head.status == 204:
        return None
    answer = Answer(head.status, head.headers, await _beginning(response))
    if head.is_transient:
        raise Cut(str(answer), asked_seconds=answer.retry_after(datetime.now(UTC)))
    if head.status < 300:
        raise Cut(f"the server answered {head.status} with {head.media_type or 'nothing'} where a stream was asked for")
    raise answer.error


async def _beginning(response: httpx.Response) -> bytes:
    """Of the body, no more than a problem document has."""
    body = b""
    try:
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > MAX_REFUSAL_BYTES:
                break
    except (httpx.RequestError, OSError):
        pass  # the status says the most of it
    return body[:MAX_REFUSAL_BYTES]
