"""Peers that speak byte for byte: what no HTTP or WebSocket library would let a test send."""

import asyncio
import base64
import contextlib
import os
import socket as sockets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

import h11
import httpx
from msgspec import Struct

from tests.support.contract import ANSWER_SECONDS, RUNS, Served, read_until, read_until_live
from tests.support.server import append, lease, sse

MASK = b"\x11\x22\x33\x44"
TEXT, BINARY, CONT, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10


@asynccontextmanager
async def nobody_harmed(tailrace: Served, client: httpx.AsyncClient) -> AsyncIterator[None]:
    """Meanwhile somebody else's stream gets its events, and the log says nothing at all."""
    said = len(tailrace.server.output)
    run_id, token = await lease(client)
    async with sse(client, f"{RUNS}/{run_id}/stream") as stream:
        await read_until_live(stream)
        yield
        await append(client, run_id, token)
        await read_until(stream, lambda frame: frame.type == "node_update")
    assert tailrace.server.output[said:] == []


class RawPeer:
    """A TCP connection. What the server does to it while it sends is no error: the end is what is looked at."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> bool:
        """Whether it could be sent."""
        try:
            self.writer.write(data)
            await self.writer.drain()
        except OSError:
            return False
        return not self.writer.is_closing()

    async def drip(self, data: bytes, seconds: float = 0.02) -> None:
        """Send it again and again, until the server has had enough."""
        while not self.reader.at_eof() and await self.send(data):  # noqa: ASYNC110  the pace of an attack
            await asyncio.sleep(seconds)

    async def rest(self) -> bytes:
        """All that comes until the server ends the connection, which it must."""
        got = bytearray()
        async with asyncio.timeout(ANSWER_SECONDS):
            with contextlib.suppress(OSError):
                while data := await self.reader.read(65536):
                    got += data
        return bytes(got)

    async def until(self, end: bytes) -> bytes:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await self.reader.readuntil(end)

    def stop_reading(self) -> None:
        transport = self.writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()

    async def head(self) -> bytes:
        """The head of an answer."""
        return await self.until(b"\r\n\r\n")


@asynccontextmanager
async def raw(server: Served, first: bytes = b"", receive_bytes: int | None = None) -> AsyncIterator[RawPeer]:
    """`receive_bytes`: how much the kernel takes for a peer that does not read."""
    connection = sockets.socket()
    if receive_bytes is not None:
        connection.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, receive_bytes)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", server.server.port))
    reader, writer = await asyncio.open_connection(sock=connection)
    try:
        peer = RawPeer(reader, writer)
        if first:
            await peer.send(first)
        yield peer
    finally:
        writer.transport.abort()


def request(path: str, method: str = "GET", body: bytes = b"", *, version: str = "1.1", **headers: Any) -> bytes:
    """A request, complete; underscores in the names of headers stand for hyphens."""
    fields = {"host": "127.0.0.1", **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/{version}\r\n{lines}\r\n".encode() + body


class Answers(Struct, frozen=True):
    """The answers on a connection, complete ones, by somebody else's parser."""

    statuses: list[int]
    bodies: list[bytes]
    headers: list[dict[str, str]]

    @classmethod
    def of(cls, wire: bytes, method: str = "GET") -> Self:
        statuses: list[int] = []
        bodies: list[bytes] = []
        headers: list[dict[str, str]] = []
        while wire:
            parser = h11.Connection(h11.CLIENT)
            parser.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
            parser.send(h11.EndOfMessage())
            parser.receive_data(wire)
            body = b""
            while not isinstance(event := parser.next_event(), h11.EndOfMessage):
                assert event is not h11.NEED_DATA, wire
                if isinstance(event, h11.Response):
                    statuses.append(event.status_code)
                    headers.append({str(name, "ascii"): str(value, "latin-1") for name, value in event.headers})
                elif isinstance(event, h11.Data):
                    body += event.data
            bodies.append(body)
            wire = parser.trailing_data[0]
        return cls(statuses, bodies, headers)


# ── WebSockets ─────────────────────────────────────────────────────────────────────────────────────────────────


def handshake(path: str, **headers: Any) -> bytes:
    key = base64.b64encode(os.urandom(16)).decode()
    asked: dict[str, Any] = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec_websocket_version": "13",
        "sec_websocket_key": key,
    }
    return request(path, **asked, **headers)


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, masked: bool = True, size: int | None = None
) -> bytes:
    """A frame as clients send it. `size`: what its head says, whatever it has."""
    length = len(payload) if size is None else size
    head = bytes([opcode | (0x80 if fin else 0)])
    bit = 0x80 if masked else 0
    if length < 126:
        head += bytes([bit | length])
    elif length < 65536:
        head += bytes([bit | 126]) + length.to_bytes(2, "big")
    else:
        head += bytes([bit | 127]) + length.to_bytes(8, "big")
    if not masked:
        return head + payload
    return head + MASK + bytes(byte ^ MASK[place % 4] for place, byte in enumerate(payload))


def frames_of(wire: bytes) -> list[tuple[int, bytes]]:
    """The server's frames, complete ones: opcode and payload. It sends them whole and unmasked."""
    found = []
    while len(wire) >= 2:
        size, start = wire[1], 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size, start = int.from_bytes(wire[2 : 2 + width], "big"), 2 + width
        if len(wire) < start + size:
            break
        found.append((wire[0] & 15, wire[start : start + size]))
        wire = wire[start + size :]
    return found


def close_code(wire: bytes) -> int | None:
    """With which code the server has closed; None: it has said none."""
    closes = [payload for opcode, payload in frames_of(wire) if opcode == CLOSE]
    return int.from_bytes(closes[0][:2], "big") if closes else None


@asynccontextmanager
async def raw_socket(server: Served, path: str, **headers: Any) -> AsyncIterator[RawPeer]:
    """A WebSocket that is open."""
    async with raw(server, handshake(path, **headers)) as peer:
        assert (await peer.head()).startswith(b"HTTP/1.1 101 ")
        yield peer
