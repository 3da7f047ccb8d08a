"""A chat completions endpoint on a real socket, which answers well or badly as a test tells it.

Its bytes are cut anywhere: in the middle of a character, a line, a chunk of JSON, a CRLF.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

Fault = Literal["", "malformed", "error", "error_text", "cut_off", "ended", "stall", "silent"]


@dataclass
class Reply:
    """How one request is answered. `fault` strikes after `faultless` pieces of the text."""

    text: str = "These are the words."
    usage: tuple[int, int] | None = (11, 22)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None  # of a status other than 200: JSON, or text
    crlf: bool = False
    fault: Fault = ""
    faultless: int = 2
    pause: float = 0.0  # between two pieces
    together: asyncio.Barrier | None = None  # answered only when so many are asked at once


@dataclass
class Asked:
    """One request, as the endpoint saw it. `left` is set when its client went away before the answer was complete."""

    headers: dict[str, str]
    body: Any
    left: asyncio.Event = field(default_factory=asyncio.Event)
    begun: asyncio.Event = field(default_factory=asyncio.Event)  # some of the answer has been sent

    @property
    def prompt(self) -> str:
        text: str = self.body["messages"][0]["content"]
        return text

    @property
    def role(self) -> str:
        """Which worker asks."""
        if self.prompt.startswith("Plan this task"):
            return "supervisor"
        return "reviewer" if "Return the finished text" in self.prompt else "writer"


Script = Callable[[Asked, int], Reply]


class FakeEndpoint:
    """`scripts` are found by a word in the prompt; each is told how often it was asked before by the same role."""

    def __init__(self, dice: random.Random) -> None:
        self.asked: list[Asked] = []
        self.scripts: dict[str, Script] = {}
        self.open = 0
        self.most_open = 0
        self.url = ""
        self._dice = dice
        self._counts: dict[tuple[str, str], int] = {}
        self._came = asyncio.Event()
        self._handlers: set[asyncio.Task[Any]] = set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so; looked at whenever a request has come."""
        while not condition():
            self._came.clear()
            await self._came.wait()

    def about(self, word: str) -> list[Asked]:
        """The requests whose prompt has this word."""
        return [asked for asked in self.asked if word in asked.prompt]

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, with any number of requests one after another."""
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        try:
            while await self._request(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._handlers.discard(task)
            writer.close()

    async def close(self) -> None:
        for task in tuple(self._handlers):
            task.cancel()
        if self._handlers:
            await asyncio.wait(tuple(self._handlers))

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        assert head[0] == "POST /v1/chat/completions HTTP/1.1", head[0]
        headers = dict(_header(line) for line in head[1:-2])
        asked = Asked(headers, json.loads(await reader.readexactly(int(headers["content-length"]))))
        self.asked.append(asked)
        self._came.set()
        reply = self._reply(asked)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        answering = asyncio.create_task(self._answer(asked, reply, writer))
        leaving = asyncio.create_task(reader.read(1))  # nothing comes while we answer, but the end
        try:
            await asyncio.wait([answering, leaving], return_when=asyncio.FIRST_COMPLETED)
            if not answering.done() or reply.fault == "stall":
                asked.left.set()
            return answering.done() and not leaving.done() and await answering
        finally:
            self.open -= 1
            for task in (answering, leaving):
                task.cancel()
            await asyncio.wait([answering, leaving])

    def _reply(self, asked: Asked) -> Reply:
        for word, script in self.scripts.items():
            if word in asked.prompt:
                key = (word, asked.role + (asked.prompt[-40:] if asked.role == "writer" else ""))
                count = self._counts.get(key, 0)
                self._counts[key] = count + 1
                return script(asked, count)
        return Reply()

    async def _answer(self, asked: Asked, reply: Reply, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection can be used again."""
        if reply.together is not None:
            await reply.together.wait()
        if reply.fault == "silent":
            await asyncio.Event().wait()
        if reply.status != 200:
            body = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
            writer.write(_head(reply.status, {**reply.headers, "content-length": str(len(body.encode()))}))
            writer.write(body.encode())
            await writer.drain()
            return True
        writer.write(_head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"}))
        end = "\r\n" if reply.crlf else "\n"
        for number, piece in enumerate(_pieces(reply)):
            if reply.fault and number == reply.faultless:
                return await self._break(reply, writer, end)
            if piece == "":
                continue
            await self._send(writer, f"data: {piece}{end}{end}".encode())
            asked.begun.set()
            if reply.pause:
                await asyncio.sleep(reply.pause)
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    async def _break(self, reply: Reply, writer: asyncio.StreamWriter, end: str) -> bool:
        if reply.fault == "stall":
            await asyncio.Event().wait()
        broken = {
            "malformed": '{"choices":[{"delta":{"cont',
            "error": json.dumps({"error": {"message": reply.body, "type": "server_error"}}),
            "error_text": json.dumps({"error": reply.body}),
        }.get(reply.fault)
        if broken is not None:
            await self._send(writer, f"data: {broken}{end}{end}".encode())
        if reply.fault != "cut_off":
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        return False

    async def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        """In parts that end anywhere, each a chunk of its own."""
        while data:
            size = self._dice.randint(1, 40)
            part, data = data[:size], data[size:]
            writer.write(b"%x\r\n%b\r\n" % (len(part), part))
            await writer.drain()


def _header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(": ")
    return name.lower(), value


def _head(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Status", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def _pieces(reply: Reply) -> list[str]:
    words = reply.text.split(" ")
    pieces = [json.dumps({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}], "usage": None})]
    for place, word in enumerate(words):
        content = word if place == len(words) - 1 else word + " "
        chunk = {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": content}}]}
        pieces.append(json.dumps(chunk, ensure_ascii=False))
    pieces.append(json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
    if reply.usage is not None:
        prompt, completion = reply.usage
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        pieces.append(json.dumps({"choices": [], "usage": usage}))
    return [*pieces, "[DONE]"]


@asynccontextmanager
async def fake_endpoint(seed: int) -> AsyncIterator[FakeEndpoint]:
    """An endpoint that listens at `url`."""
    endpoint = FakeEndpoint(random.Random(seed))
    server = await asyncio.start_server(endpoint.handle, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    endpoint.url = f"http://{host}:{port}/v1"
    try:
        yield endpoint
    finally:
        server.close()
        await endpoint.close()
        await server.wait_closed()
