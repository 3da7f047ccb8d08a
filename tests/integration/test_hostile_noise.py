"""Exchanges that were right until chance had its way with them: the doors refuse them, and nothing breaks."""

import asyncio
import json
import random
from typing import Any

import httpx

from tests.support.contract import RUNS, Served, read_until, read_until_live
from tests.support.raw import CLOSE, CONT, PING, TEXT, frame, handshake, raw, request
from tests.support.readers import seeded
from tests.support.server import append, lease, sse

SETTINGS = {"request_seconds": 0.5, "slow_reader_seconds": 0.5, "heartbeat_seconds": 0.3}
JSON: dict[str, Any] = {"content_type": "application/json"}
BODY = json.dumps({"task": "work", "mode": "queued", "runner": "noise"}).encode()
FOLLOW = b'{"op":"follow","ref":"a","channel":"runs"}'
RIGHT = (
    request("/health") * 2,
    request(f"{RUNS}?limit=2&status=running", accept="application/json"),
    request(RUNS, "POST", BODY, **JSON, content_length=str(len(BODY))),
    request(
        RUNS, "POST", b"%x;a=b\r\n%b\r\n0\r\nx: y\r\n\r\n" % (len(BODY), BODY), **JSON, transfer_encoding="chunked"
    ),
    request(f"{RUNS}/stream", last_event_id="k3f9a2-1"),
    handshake(f"{RUNS}/stream?after=now", sec_websocket_protocol="tailrace.v1"),
)
SPOKEN = (
    frame(TEXT, FOLLOW) + frame(PING, b"?") + frame(TEXT, b'{"op":"ping"}'),
    frame(TEXT, FOLLOW[:9], fin=False) + frame(CONT, FOLLOW[9:]) + frame(CLOSE, b"\x03\xe8bye"),
)
SPICE = (
    b"\r\n",
    b"\x00",
    b"\xff" * 9,
    b":",
    b" ",
    b"chunked",
    b"0",
    b"9" * 30,
    b"HTTP/1.0",
    b"Upgrade",
    b"%2e%2e/",
    b"\x88\x80",
)


def spoilt(right: bytes, chance: random.Random) -> bytes:
    """With one to four mistakes in it."""
    wire = bytearray(right)
    for _ in range(chance.randint(1, 4)):
        place, width = chance.randrange(len(wire) + 1), chance.choice((1, 1, 2, 8, 40))
        match chance.randrange(5):
            case 0:
                wire[place : place + width] = chance.randbytes(width)
            case 1:
                del wire[place : place + width]
            case 2:
                wire[place:place] = chance.choice(SPICE)
            case 3:
                wire[place:place] = wire[place : place + width] * chance.randint(1, 20)
            case _:
                del wire[place:]
    return bytes(wire)


async def exchange(server: Served, first: bytes, then: bytes, chance: random.Random) -> bytes:
    """Send it in pieces; what came back until the server had enough, or for a moment."""
    async with raw(server, first if then else b"") as peer:
        got = b""
        if then:
            got = await peer.head()
        wire = then or first
        cuts = sorted(chance.randrange(len(wire) + 1) for _ in range(2))
        for piece in (wire[: cuts[0]], wire[cuts[0] : cuts[1]], wire[cuts[1] :]):
            await peer.send(piece)
            await asyncio.sleep(0)
        try:
            async with asyncio.timeout(0.2):  # much of it is right all the same, and stays open
                while data := await peer.reader.read(65536):
                    got += data
        except (TimeoutError, OSError):
            pass
        return got


async def test_noise_at_the_doors_is_refused_and_breaks_nothing(tailrace: Served, client: httpx.AsyncClient) -> None:
    chance = seeded("noise")
    said = len(tailrace.server.output)
    run_id, token = await lease(client)
    async with sse(client, f"{RUNS}/{run_id}/stream") as stream:
        await read_until_live(stream)
        for _ in range(15):
            rounds = [(spoilt(chance.choice(RIGHT), chance), b"") for _ in range(14)]
            rounds += [(handshake(f"{RUNS}/ws"), spoilt(chance.choice(SPOKEN), chance) or b"\x00") for _ in range(6)]
            answers = await asyncio.gather(*(exchange(tailrace, *one, chance) for one in rounds))
            for one, got in zip(rounds, answers, strict=True):
                assert not any(b"HTTP/1.1 50%d" % digit in got for digit in (0, 1, 2, 4)), (one, got)
        await append(client, run_id, token)
        await read_until(stream, lambda seen: seen.type == "node_update")
    assert (await client.get("/ready")).status_code == 200
    assert tailrace.server.output[said:] == []
