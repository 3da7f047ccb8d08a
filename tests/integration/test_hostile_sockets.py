"""Peers that speak WebSocket badly on purpose: each is sent away in time with the right code, and costs little."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import psutil
import pytest
import pytest_asyncio

from tests.support.contract import RUNS, Served, metric
from tests.support.raw import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    close_code,
    frame,
    frames_of,
    handshake,
    nobody_harmed,
    raw,
    raw_socket,
)
from tests.support.readers import eventually
from tests.support.server import lease

PATIENCE = 1.0
SETTINGS = {"request_seconds": PATIENCE, "slow_reader_seconds": PATIENCE, "heartbeat_seconds": 0.3}
PATHS = (f"{RUNS}/stream", f"{RUNS}/ws")
HELLO = b'{"op":"ping"}'


@pytest_asyncio.fixture(autouse=True)
async def unharmed(tailrace: Served, client: httpx.AsyncClient) -> AsyncIterator[None]:
    async with nobody_harmed(tailrace, client):
        yield


async def code_after(server: Served, sent: bytes, path: str = PATHS[0]) -> int | None:
    """With which code the server closes a socket on which this was sent."""
    async with raw_socket(server, path) as peer:
        await peer.send(sent)
        return close_code(await peer.rest())


# ── handshakes ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("first", "status"),
    [
        (handshake(PATHS[0])[:-2], 408),
        (handshake(PATHS[0], cookie="a" * 9_000), 431),
        (handshake(PATHS[0], cookie="a" * 40_000), 431),
        (handshake("/" + "a" * 9_000), 414),
        (handshake(PATHS[0], content_length="5"), 400),
        (handshake(PATHS[0], transfer_encoding="chunked"), 400),
        (handshake("/grün"), 400),
        (handshake(PATHS[0]).replace(b"version: 13", b"version: 12"), 400),
        (handshake(PATHS[0]).replace(b"websocket-key", b"websocket-lock"), 400),
        (handshake(PATHS[0]).replace(b"GET", b"PUT"), 405),
        (handshake(PATHS[0]) + frame(TEXT, HELLO), 400),
    ],
    ids=[
        "never finished",
        "a long header",
        "a longer header",
        "a long url",
        "a body",
        "chunks",
        "a url beyond ascii",
        "an old version",
        "no key",
        "a put",
        "a frame before the answer",
    ],
)
async def test_what_is_no_handshake_is_refused(tailrace: Served, first: bytes, status: int) -> None:
    async with raw(tailrace, first) as peer:
        assert (await peer.rest())[9:12] == str(status).encode()


@pytest.mark.parametrize("early", [frame(PING), frame(TEXT, b"a", masked=False), b"\xff" * 50, frame(CLOSE)])
async def test_frames_before_the_handshake_is_answered_end_the_connection_or_come_late(
    tailrace: Served, early: bytes
) -> None:
    for _ in range(5):
        async with raw(tailrace, handshake(PATHS[0])) as peer:
            await asyncio.sleep(0)
            await peer.send(early)
            peer.writer.write_eof()
            assert b" 500 " not in await peer.rest()


# ── frames that are wrong ──────────────────────────────────────────────────────────────────────────────────────

WRONG = {
    "unmasked": (frame(TEXT, HELLO, masked=False), 1002),
    "a reserved bit": (bytes([0xC1]) + frame(TEXT, HELLO)[1:], 1002),
    "a reserved opcode": (frame(3, HELLO), 1002),
    "a long ping": (frame(PING, b"x" * 126), 1002),
    "a ping in parts": (frame(PING, b"x", fin=False), 1002),
    "a part of nothing": (frame(CONT, HELLO), 1002),
    "a message inside another": (frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), 1002),
    "a close inside a message": (frame(TEXT, b"a", fin=False) + frame(CLOSE, b"\x03\xe8"), 1002),
    "half a close code": (frame(CLOSE, b"\x03"), 1002),
    "a close code that is none": (frame(CLOSE, b"\x03\xed"), 1002),
    "a close reason that is no text": (frame(CLOSE, b"\x03\xe8\xff\xfe"), 1007),
    "no text": (frame(TEXT, b"\xff\xfe"), 1007),
    "half a character": (frame(TEXT, "☃".encode()[:2]), 1007),
    "no text in parts": (frame(TEXT, b"a", fin=False) + frame(CONT, b"\xc3", fin=False) + frame(CONT, b"("), 1007),
    "no text, and gone in the same breath": (frame(TEXT, b"\xff") * 2 + frame(CLOSE, b"\x03\xe8"), 1000),
    "64 KiB and a byte": (frame(TEXT, b"x" * 65_537), 1009),
    "the head of a giant": (frame(BINARY, size=2**62), 1009),
    "parts of a giant": (frame(TEXT, b"x" * 30_000, fin=False) + frame(CONT, b"x" * 30_000, fin=False) * 3, 1009),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("sent", "code"), WRONG.values(), ids=WRONG)
async def test_a_wrong_frame_closes_with_the_code_for_it(tailrace: Served, sent: bytes, code: int, path: str) -> None:
    assert await code_after(tailrace, sent, path) == code


async def test_a_message_in_parts_with_a_ping_between_is_understood(tailrace: Served) -> None:
    parts = [frame(TEXT, HELLO[:3], fin=False), frame(PING, b"?"), frame(CONT, HELLO[3:])]
    async with raw_socket(tailrace, PATHS[1]) as peer:
        for part in parts:
            for place in range(len(part)):
                await peer.send(part[place : place + 1])
        wire = await peer.until(b'"pong"}}]')
    assert frames_of(wire) == [(PONG, b"?"), (TEXT, b'[{"event":{"type":"pong"}}]')]


# ── messages that do not end ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("first", "drop"),
    [
        (frame(TEXT, b"a", fin=False), b""),
        (frame(TEXT, size=60_000), b"x"),
        (b"\x81", b""),
        (frame(TEXT, fin=False), frame(CONT, fin=False)),
        (frame(TEXT, fin=False), frame(PONG)),
    ],
    ids=["no second part", "bytes", "half a head", "empty parts", "parts and pongs"],
)
@pytest.mark.parametrize("path", PATHS)
async def test_a_message_that_is_not_finished_in_time_closes_with_1008(
    tailrace: Served, path: str, first: bytes, drop: bytes
) -> None:
    async with raw_socket(tailrace, path) as peer, asyncio.TaskGroup() as group:
        await peer.send(first)
        group.create_task(peer.drip(drop, 0.03))
        assert close_code(await peer.rest()) == 1008


async def test_a_peer_that_sends_nothing_for_long_is_left_alone(tailrace: Served, client: httpx.AsyncClient) -> None:
    async with raw_socket(tailrace, PATHS[1]) as peer:
        await peer.send(frame(TEXT, HELLO))
        await peer.until(b'"pong"}}]')
        await asyncio.sleep(3 * PATIENCE)
        await peer.send(frame(TEXT, HELLO))
        await peer.until(b'"pong"}}]')
        await peer.send(frame(CLOSE, b"\x03\xe8"))
        assert close_code(await peer.rest()) == 1000


# ── floods ─────────────────────────────────────────────────────────────────────────────────────────────────────

FLOODS = {
    "pings": frame(PING, b"x" * 100),
    "empty pings": frame(PING),
    "pongs": frame(PONG),
    "messages": frame(TEXT, HELLO),
    "empty messages": frame(TEXT),
    "binary messages": frame(BINARY, b"\x00"),
    "bad messages": frame(TEXT, b"nonsense"),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("one", FLOODS.values(), ids=FLOODS)
async def test_a_flood_closes_with_4429(tailrace: Served, one: bytes, path: str) -> None:
    code = await code_after(tailrace, one * 20_000, path)
    assert code == 4429 or (code == 4400 and one in (FLOODS[name] for name in ("empty messages", "bad messages")))


async def test_empty_parts_without_end_close_with_4429(tailrace: Served) -> None:
    assert await code_after(tailrace, frame(TEXT, fin=False) + frame(CONT, fin=False) * 20_000) == 4429


async def test_floods_cost_bounded_memory(tailrace: Served) -> None:
    process = psutil.Process(tailrace.server.pid)
    before = process.memory_info().rss
    sent = frame(TEXT, fin=False) + frame(CONT, fin=False) * 100_000

    async def attack() -> int | None:
        async with raw_socket(tailrace, PATHS[0]) as peer:
            sending = asyncio.create_task(peer.send(sent))
            code = close_code(await peer.rest())
            sending.cancel()
            await asyncio.wait([sending])
            return code

    assert set(await asyncio.gather(*(attack() for _ in range(20)))) <= {4429, None}
    assert process.memory_info().rss - before < 30 * 1024 * 1024


# ── peers that do not read, or do not leave ────────────────────────────────────────────────────────────────────


async def _more(client: httpx.AsyncClient, name: str, already: float, **labels: str) -> bool:
    return await metric(client, name, **labels) > already


async def test_a_peer_that_asks_and_never_reads_is_cut_off(tailrace: Served, client: httpx.AsyncClient) -> None:
    """Its answers wait behind what its streams are sent, and nothing of that becomes an error."""
    run_id, token = await lease(client)
    follow = json.dumps({"op": "follow", "ref": "a", "channel": f"run/{run_id}", "lossless": True}).encode()
    already = await metric(client, "tailrace_stream_ends_total", transport="websocket")
    async with raw(tailrace, handshake(PATHS[1]), receive_bytes=4_096) as peer:
        assert (await peer.head()).startswith(b"HTTP/1.1 101 ")
        peer.stop_reading()
        await peer.send(frame(TEXT, follow))
        for _ in range(4):
            events = [{"type": "node_update", "node": "n", "iteration": 1, "model": "x" * 20_000}] * 50
            sent = await client.post(
                f"{RUNS}/{run_id}/events", json={"events": events}, headers={"tailrace-lease": token}
            )
            sent.raise_for_status()
            await peer.send(frame(TEXT, HELLO) * 10)
        await eventually(
            lambda: _more(client, "tailrace_stream_ends_total", already, transport="websocket"), "it is cut off"
        )


async def test_a_close_that_is_not_answered_ends_the_connection_all_the_same(tailrace: Served) -> None:
    async with raw_socket(tailrace, PATHS[1]) as peer:
        await peer.send(frame(TEXT, b"nonsense") * 3)
        wire = await peer.rest()  # never answering the close
        assert close_code(wire) == 4400
    async with raw_socket(tailrace, PATHS[1]) as peer, asyncio.TaskGroup() as group:
        await peer.send(frame(TEXT, b"nonsense") * 3)
        group.create_task(peer.drip(frame(TEXT, HELLO), 0.05))
        assert close_code(await peer.rest()) == 4400


async def test_a_peer_that_vanishes_anywhere_leaves_nothing(tailrace: Served, client: httpx.AsyncClient) -> None:
    whole = handshake(PATHS[1]) + frame(TEXT, HELLO) + frame(TEXT, b"a", fin=False) + frame(PING, b"?")
    before = await _connections(client)
    for place in range(0, len(whole), 7):
        async with raw(tailrace, whole[: min(place, len(handshake(PATHS[1])))]) as peer:
            if place > len(handshake(PATHS[1])):
                await peer.head()
                await peer.send(whole[len(handshake(PATHS[1])) : place])
    await eventually(lambda: _are_gone(client, before), "all are gone")


async def _connections(client: httpx.AsyncClient) -> float:
    text = (await client.get("/metrics")).text
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith("tailrace_connections "))


async def _are_gone(client: httpx.AsyncClient, before: float) -> bool:
    return await _connections(client) <= before
