"""Readers that do not read: what they cost, what they lose, and what they are told. DESIGN.md 3 (Lag) and 4.2."""

import asyncio
import fcntl
import json
import socket as sockets
import sys
import termios
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

import h11
import httpx
import psutil
import pytest
import pytest_asyncio

from shared.protocol.sse import SseDecoder
from tests.support.contract import (
    ANSWER_SECONDS,
    RUNS,
    Frame,
    Served,
    ended_run,
    events_of,
    finish,
    metric,
    read_until,
    read_until_live,
    served,
    sql,
    stored,
    types_of,
)
from tests.support.server import append, lease, sse

SETTINGS = {"heartbeat_seconds": 0.3, "lag_budget_bytes": 100_000}
FAT = "x" * 20_000  # of a model's name, which nothing shortens
MEGABYTE = 50  # fat events


@pytest.fixture(scope="module")
def impatient(postgres_url: str) -> Iterator[Served]:
    """A server that gives a socket half a second."""
    with served(postgres_url, slow_reader_seconds=0.5, heartbeat_seconds=0.3) as server:
        yield server


@pytest_asyncio.fixture
async def impatient_client(impatient: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=impatient.url, timeout=30) as client:
        yield client


class LazyReader:
    """An HTTP/1.1 client that reads only when told to, with a small receive buffer: the kernel absorbs next to nothing.

    Frames come from `next`, which reads from the socket as it needs.
    """

    def __init__(self, connection: sockets.socket) -> None:
        self._socket = connection
        self._http = h11.Connection(h11.CLIENT)
        self._decoder = SseDecoder()
        self._ready: list[Frame] = []
        self.lost = False

    async def request(self, url: str, headers: dict[str, str] | None = None) -> None:
        """Send the request; nothing of the answer is read."""
        parts = urlsplit(url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        request = h11.Request(method="GET", target=target, headers=[("host", "localhost"), *(headers or {}).items()])
        wire = (self._http.send(request) or b"") + (self._http.send(h11.EndOfMessage()) or b"")
        await asyncio.get_running_loop().sock_sendall(self._socket, wire)

    async def next(self) -> Frame | None:
        """The next frame; None at the end of the body, or where the connection was cut (then `lost`)."""
        while not self._ready:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                try:
                    received = await asyncio.get_running_loop().sock_recv(self._socket, 65536)
                except ConnectionError:
                    received = b""
                if not received:
                    self.lost = True
                    return None
                self._http.receive_data(received)
            elif isinstance(event, h11.Data):
                self._ready = [Frame.of_sse(message) for message in self._decoder.decode(bytes(event.data))]
            elif isinstance(event, h11.EndOfMessage):
                return None
        return self._ready.pop(0)

    async def stall(self, client: httpx.AsyncClient) -> None:
        """Wait until its socket is full: nothing more arrives, however often the service has its turn meanwhile."""
        before, now = -1, 0
        async with asyncio.timeout(ANSWER_SECONDS):
            while now == 0 or now != before:
                for _ in range(20):
                    await client.get("/ready")  # asks the database too
                before, now = now, int.from_bytes(fcntl.ioctl(self._socket, termios.FIONREAD, bytes(4)), sys.byteorder)

    async def until_type(self, *names: str) -> list[Frame]:
        """Frames up to and including the first of one of these types, or to the end."""
        seen: list[Frame] = []
        async with asyncio.timeout(ANSWER_SECONDS):
            while (frame := await self.next()) is not None:
                seen.append(frame)
                if frame.type in names:
                    break
        return seen


@asynccontextmanager
async def lazy_reader(server: Served, path: str, headers: dict[str, str] | None = None) -> AsyncIterator[LazyReader]:
    with sockets.socket() as connection:
        connection.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4_096)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", server.server.port))
        reader = LazyReader(connection)
        await reader.request(path, headers)
        yield reader


async def publish(client: httpx.AsyncClient, run_id: str, token: str, megabytes: float) -> int:
    """So much of fat events, in requests of a megabyte; returns how many."""
    left = total = int(megabytes * MEGABYTE)
    while left:
        count = min(left, MEGABYTE)
        events = [{"type": "node_update", "node": "n", "iteration": left - i, "model": FAT} for i in range(count)]
        body = {"events": events}
        (await client.post(f"{RUNS}/{run_id}/events", json=body, headers={"tailrace-lease": token})).raise_for_status()
        left -= count
    return total


async def say_error(client: httpx.AsyncClient, run_id: str, token: str, code: str) -> None:
    body = {"events": [{"type": "error", "fatal": False, "code": code, "message": "m"}]}
    (await client.post(f"{RUNS}/{run_id}/events", json=body, headers={"tailrace-lease": token})).raise_for_status()


async def ends_of(client: httpx.AsyncClient, reason: str) -> int:
    """How many streams have ended for it."""
    return int(await metric(client, "tailrace_stream_ends_total", reason=reason))


# ── a reader that never reads ──────────────────────────────────────────────────────────────────────────────────


async def test_a_reader_that_never_reads_is_closed_as_slow_and_others_do_not_notice(
    impatient: Served, impatient_client: httpx.AsyncClient
) -> None:
    client = impatient_client
    run_id, token = await lease(client)
    path = f"{RUNS}/{run_id}/stream?lossless=1"
    process = psutil.Process(impatient.server.pid)
    async with lazy_reader(impatient, path) as frozen, sse(client, path) as healthy:
        assert types_of(await read_until_live(healthy))[0] == "hello"
        before = process.memory_info().rss
        reading = asyncio.create_task(read_until(healthy, lambda frame: frame.type == "stream_end"))
        count = await publish(client, run_id, token, 30)
        async with asyncio.timeout(ANSWER_SECONDS):
            while not await ends_of(client, "slow_reader"):
                assert (await client.get("/health")).status_code == 200
        grown = process.memory_info().rss - before
        await finish(client, run_id, token)
        seen = stored(await reading)
        assert len(seen) == count + 1  # all of them, and the end
        assert [frame.seq for frame in seen] == sorted({frame.seq for frame in seen})
        assert grown < 60 * 1024 * 1024  # what tails may hold, not what was published times two
        # what the kernel had taken already it may still read; then the cut, without a word about an end
        got = await frozen.until_type("stream_end")
        assert frozen.lost
        assert "stream_end" not in types_of(got)
    # it comes back with what it has seen, and loses nothing
    last = got[-1].id if got else "start"
    back = await events_of_all(client, run_id, str(last))
    assert [f.seq for f in stored(got)] + [f.seq for f in back] == [f.seq for f in await events_of_all(client, run_id)]


async def events_of_all(client: httpx.AsyncClient, run_id: str, after: str = "start") -> list[Frame]:
    """However many there are: by ndjson."""
    headers = {"accept": "application/x-ndjson"}
    answer = await client.get(f"{RUNS}/{run_id}/events", params={"after": after}, headers=headers)
    frames = [Frame.of_json(json.loads(line)) for line in answer.raise_for_status().text.splitlines()]
    assert frames[-1].type == "bookmark"
    return frames[:-1]


async def test_many_readers_that_never_read_cost_bounded_memory(
    impatient: Served, impatient_client: httpx.AsyncClient
) -> None:
    client = impatient_client
    run_id, token = await lease(client)
    await publish(client, run_id, token, 10)
    process = psutil.Process(impatient.server.pid)
    already = await ends_of(client, "slow_reader")
    before = process.memory_info().rss
    async with asyncio.TaskGroup() as group:
        gone = asyncio.Event()

        async def freeze() -> None:
            async with lazy_reader(impatient, f"{RUNS}/{run_id}/stream"):
                await gone.wait()

        for _ in range(20):
            group.create_task(freeze())
        highest = 0
        async with asyncio.timeout(ANSWER_SECONDS):
            while await ends_of(client, "slow_reader") < already + 20:
                highest = max(highest, process.memory_info().rss - before)
        gone.set()
    assert highest < 100 * 1024 * 1024  # 20 readers of 10 MB of history each
    await finish(client, run_id, token)


async def test_a_socket_that_never_reads_is_closed_as_slow_too(
    impatient: Served, impatient_client: httpx.AsyncClient
) -> None:
    client = impatient_client
    run_id, token = await lease(client)
    already = await ends_of(client, "slow_reader")
    upgrade = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "x" * 22 + "==",
    }
    async with lazy_reader(impatient, f"{RUNS}/{run_id}/stream", upgrade):
        await publish(client, run_id, token, 5)
        async with asyncio.timeout(ANSWER_SECONDS):
            while await ends_of(client, "slow_reader") == already:
                assert (await client.get("/health")).status_code == 200
    await finish(client, run_id, token)


# ── a reader that lags, then reads ─────────────────────────────────────────────────────────────────────────────


class Lagged:
    """A reader that slept through 15 MB with a critical event here and there, and then read all it was given."""

    def __init__(self, run_id: str, before: list[Frame], after: list[Frame]) -> None:
        self.run_id = run_id
        self.before = before  # up to `live`
        self.frames = after

    @property
    def gaps(self) -> list[Frame]:
        return [frame for frame in self.frames if frame.type == "gap"]


async def lag(server: Served, client: httpx.AsyncClient, query: str = "") -> Lagged:
    run_id, token = await lease(client)
    await append(client, run_id, token, 5)
    async with lazy_reader(server, f"{RUNS}/{run_id}/stream{query}") as reader:
        before = await reader.until_type("live")
        for part in range(5):
            await publish(client, run_id, token, 3)
            await say_error(client, run_id, token, f"part{part}")
        await finish(client, run_id, token)
        after = await reader.until_type("stream_end")
        assert not reader.lost
    return Lagged(run_id, before, after)


async def test_a_reader_that_lags_gets_gaps_with_exact_counts_and_every_critical_event(
    tailrace: Served, client: httpx.AsyncClient
) -> None:
    lagged = await lag(tailrace, client)
    everything = await events_of_all(client, lagged.run_id)
    assert types_of(lagged.frames).count("stream_end") == 1
    critical = [frame for frame in everything if frame.type != "node_update"]
    assert [f for f in stored(lagged.before + lagged.frames) if f.type != "node_update"] == critical
    assert lagged.gaps
    # nothing is lost in silence: each event was sent, or lies in exactly one gap, in order
    accounted = 0
    for frame in lagged.before + lagged.frames:
        if frame.type == "gap":
            inside = [e for e in everything if frame.event["from_seq"] <= e.seq <= frame.event["to_seq"]]
            assert frame.event["dropped"] == len(inside)
            assert frame.event["by_type"] == dict(Counter(types_of(inside)))
            assert frame.event["by_type"].keys() == {"node_update"}
            assert frame.event["reason"] == "lag"
            assert frame.seq == frame.event["to_seq"]
            assert inside[0] == everything[accounted]
            accounted += len(inside)
        elif frame.is_stored:
            assert frame == everything[accounted]
            accounted += 1
    assert accounted == len(everything)
    assert types_of(lagged.before).count("gap") == 0


async def test_a_gaps_backfill_returns_exactly_what_was_dropped(tailrace: Served, client: httpx.AsyncClient) -> None:
    lagged = await lag(tailrace, client, "?types=node_update,error")
    everything = await events_of_all(client, lagged.run_id)
    for gap in lagged.gaps:
        dropped = [e for e in everything if gap.event["from_seq"] <= e.seq <= gap.event["to_seq"]]
        url = gap.event["backfill"]
        assert url.startswith(f"{RUNS}/{lagged.run_id}/events?")
        answer = await client.get(url, headers={"accept": "application/x-ndjson"})
        of_lines = [Frame.of_json(json.loads(line)) for line in answer.raise_for_status().text.splitlines()]
        assert of_lines[:-1] == dropped
        of_json = (await client.get(url)).raise_for_status().json()["data"]
        assert [Frame.of_json(frame) for frame in of_json] == dropped


async def test_a_backfill_returns_also_what_is_more_than_one_page(tailrace: Served, client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client)
    async with lazy_reader(tailrace, f"{RUNS}/{run_id}/stream") as reader:
        await reader.until_type("live")
        for _ in range(10):
            (await append(client, run_id, token, 1_000)).raise_for_status()
        await finish(client, run_id, token)
        gaps = [frame.event for frame in await reader.until_type("stream_end") if frame.type == "gap"]
    widest = max(gaps, key=lambda gap: int(gap["dropped"]))
    assert widest["dropped"] > 100
    answer = (await client.get(widest["backfill"])).raise_for_status().json()
    assert len(answer["data"]) == widest["dropped"]
    assert (answer["data"][0]["event"]["type"], answer["next"].partition("-")[2]) == (
        "node_update",
        str(widest["to_seq"]),
    )


async def test_readers_side_by_side_get_every_event_whole_though_their_sockets_take_a_part_of_it(
    tailrace: Served, client: httpx.AsyncClient
) -> None:
    """They wait at the head together, and are written to together; each time some of them are full, others are not."""
    run_id, token = await lease(client)
    path = f"{RUNS}/{run_id}/stream?after=now&lossless=1"
    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(lazy_reader(tailrace, path)) for _ in range(8)]
        seen = [await reader.until_type("live") for reader in readers]
        for turn in range(24):
            await publish(client, run_id, token, 0.06)
            for number, reader in enumerate(readers):
                while number <= turn % 8 and len(stored(seen[number])) < 3 * (turn + 1):
                    frame = await reader.next()
                    assert frame is not None
                    seen[number].append(frame)
        await finish(client, run_id, token)
        rest = [await reader.until_type("stream_end") for reader in readers]
    everything = (await events_of_all(client, run_id))[2:]
    assert [stored(a + b) for a, b in zip(seen, rest, strict=True)] == [everything] * 8


async def test_with_lossless_a_lagging_reader_gets_everything(tailrace: Served, client: httpx.AsyncClient) -> None:
    lagged = await lag(tailrace, client, "?lossless=1")
    assert lagged.gaps == []
    assert stored(lagged.before + lagged.frames) == await events_of_all(client, lagged.run_id)


async def test_resuming_anywhere_around_a_gap_loses_nothing_in_silence(
    tailrace: Served, client: httpx.AsyncClient
) -> None:
    lagged = await lag(tailrace, client)
    everything = await events_of_all(client, lagged.run_id)
    frames = lagged.before + lagged.frames
    place = frames.index(lagged.gaps[0])
    for last in frames[place - 1 : place + 2]:
        async with sse(client, f"{RUNS}/{lagged.run_id}/stream", headers={"last-event-id": str(last.id)}) as stream:
            rest = await read_until_live(stream)
        assert "gap" not in types_of(rest)  # what was not seen when a reader came is never shed
        assert stored(rest) == [event for event in everything if event.seq > last.seq]


async def test_history_is_never_shed_however_slowly_it_is_read(tailrace: Served, client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client)
    await publish(client, run_id, token, 5)
    async with lazy_reader(tailrace, f"{RUNS}/{run_id}/stream") as reader:
        await publish(client, run_id, token, 0.02)  # the stream waits meanwhile, full
        await ended_run(client, 1)
        frames = await reader.until_type("live")
    history = [frame for frame in await events_of(client, run_id) if frame.seq <= frames[0].event["head"]]
    assert stored(frames)[: len(history)] == history
    assert "gap" not in types_of(frames)
    await finish(client, run_id, token)


# ── without memory for tails ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def forgetful(postgres_url: str) -> Iterator[Served]:
    """A server whose tails hold nothing: whatever is not sent at once must be read from the log."""
    with served(postgres_url, tail_bytes=0, heartbeat_seconds=0.3) as server:
        yield server


@pytest_asyncio.fixture
async def forgetful_client(forgetful: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=forgetful.url, timeout=30) as client:
        yield client


async def test_readers_at_the_head_get_everything_however_little_the_tails_hold(
    forgetful_client: httpx.AsyncClient,
) -> None:
    client = forgetful_client
    run_id, token = await lease(client)
    async with sse(client, f"{RUNS}/{run_id}/stream") as one, sse(client, f"{RUNS}/stream?run={run_id}") as other:
        await read_until_live(one)
        await read_until_live(other)
        for _ in range(20):
            await append(client, run_id, token, 7)
        await finish(client, run_id, token)
        seen = stored(await read_until(one, lambda frame: frame.type == "stream_end"))
        assert seen == stored(await read_until(other, lambda frame: frame.event.get("status") == "completed"))
    assert seen == (await events_of(client, run_id))[2:]


async def test_events_trimmed_before_a_slow_reader_got_them_are_a_reset_not_a_hole(
    forgetful: Served, forgetful_client: httpx.AsyncClient
) -> None:
    client = forgetful_client
    run_id, token = await lease(client)
    async with lazy_reader(forgetful, f"{RUNS}/{run_id}/stream?lossless=1") as reader:
        first = (await reader.until_type("live"))[-1].seq + 1
        await publish(client, run_id, token, 10)
        last = (await client.get(f"{RUNS}/{run_id}")).json()["last_position"]
        kept_from = int(last.partition("-")[2]) - 4
        async with sql(forgetful.database_url) as database:  # what retention does
            await database.execute("UPDATE runs.retained SET oldest = $1", kept_from)
            await database.execute("DELETE FROM runs.events WHERE seq < $1", kept_from)
        await finish(client, run_id, token)
        frames = await reader.until_type("stream_end")
    reset = next(place for place, frame in enumerate(frames) if frame.type == "reset")
    assert frames[reset].event["reason"] == "history_trimmed"
    before, after = stored(frames[:reset]), stored(frames[reset:])
    assert [frame.seq for frame in before] == list(range(first, first + len(before)))
    assert [frame.seq for frame in after] == list(range(kept_from, kept_from + 6))
