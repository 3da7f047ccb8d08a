"""An issuer's JWK set on a real socket, which is served well or badly as a test tells it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal

Fault = Literal["", "silent", "drip", "cut_off", "refuse"]


class FakeIssuer:
    """`keys` are what it serves, unless `body` says otherwise. `asked` are the paths of the requests, in order."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = []
        self.body: bytes | None = None
        self.status = 200
        self.headers: dict[str, str] = {}
        self.fault: Fault = ""
        self.asked: list[str] = []
        self.gate = asyncio.Event()  # answers wait for it
        self.gate.set()
        self.came = asyncio.Event()
        self.url = ""
        self._handlers: set[asyncio.Task[Any]] = set()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, with one request."""
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                if self.fault != "refuse":
                    await self._answer(reader, writer)
        finally:
            self._handlers.discard(task)
            writer.close()

    async def close(self) -> None:
        for task in tuple(self._handlers):
            task.cancel()
        if self._handlers:
            await asyncio.wait(tuple(self._handlers))

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head.split(b" ")[1].decode())
        self.came.set()
        await self.gate.wait()
        body = json.dumps({"keys": self.keys}).encode() if self.body is None else self.body
        headers = {"content-length": str(len(body)), "connection": "close", **self.headers}
        writer.write(f"HTTP/1.1 {self.status} Said\r\n".encode())
        writer.write("".join(f"{name}: {value}\r\n" for name, value in headers.items() if value).encode() + b"\r\n")
        if self.fault == "silent":
            await reader.read()
        elif self.fault == "cut_off":
            writer.write(body[: len(body) // 2])
        elif self.fault == "drip":
            for byte in body:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.02)
        else:
            writer.write(body)
        await writer.drain()


@asynccontextmanager
async def fake_issuer() -> AsyncIterator[FakeIssuer]:
    """One on a free port of this machine."""
    issuer = FakeIssuer()
    server = await asyncio.start_server(issuer.handle, "127.0.0.1", 0)
    issuer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys?secret=hunter2"
    try:
        yield issuer
    finally:
        server.close()
        await issuer.close()
