"""Peers that speak HTTP badly on purpose: each is sent away in time, costs little, and nobody else notices."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import psutil
import pytest
import pytest_asyncio

from tests.support.contract import RUNS, Served, metric, read_until, read_until_live, served
from tests.support.raw import Answers, RawPeer, handshake, nobody_harmed, raw, request
from tests.support.readers import eventually
from tests.support.server import append, lease, running, sse

PATIENCE = 1.0
BODY = 64 * 1024
SETTINGS = {
    "request_seconds": PATIENCE,
    "slow_reader_seconds": PATIENCE,
    "body_bytes": BODY,
    "heartbeat_seconds": 0.3,
}
JSON: dict[str, Any] = {"content_type": "application/json"}
CHUNKED: dict[str, Any] = {**JSON, "transfer_encoding": "chunked"}
POST = request(RUNS, "POST", **JSON, content_length="1000")


@pytest_asyncio.fixture(autouse=True)
async def unharmed(tailrace: Served, client: httpx.AsyncClient) -> AsyncIterator[None]:
    async with nobody_harmed(tailrace, client):
        yield


async def refusal(peer: RawPeer, status: int) -> str:
    """The problem document with which the connection ends; its detail."""
    answers = Answers.of(await peer.rest())
    assert answers.statuses == [status]
    document = json.loads(answers.bodies[0])
    assert answers.headers[0]["content-type"] == "application/problem+json"
    assert answers.headers[0]["connection"] == "close"
    assert (document["status"], document["request_id"]) == (status, answers.headers[0]["x-request-id"])
    return str(document["detail"])


async def dismissed(client: httpx.AsyncClient, reason: str) -> float:
    return await metric(client, "tailrace_dismissed_peers_total", reason=reason)


# ── heads ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_connection_that_says_nothing_is_closed_without_a_word(
    tailrace: Served, client: httpx.AsyncClient
) -> None:
    already = await dismissed(client, "silent")
    began = time.monotonic()
    async with raw(tailrace) as peer:
        assert await peer.rest() == b""
    assert time.monotonic() - began >= PATIENCE
    assert await dismissed(client, "silent") == already + 1


@pytest.mark.parametrize("first", [b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nhost: a\r\nx: "])
async def test_a_head_that_stops_is_408(tailrace: Served, first: bytes) -> None:
    async with raw(tailrace, first) as peer:
        assert "head" in await refusal(peer, 408)


@pytest.mark.parametrize("drop", [b"x: y\r\n", b"y"])
async def test_a_head_that_trickles_has_no_more_time_than_one_that_stops(tailrace: Served, drop: bytes) -> None:
    async with raw(tailrace, b"GET / HTTP/1.1\r\nhost: a\r\nx: y") as peer, asyncio.TaskGroup() as group:
        group.create_task(peer.drip(drop))
        assert "head" in await refusal(peer, 408)


async def test_blank_lines_before_a_request_do_not_make_it_one(tailrace: Served) -> None:
    async with raw(tailrace) as peer, asyncio.TaskGroup() as group:
        group.create_task(peer.drip(b"\r\n" * 1_000))
        assert await peer.rest() == b""


async def test_a_second_request_has_its_time_from_its_first_byte(tailrace: Served) -> None:
    async with raw(tailrace, request("/health")) as peer:
        assert (await peer.head()).startswith(b"HTTP/1.1 200 ")
        await peer.reader.readexactly(len(b'{"status":"alive"}'))
        await asyncio.sleep(2 * PATIENCE)  # which is idle, and allowed
        await peer.send(b"GET /hea")
        assert "head" in await refusal(peer, 408)


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\nx: " + b"y" * 300_000,
        b"GET / HTTP/1.1\r\n" + b"".join(b"x%d: y\r\n" % number for number in range(10_000)),
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 101 + b"\r\n",
        b"GET / HTTP/1.1\r\n" + (b"x: " + b"y" * 7_000 + b"\r\n") * 5 + b"\r\n",
        b"GET / HTTP/1.1\r\n" + b"x" * 300_000,
    ],
    ids=["one header without end", "headers without end", "101 headers", "35 kB of headers", "a name without end"],
)
async def test_a_head_that_is_too_large_is_431(tailrace: Served, first: bytes) -> None:
    async with raw(tailrace, first) as peer:
        assert "headers" in await refusal(peer, 431)


async def test_a_url_that_is_too_long_is_414(tailrace: Served) -> None:
    async with raw(tailrace, b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n") as peer:
        await refusal(peer, 414)


async def test_a_head_within_the_bounds_is_answered(tailrace: Served) -> None:
    fields: dict[str, Any] = {f"x_{number}": "y" * 300 for number in range(95)}
    async with raw(tailrace, request("/health", connection="close", **fields)) as peer:
        assert Answers.of(await peer.rest()).statuses == [200]


# ── bodies ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "first",
    [
        POST,
        POST + b'{"task":',
        request(RUNS, "POST", **CHUNKED),
        request(RUNS, "POST", b"5\r\n{", **CHUNKED),
        request(RUNS, "POST", b"1", **CHUNKED),
        request(RUNS, "POST", b"1\r\n{\r\n0\r\nx: ", **CHUNKED),
    ],
    ids=["none of it", "the rest of it", "no chunk", "half a chunk", "half a size", "half a trailer"],
)
async def test_a_body_that_does_not_come_is_408(tailrace: Served, first: bytes) -> None:
    async with raw(tailrace, first) as peer:
        assert "body" in await refusal(peer, 408)


@pytest.mark.parametrize(
    ("first", "drop"),
    [
        (request(RUNS, "POST", **JSON, content_length="60000"), b" "),
        (request(RUNS, "POST", **CHUNKED), b"1\r\n \r\n"),
        (request(RUNS, "POST", b"1;", **CHUNKED), b"x" * 10_000),
        (request(RUNS, "POST", b"1\r\n{\r\n0\r\n", **CHUNKED), b"x: y\r\n"),
    ],
    ids=["bytes", "chunks", "an extension without end", "trailers"],
)
async def test_a_body_that_trickles_is_408_however_much_comes_beside_it(
    tailrace: Served, first: bytes, drop: bytes
) -> None:
    async with raw(tailrace, first) as peer, asyncio.TaskGroup() as group:
        group.create_task(peer.drip(drop))
        assert "body" in await refusal(peer, 408)


async def test_trailers_without_end_are_431_and_none_passes_for_a_header(tailrace: Served) -> None:
    async with raw(tailrace, request(RUNS, "POST", b"0\r\n" + b"x: y\r\n" * 10_000, **CHUNKED)) as peer:
        await refusal(peer, 431)
    body = b"2\r\n{}\r\n0\r\ncontent-type: application/json\r\n\r\n"
    first = request(RUNS, "POST", body, transfer_encoding="chunked", connection="close")
    async with raw(tailrace, first) as peer:
        assert Answers.of(await peer.rest()).statuses == [415]


async def test_a_slow_body_that_keeps_its_pace_is_taken(tailrace: Served) -> None:
    body = json.dumps({"task": "work", "mode": "queued", "runner": "x", "padding": " " * 2_000}).encode()
    first = request(RUNS, "POST", **JSON, content_length=str(len(body)), connection="close")
    async with raw(tailrace, first) as peer:
        for place in range(0, len(body), 300):  # at several times the pace, and longer than one span
            await peer.send(body[place : place + 300])
            await asyncio.sleep(PATIENCE / 4)
        answers = Answers.of(await peer.rest())
    assert answers.statuses == [400]  # read to its end, and judged by what it says
    assert b"padding" in answers.bodies[0]


async def test_a_body_beyond_the_bound_is_413_and_what_still_comes_is_not_taken_for_ever(tailrace: Served) -> None:
    for first in (request(RUNS, "POST", **CHUNKED), request(RUNS, "POST", **JSON, content_length=str(10**12))):
        async with raw(tailrace, first) as peer, asyncio.TaskGroup() as group:
            group.create_task(peer.drip(b"1000\r\n" + b" " * 4_096 + b"\r\n", 0.001))
            assert Answers.of(await peer.rest()).statuses == [413]


async def test_an_answer_that_did_not_wait_for_the_body_does_not_wait_for_it_afterwards(tailrace: Served) -> None:
    async with raw(tailrace, request("/nowhere", "POST", **JSON, content_length="60000")) as peer:
        assert Answers.of(await peer.rest()).statuses == [404]


# ── what is no HTTP ────────────────────────────────────────────────────────────────────────────────────────────

BAD = {
    "garbage": b"\x00\xff\x00\xff" * 20,
    "tls": bytes.fromhex("16030100b2010000ae0303") + b"x" * 100,
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "two lengths": request("/health", "POST", b"abc", content_length="3, 4"),
    "a length below zero": request("/health", "POST", content_length="-1"),
    "length and chunks": request("/health", "POST", b"0\r\n\r\n", content_length="3", transfer_encoding="chunked"),
    "no chunk size": request("/health", "POST", b"zz\r\n", transfer_encoding="chunked"),
    "an enormous chunk": request("/health", "POST", b"f" * 40 + b"\r\n", transfer_encoding="chunked"),
    "a space in the url": b"GET /a b HTTP/1.1\r\nhost: a\r\n\r\n",
    "a tunnel": request("example.com:443", "CONNECT"),
    "a url beyond ascii": b"GET /\xff\xfe HTTP/1.1\r\nhost: a\r\n\r\n",
    "nul in a header": b"GET / HTTP/1.1\r\nhost: a\r\nx: a\x00b\r\n\r\n",
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
async def test_what_is_no_http_is_refused_and_the_connection_ends(tailrace: Served, bad: bytes) -> None:
    async with raw(tailrace, bad) as peer:
        statuses = Answers.of(await peer.rest()).statuses
    assert len(statuses) == 1
    assert 400 <= statuses[0] < 500


async def test_nothing_is_written_into_an_answer_that_is_on_its_way(tailrace: Served) -> None:
    async with raw(tailrace, request(f"{RUNS}/stream")) as peer:
        await peer.head()
        await peer.send(b"\x00\xff\r\n\r\n")
        assert b"HTTP/1.1" not in await peer.rest()


async def test_a_client_of_http_1_0_is_answered_and_closed(tailrace: Served) -> None:
    async with raw(tailrace, request("/health", version="1.0")) as peer:
        assert Answers.of(await peer.rest()).bodies == [b'{"status":"alive"}']


async def test_a_client_that_closes_its_half_is_let_go(tailrace: Served, client: httpx.AsyncClient) -> None:
    before = await connections(client)
    for first in (b"", b"GET /", POST, request(f"{RUNS}/stream"), handshake(f"{RUNS}/stream")):
        async with raw(tailrace, first) as peer:
            if b"/stream" in first:
                await peer.head()
            peer.writer.write_eof()
            assert b" 500 " not in await peer.rest()
    await eventually(lambda: _are_gone(client, before), "all are gone")


async def connections(client: httpx.AsyncClient) -> float:
    text = (await client.get("/metrics")).text
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith("tailrace_connections "))


async def _are_gone(client: httpx.AsyncClient, before: float) -> bool:
    return await connections(client) <= before


# ── too many at once ───────────────────────────────────────────────────────────────────────────────────────────


async def test_some_requests_may_wait_for_their_answers_and_are_answered_in_order(tailrace: Served) -> None:
    paths = [f"/nowhere/{number}" for number in range(15)]
    asked = b"".join(request(path) for path in paths) + request("/health", connection="close")
    async with raw(tailrace, asked) as peer:
        answers = Answers.of(await peer.rest())
    assert answers.statuses == [*(404 for _ in paths), 200]
    assert [json.loads(body)["detail"].split()[-1] for body in answers.bodies[:-1]] == [f"{path}." for path in paths]


@pytest.mark.parametrize("first", [b"", request(f"{RUNS}/stream")], ids=["after nothing", "behind a stream"])
async def test_more_requests_than_may_wait_end_the_connection(
    tailrace: Served, client: httpx.AsyncClient, first: bytes
) -> None:
    already = await dismissed(client, "pipelined")
    async with raw(tailrace, first) as peer:
        await peer.send(request("/ready") * 5_000)
        assert (await peer.rest()).count(b"HTTP/1.1") <= 18
    assert await dismissed(client, "pipelined") == already + 1


async def test_an_upgrade_behind_a_stream_does_not_take_the_connection_over(tailrace: Served) -> None:
    async with raw(tailrace, request(f"{RUNS}/stream")) as peer:
        await peer.head()
        await peer.send(handshake(f"{RUNS}/stream"))
        assert b" 101 " not in await peer.rest()


async def test_answers_that_nobody_reads_end_the_connection(tailrace: Served, client: httpx.AsyncClient) -> None:
    already = await dismissed(client, "unread")
    async with raw(tailrace, request(f"{RUNS}/schema") * 15, receive_bytes=4_096) as peer:
        peer.stop_reading()
        await eventually(lambda: _more(client, "unread", already), "it is noticed")


async def _more(client: httpx.AsyncClient, reason: str, already: float) -> bool:
    return await dismissed(client, reason) > already


async def test_hundreds_that_say_little_cost_little_and_are_all_sent_away(
    tailrace: Served, client: httpx.AsyncClient
) -> None:
    process = psutil.Process(tailrace.server.pid)
    before, open_before = process.memory_info().rss, await connections(client)
    firsts = [b"", b"GET / HTTP/1.1\r\nx: " + b"y" * 30_000, POST, request(RUNS, "POST", b"1", **CHUNKED)]

    async def attack(first: bytes) -> bytes:
        async with raw(tailrace, first) as peer:
            return await peer.rest()

    ends = await asyncio.gather(*(attack(firsts[number % 4]) for number in range(400)))
    assert {end[9:12] for end in ends} == {b"", b"408"}
    assert process.memory_info().rss - before < 40 * 1024 * 1024
    await eventually(lambda: _are_gone(client, open_before), "all are gone")


@pytest.fixture(scope="module")
def small(postgres_url: str) -> Iterator[Served]:
    """A server with few places, and all the patience there is."""
    with served(postgres_url, request_seconds=600, connections_per_process=20) as server:
        yield server


async def test_those_who_say_nothing_keep_nobody_out(small: Served) -> None:
    async with httpx.AsyncClient(base_url=small.url) as client, asyncio.TaskGroup() as group:
        run_id, token = await lease(client)
        async with sse(client, f"{RUNS}/{run_id}/stream") as stream:
            await read_until_live(stream)
            held = []
            for number in range(60):
                held.append(await asyncio.open_connection("127.0.0.1", small.server.port))
                held[-1][1].write(POST if number % 2 else b"")
            ends = [group.create_task(RawPeer(*one).rest()) for one in held]
            assert (await client.get("/health")).status_code == 200
            await append(client, run_id, token)
            await read_until(stream, lambda frame: frame.type == "node_update")
            open_now = sum(not end.done() for end in ends)
            assert open_now <= 20
            for _, writer in held:
                writer.transport.abort()


async def test_when_all_places_are_at_work_one_more_is_503(small: Served) -> None:
    async with httpx.AsyncClient(base_url=small.url) as client:
        async with AsyncExitStack() as stack:
            for _ in range(21):  # some places are the service's own
                peer = await stack.enter_async_context(raw(small, request(f"{RUNS}/stream")))
                wire = await peer.head()
                if b" 200 " not in wire:
                    break
            answers = Answers.of(wire + await peer.rest())
        assert answers.statuses == [503]
        assert "as many connections" in json.loads(answers.bodies[0])["detail"]
        assert int(answers.headers[0]["retry-after"]) > 0
        await eventually(lambda: _answers(client), "there is room again")


async def _answers(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/health")).status_code == 200
    except httpx.TransportError:
        return False


async def test_bodies_on_their_way_take_bounded_memory_together(database_url: str) -> None:
    size = 256 * 1024  # of which 64 are taken at once
    first = request(RUNS, "POST", b" " * (size - 1), **JSON, content_length=str(size))
    async with (
        running(database_url, request_seconds=600, body_bytes=size) as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        process = psutil.Process(server.pid)
        before = process.memory_info().rss
        for wave in (1, 2):
            async with AsyncExitStack() as stack:
                for _ in range(300):
                    await stack.enter_async_context(raw(Served(server, database_url), first))
                await eventually(lambda: _more(client, "no_room", wave * 230 - 1), "most are sent away")  # noqa: B023
                assert process.memory_info().rss - before < 45 * 1024 * 1024  # of 75 MB that come in each wave
            await eventually(lambda: _takes_bodies(client), "there is room again")


async def _takes_bodies(client: httpx.AsyncClient) -> bool:
    return (await client.post(RUNS, json={"task": "work", "mode": "queued", "runner": "x"})).is_success


async def test_one_address_has_no_more_than_its_share(database_url: str) -> None:
    async with running(database_url, connections_per_address=3) as server:
        held = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(3)]
        async with raw(Served(server, database_url)) as peer:
            assert "address" in await refusal(peer, 429)
        held[0][1].transport.abort()

        async def is_let_in() -> bool:
            async with raw(Served(server, database_url), request("/health", connection="close")) as peer:
                return Answers.of(await peer.rest()).statuses == [200]

        await eventually(is_let_in, "its place is free again")
        for _, writer in held:
            writer.transport.abort()
