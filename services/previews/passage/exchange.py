"""One request and its answer over a program's socket, both at once: it may answer before it has read all.

httpx reads no answer before the whole request is sent: a program that answers as it reads stopped for ever once the
buffers between were full.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import h11

READ_BYTES = 64 * 1024
MAX_HEAD_BYTES = 100 * 1024
CONNECT_SECONDS = 5.0


class Unanswered(Exception):
    """The program has left, or what it says is no HTTP."""


class Exchange:
    """Call `begin`, then `send` and `head` with `body` in any order or at the same time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)

    def begin(self, method: str, target: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """The request's head. Raise ValueError for what cannot stand in one."""
        try:
            wire = self._http.send(h11.Request(method=method, target=target, headers=list(headers)))
        except h11.LocalProtocolError as error:
            raise ValueError(str(error)) from None
        self._write(wire)

    async def send(self, body: AsyncIterator[bytes] | None) -> None:
        """The request's body. Raise OSError when the program takes no more: it may have answered all the same."""
        if body is not None:
            async for data in body:
                self._write(self._http.send(h11.Data(data=data)))
                await self._writer.drain()
        self._write(self._http.send(h11.EndOfMessage()))
        await self._writer.drain()

    async def head(self) -> h11.Response:
        """The answer's head. Raise Unanswered."""
        while True:
            event = await self._next()
            if isinstance(event, h11.Response):
                return event

    async def body(self) -> AsyncIterator[bytes]:
        """The answer's body as it comes. Raise Unanswered when it is cut."""
        while not isinstance(event := await self._next(), h11.EndOfMessage):
            if isinstance(event, h11.Data):
                yield bytes(event.data)

    def _write(self, wire: bytes | None) -> None:
        if wire:
            self._writer.write(wire)

    async def _next(self) -> h11.Event:
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                self._http.receive_data(await self._reader.read(READ_BYTES))
        except (h11.RemoteProtocolError, OSError) as error:
            raise Unanswered(str(error) or type(error).__name__) from None
        if not isinstance(event, h11.Event) or isinstance(event, h11.ConnectionClosed):
            raise Unanswered("it left without a word")
        return event


@asynccontextmanager
async def connected(socket: Path) -> AsyncIterator[Exchange]:
    """A connection for one exchange. Raise OSError."""
    async with asyncio.timeout(CONNECT_SECONDS):  # its TimeoutError is an OSError
        reader, writer = await asyncio.open_unix_connection(str(socket), limit=READ_BYTES)
    try:
        yield Exchange(reader, writer)
    finally:
        writer.transport.abort()
