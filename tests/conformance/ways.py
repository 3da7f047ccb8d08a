"""The ways there are to ask, each with a reader that takes nothing for granted: no client of ours."""

import json
from typing import Any, Literal

import httpx
import msgspec
from msgspec import Struct
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from shared.protocol.sse import SseDecoder, SseMessage
from tests.conformance.reading import Reading
from tests.support.contract import Frame

POLL_LIMIT = 3  # small, so that every case turns pages


class Asked(Struct, frozen=True, kw_only=True):
    """What is asked, in the words of the wire. `after` goes as a header where `by_header`."""

    base: str
    service: str  # whose log it is: runs, tasks
    path: str  # without /stream or /events
    channel: str | None  # of the multiplexed connection; None where it has no words for it
    after: str | None = None
    by_header: bool = False
    parameters: dict[str, Any] = {}
    primary: str | None = None
    tokens: tuple[str, ...] = ()  # the first is sent; a client that can renew it has the others after it

    @property
    def query(self) -> dict[str, Any]:
        given = {} if self.after is None or self.by_header else {"after": self.after}
        return {**given, **self.parameters}

    @property
    def headers(self) -> dict[str, str]:
        bearing = {"authorization": f"Bearer {self.tokens[0]}"} if self.tokens else {}
        return bearing | ({"last-event-id": self.after} if self.by_header and self.after is not None else {})

    def url(self, suffix: str, scheme: str = "http") -> str:
        return str(httpx.URL(f"{self.base}{self.path}/{suffix}", params=self.query)).replace("http", scheme, 1)

    def path_with(self, parameters: dict[str, Any], suffix: str) -> str:
        """As a page writes it."""
        return f"{self.path}/{suffix}" + (f"?{httpx.QueryParams(parameters)}" if parameters else "")


Kind = Literal["stream", "poll", "client"]


class Way:
    """`read` goes on until the stream has ended, or it is cancelled."""

    name: str
    kind: Kind = "stream"
    in_page = False  # where nobody sees a heartbeat, and nobody can be held back

    def can_ask(self, asked: Asked) -> bool:
        return True

    async def read(self, asked: Asked, reading: Reading) -> None:
        raise NotImplementedError


# ── server-sent events ─────────────────────────────────────────────────────────────────────────────────────────


class Sse(Way):
    name = "sse"

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def read(self, asked: Asked, reading: Reading) -> None:
        async with self._client.stream("GET", asked.url("stream"), headers=asked.headers) as response:
            if response.status_code == 204:
                reading.is_over = True
            elif response.status_code != 200:
                await response.aread()
                reading.refuse(response.status_code, response.json())
            else:
                decoder = SseDecoder()
                async for chunk in response.aiter_raw():
                    for message in decoder.decode(chunk):
                        reading.take(frame_of(message, asked.primary))
                    await reading.lives()


def frame_of(message: SseMessage, primary: str | None) -> Frame:
    event = json.loads(message.data)
    assert message.event == ("message" if event["type"] == primary else event["type"])
    return Frame(message.id, event)


# ── WebSockets ─────────────────────────────────────────────────────────────────────────────────────────────────


class WebSocket(Way):
    """One stream on one connection."""

    def __init__(self, subprotocol: str) -> None:
        self.name = subprotocol.replace("tailrace.v1", "websocket")
        self._subprotocol = subprotocol

    async def read(self, asked: Asked, reading: Reading) -> None:
        url, headers = asked.url("stream", "ws"), asked.headers
        try:
            opening = connect(
                url, subprotocols=[Subprotocol(self._subprotocol)], additional_headers=headers, max_size=None
            )
            async with opening as connection:
                assert connection.subprotocol == self._subprotocol
                await self._take_all(connection, reading)
        except InvalidStatus as error:
            reading.refuse(error.response.status_code, json.loads(error.response.body or b"{}"))

    async def _take_all(self, connection: ClientConnection, reading: Reading) -> None:
        try:
            while True:
                for frame in decoded(await connection.recv(), binary="msgpack" in self._subprotocol):
                    reading.take(Frame.of_json(frame))
                await reading.lives()
        except ConnectionClosed:
            reading.close_code = connection.close_code


def decoded(message: str | bytes, *, binary: bool) -> list[dict[str, Any]]:
    """The frames of a message: an array that is not empty."""
    assert isinstance(message, bytes) == binary
    frames = msgspec.msgpack.decode(message) if isinstance(message, bytes) else json.loads(message)
    assert isinstance(frames, list)
    assert frames
    return frames


class Multiplexed(Way):
    """A stream among others on one connection, which outlives it."""

    name = "multiplexed"

    def can_ask(self, asked: Asked) -> bool:
        only = {"types", "lossless", "on_reset"}
        known = asked.parameters.get("on_reset", "reset") in ("reset", "error")  # else the message is a bad one
        return asked.channel is not None and not asked.by_header and asked.parameters.keys() <= only and known

    async def read(self, asked: Asked, reading: Reading) -> None:
        url = f"{asked.base}/api/v1/{asked.service}/ws".replace("http", "ws", 1)
        try:
            opening = connect(
                url, subprotocols=[Subprotocol("tailrace.v1")], additional_headers=asked.headers, max_size=None
            )
            async with opening as connection:
                await connection.send(json.dumps({"op": "follow", "ref": "mine", **self._words(asked)}))
                await connection.send(json.dumps({"op": "follow", "ref": "other", "channel": asked.service}))
                try:
                    await self._take_all(connection, reading)
                except ConnectionClosed:
                    reading.close_code = connection.close_code
        except InvalidStatus as error:
            reading.refuse(error.response.status_code, json.loads(error.response.body or b"{}"))

    def _words(self, asked: Asked) -> dict[str, Any]:
        words = dict(asked.parameters)
        if "types" in words:
            words["types"] = words["types"].split(",")
        if "lossless" in words:
            words["lossless"] = words["lossless"] == "1"
        after = {} if asked.after is None else {"after": asked.after}
        return {"channel": asked.channel, **after, **words}

    async def _take_all(self, connection: ClientConnection, reading: Reading) -> None:
        while True:
            message = await connection.recv()
            for frame in map(Frame.of_json, decoded(message, binary=False)):
                if frame.ref == "mine" and frame.type == "refused":
                    reading.refuse(frame.event["problem"]["status"], frame.event["problem"])
                elif frame.ref == "mine":
                    reading.take(Frame(frame.id, frame.event))
                if frame.type in ("refused", "stream_end") and frame.ref == "mine":
                    await connection.send(json.dumps({"op": "ping"}))
                if frame.type == "pong":  # it is still there, though the stream has ended
                    return
            await reading.lives()


# ── polling ────────────────────────────────────────────────────────────────────────────────────────────────────


class Polling(Way):
    """Page after page, then waiting for more; as JSON or one frame a line."""

    kind: Kind = "poll"

    def __init__(self, client: httpx.AsyncClient, name: Literal["polling", "ndjson"]) -> None:
        self.name = name
        self._client = client
        self._read = {"polling": self._page, "ndjson": self._lines}[name]

    def can_ask(self, asked: Asked) -> bool:
        return not asked.parameters.keys() & {"lossless", "interval", "max_ticks"}

    async def read(self, asked: Asked, reading: Reading) -> None:
        parameters: dict[str, Any] = {"limit": POLL_LIMIT, "on_reset": "reset", **asked.query}
        headers = asked.headers
        bearing = {name: value for name, value in headers.items() if name == "authorization"}
        while reading.refused is None and reading.ended is None:
            wait = {} if reading.live_after is None else {"wait": 30}
            answer = await self._client.get(
                f"{asked.base}{asked.path}/events",
                params={**parameters, **wait},
                headers={**headers, "accept": "application/x-ndjson" if self.name == "ndjson" else "application/json"},
            )
            if answer.status_code != 200:
                reading.refuse(answer.status_code, answer.json())
                return
            next_position, is_at_head = self._read(answer, reading)
            if is_at_head:
                reading.mark_live()
            parameters, headers = {**parameters, "after": next_position}, bearing
            await reading.lives()

    def _page(self, answer: httpx.Response, reading: Reading) -> tuple[str, bool]:
        body = answer.json()
        for frame in body["data"]:
            reading.take(Frame.of_json(frame))
        if body["next"] == body["head"]:
            reading.mark_live()
            reading.ended = body["ended"]
        return str(body["next"]), body["next"] == body["head"]

    def _lines(self, answer: httpx.Response, reading: Reading) -> tuple[str, bool]:
        *frames, last = (Frame.of_json(json.loads(line)) for line in answer.text.splitlines())
        assert last.type == "bookmark"
        for frame in frames:
            reading.take(frame)
        return str(last.id), len(frames) < POLL_LIMIT


def raw_ways(client: httpx.AsyncClient) -> list[Way]:
    """Those of this module."""
    return [
        Sse(client),
        WebSocket("tailrace.v1"),
        WebSocket("tailrace.v1.msgpack"),
        Multiplexed(),
        Polling(client, "polling"),
        Polling(client, "ndjson"),
    ]
