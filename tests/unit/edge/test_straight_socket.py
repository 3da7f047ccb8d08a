"""The socket under a transport, on real connections and the loop of the services."""

import asyncio
import os
import socket
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
import uvloop

from shared.edge.connection import StraightSocket

SECONDS = 20


@pytest.fixture(autouse=True)
def one_to_spare() -> Iterator[None]:
    before, StraightSocket.spare = StraightSocket.spare, 1
    yield
    assert StraightSocket.spare == 1, "a descriptor was taken and not given back, or the other way round"
    StraightSocket.spare = before


class Writer(asyncio.Protocol):
    def __init__(self) -> None:
        self.made, self.lost, self.room = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.room.set()

    def connection_made(self, transport: Any) -> None:
        self.transport, self.socket = transport, StraightSocket(transport)
        self.made.set()

    def pause_writing(self) -> None:
        self.room.clear()

    def resume_writing(self) -> None:
        self.room.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.socket.close()
        self.lost.set()

    def send(self, data: bytes) -> None:
        """As a lane does."""
        assert self.room.is_set()
        try:
            taken = self.socket.send(data)
        except BlockingIOError:
            taken = 0
        if taken < len(data):
            self.transport.write(data[taken:])


def run(test: Coroutine[Any, Any, None]) -> None:
    async def in_time() -> None:
        async with asyncio.timeout(SECONDS):
            await test

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(in_time())


async def connected(writer: Writer) -> socket.socket:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        reader = socket.socket()
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        reader.setblocking(False)
        await loop.sock_connect(reader, listener.getsockname())
        accepted, _ = listener.accept()
        await loop.connect_accepted_socket(lambda: writer, accepted)
    await writer.made.wait()
    return reader


async def read_to_the_end(reader: socket.socket) -> bytes:
    data = b""
    while part := await asyncio.get_running_loop().sock_recv(reader, 65_536):
        data += part
    return data


@pytest.mark.parametrize("spare", [1, 0])
def test_what_is_sent_past_a_transport_stays_in_order_with_what_it_had_to_keep(
    spare: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StraightSocket, "spare", spare)

    async def test() -> None:
        writer, sent, fillings = Writer(), b"", 0
        with await connected(writer) as reader:
            reading = asyncio.create_task(read_to_the_end(reader))
            for size in (1, 700, 5_000, 40_000) * 30:
                piece = os.urandom(size)
                writer.send(piece)
                sent += piece
                # full as soon as anything is left: else the next would overtake it
                assert writer.room.is_set() == (writer.transport.get_write_buffer_size() == 0)
                if not writer.room.is_set():
                    fillings += 1
                    await writer.room.wait()
            assert fillings > 10
            writer.transport.close()
            assert await reading == sent  # and the end is seen: nothing holds the connection open
            await writer.lost.wait()
        assert StraightSocket.spare == spare

    run(test())


def test_no_descriptor_is_taken_before_something_is_sent_nor_kept_afterwards() -> None:
    async def test() -> None:
        writer = Writer()
        with await connected(writer):
            before = len(os.listdir("/proc/self/fd"))
            writer.send(b"x")
            writer.send(b"y")
            assert len(os.listdir("/proc/self/fd")) == before + 1
            assert StraightSocket.spare == 0
            writer.transport.abort()
            await writer.lost.wait()
            await asyncio.sleep(0)
            assert len(os.listdir("/proc/self/fd")) == before - 1

    run(test())
