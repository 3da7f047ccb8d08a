"""A run of a hundred thousand events: it can be read whole, while it grows, and the service stays small."""

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import psutil
import pytest
import pytest_asyncio

from tests.support.runs import SECONDS, finish, polled, server_fixture
from tests.support.server import Server, lease

pytestmark = pytest.mark.asyncio(loop_scope="module")
server = server_fixture(lease_seconds=600)

TOTAL, BATCH = 100_000, 1_000
TEXT = "x" * 100
MEGABYTE = 1024 * 1024


class Grown:
    """The run, and how long each batch took to be stored."""

    def __init__(self, run_id: str, token: str) -> None:
        self.run_id = run_id
        self.token = token
        self.stored = 0

    async def append(self, client: httpx.AsyncClient, count: int = BATCH) -> float:
        """Store so many more; the seconds that took."""
        events = [
            {"type": "node_update", "node": "n", "worker_id": "w", "iteration": self.stored + place, "snippet": TEXT}
            for place in range(1, count + 1)
        ]
        body = msgspec.json.encode({"events": events, "producer": "p", "producer_seq": self.stored + 1})
        headers = {"tailrace-lease": self.token, "content-type": "application/json"}
        began = time.perf_counter()
        answer = await client.post(f"/api/v1/runs/{self.run_id}/events", content=body, headers=headers)
        took = time.perf_counter() - began
        assert answer.status_code == 200, answer.text
        self.stored += count
        return took


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def grown(server: Server) -> AsyncIterator[Grown]:
    async with httpx.AsyncClient(base_url=server.url, timeout=SECONDS) as client:
        run = Grown(*(await lease(client, runner="long")))
        times = [await run.append(client) for _ in range(TOTAL // BATCH)]
        print("first and last ten batches:", sum(times[:10]), sum(times[-10:]))
        yield run


def rss(server: Server) -> int:
    return int(psutil.Process(server.pid).memory_info().rss)


async def lines(client: httpx.AsyncClient, run: Grown, **params: Any) -> AsyncIterator[Any]:
    """The run's events as ndjson, one frame after another."""
    url = f"/api/v1/runs/{run.run_id}/events"
    async with client.stream("GET", url, params=params, headers={"accept": "application/x-ndjson"}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("application/x-ndjson")
        async for line in answer.aiter_lines():
            yield msgspec.json.decode(line)


async def test_it_streams_whole_in_bounded_memory_while_it_grows(server: Server, grown: Grown) -> None:
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=SECONDS) as reading,
        httpx.AsyncClient(base_url=server.url, timeout=SECONDS) as writing,
    ):
        alone = [await grown.append(writing, 100) for _ in range(30)]
        before, stored, most = rss(server), grown.stored, 0
        beside: list[float] = []
        done = asyncio.Event()

        async def write() -> None:
            while not done.is_set():
                beside.append(await grown.append(writing, 100))

        writer = asyncio.create_task(write())
        count, last = 0, 0
        async for frame in lines(reading, grown):
            event = frame["event"]
            if event["type"] != "node_update":
                continue
            count += 1
            assert event["iteration"] == last + 1
            last = event["iteration"]
            if count % 5_000 == 0:
                most = max(most, rss(server))
        done.set()
        await writer
    assert frame["event"] == {"type": "bookmark"}
    assert count >= stored
    print(f"rss {before / MEGABYTE:.0f} MB before, {most / MEGABYTE:.0f} MB at most; {count} events")
    assert most - before < 60 * MEGABYTE  # the events alone have three times as much
    ratio = statistics.median(beside) / statistics.median(alone)
    print(f"appending beside it took {ratio:.2f} of the time without, {len(beside)} times; {os.cpu_count()} processors")
    assert len(beside) >= 5
    assert ratio < 8  # two clients and the server share the processors; an open snapshot would make it grow on and on


async def test_a_reader_that_stops_holds_no_memory_and_no_append(server: Server, grown: Grown) -> None:
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=SECONDS) as reading,
        httpx.AsyncClient(base_url=server.url, timeout=SECONDS) as writing,
    ):
        before = rss(server)
        url = f"/api/v1/runs/{grown.run_id}/events"
        async with reading.stream("GET", url, headers={"accept": "application/x-ndjson"}) as answer:
            assert answer.status_code == 200
            for _ in range(10):  # nobody reads; the answer waits in small buffers
                await grown.append(writing, 100)
            assert rss(server) - before < 40 * MEGABYTE


async def test_its_pages_are_everything_once(server: Server, grown: Grown) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=SECONDS) as client:
        url = f"/api/v1/runs/{grown.run_id}/events"
        events = await polled(client, url, types="node_update")
        assert [event["iteration"] for event in events] == list(range(1, grown.stored + 1))


async def test_ndjson_resumes_where_it_was_cut(server: Server, grown: Grown) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=SECONDS) as client:
        part = [frame async for frame in lines(client, grown, limit=1_000)]
        assert part[-1]["event"] == {"type": "bookmark"}
        assert len(part) == 1_001
        middle = part[499]["id"]
        rest = [frame async for frame in lines(client, grown, after=middle, until=part[999]["id"])]
        assert rest[:-1] == part[500:1_000]


async def test_its_detail_shows_the_first_and_where_to_go_on(server: Server, grown: Grown) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=SECONDS) as client:
        run = (await client.get(f"/api/v1/runs/{grown.run_id}")).json()
        assert len(run["events"]) == 1_000
        assert run["events_trimmed"] is False
        url = f"/api/v1/runs/{grown.run_id}/events"
        page = (await client.get(url, params={"after": run["events_next"], "limit": 1})).json()
        assert page["data"][0]["event"]["iteration"] == run["events"][-1]["iteration"] + 1
        await finish(client, grown.run_id, grown.token)
