"""The feed: a list and the stream that follows from it are together everything, once."""

import asyncio
import random
from collections import Counter
from typing import Any

import httpx
import msgspec
import pytest

from tests.support.postgres import fresh_database
from tests.support.runs import (
    SECONDS,
    client_fixture,
    create,
    events_of,
    finish,
    is_event,
    names,
    polled,
    server_fixture,
    socket_stream,
    sse,
    work,
)
from tests.support.server import Server, lease, running

pytestmark = pytest.mark.asyncio(loop_scope="module")
server = server_fixture()
client = client_fixture()

ROUNDS = 12
LIVES = [("queued", "running", "completed"), ("queued", "running", "failed"), ("queued", "cancelled")]


async def live(client: httpx.AsyncClient, dice: random.Random, number: int, runner: str) -> str:
    """One run from its beginning to its end; its id."""
    if dice.random() < 0.3:
        run = await create(client, task=f"run {number}", params={"step_seconds": 0, "words": 1})
        return str(run["id"])
    run = await create(client, task=f"run {number}", mode="queued", runner=runner)
    run_id = str(run["id"])
    if dice.random() < 0.3:
        await client.post(f"/api/v1/runs/{run_id}/cancel")
        return run_id
    leased = await client.post("/api/v1/runs/lease", json={"runners": [runner], "worker": "w"})
    token = leased.json()["lease"]["token"]
    await work(client, run_id, token, [{"type": "node_update", "node": "n"}] * dice.randint(1, 3))
    await finish(client, run_id, token, status=dice.choice(["completed", "failed"]))
    return run_id


async def whole_list(client: httpx.AsyncClient) -> tuple[dict[str, Any], str]:
    """All runs, page by page, each by its id; and the first page's `as_of`."""
    runs: dict[str, Any] = {}
    params: dict[str, Any] = {"limit": 7}
    as_of = ""
    while True:
        page = (await client.get("/api/v1/runs", params=params)).json()
        as_of = as_of or page["as_of"]
        for run in page["data"]:
            assert run["id"] not in runs
            runs[run["id"]] = run
        if page["next_cursor"] is None:
            return runs, as_of
        params["cursor"] = page["next_cursor"]


def seq(position: str) -> int:
    return int(position.partition("-")[2])


def check(
    runs: dict[str, Any], as_of: str, told: list[tuple[str, Any]], truth: dict[str, list[tuple[int, str]]]
) -> None:
    """Each run's statuses after the list, as the stream told them, are those that were stored after it."""
    heard: dict[str, list[tuple[int, str]]] = {}
    ids = [seq(position) for position, _ in told]
    assert ids == sorted(set(ids)), "a repetition, or out of order"
    assert not ids or ids[0] > seq(as_of)
    for position, event in told:
        heard.setdefault(event["run_id"], []).append((seq(position), event["status"]))
    last = ids[-1] if ids else seq(as_of)
    for run_id, statuses in truth.items():
        after = [(place, status) for place, status in statuses if seq(as_of) < place <= last]
        assert heard.get(run_id, []) == after, run_id
        before = [status for place, status in statuses if place <= seq(as_of)]
        if before:
            assert run_id in runs
            if seq(runs[run_id]["last_position"]) <= seq(as_of):  # later pages may show more than the first one's as_of
                assert runs[run_id]["status"] == before[-1]


async def follow(server: Server, client: httpx.AsyncClient, as_of: str, events: int, *, socket: bool) -> list[Any]:
    """Statuses that the feed tells after the list: so many, with their positions."""
    path = f"/api/v1/runs/stream?after={as_of}&types=status"
    told: list[Any] = []
    if socket:
        async with socket_stream(server, path) as frames:
            while len(told) < events:
                seen = await frames.until(lambda event: event["type"] == "status")
                told += [(frame["id"], frame["event"]) for frame in seen if frame["event"]["type"] == "status"]
        return told
    async with sse(client, path) as stream:
        while len(told) < events:
            seen_messages = await stream.until(is_event("status"))
            told += [(m.id, msgspec.json.decode(m.data)) for m in seen_messages if m.event == "status"]
    return told


async def test_a_list_and_its_stream_are_everything_once_while_runs_come_and_go(
    server: Server, client: httpx.AsyncClient
) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    stop = asyncio.Event()
    made: list[str] = []

    async def load(number: int) -> None:
        dice = random.Random(seed + number)
        async with httpx.AsyncClient(base_url=server.url, timeout=SECONDS) as own:
            while not stop.is_set():
                made.append(await live(own, dice, len(made), f"load-{number}"))

    loads = [asyncio.create_task(load(number)) for number in range(4)]
    results = []
    try:
        async with asyncio.timeout(SECONDS):
            for number in range(ROUNDS):
                runs, as_of = await whole_list(client)
                told = await follow(server, client, as_of, 40, socket=number % 3 == 2)
                results.append((runs, as_of, told))
    finally:
        stop.set()
        await asyncio.gather(*loads)
    truth: dict[str, list[tuple[int, str]]] = {}
    async with sse(client, "/api/v1/runs/stream?after=start&types=status&lossless=1") as stream:
        for message in await stream.until(is_event("live")):
            if message.event == "status":
                event = msgspec.json.decode(message.data)
                truth.setdefault(event["run_id"], []).append((seq(message.id), event["status"]))
    assert set(made) <= set(truth)
    print(len(made), "runs,", sum(map(len, truth.values())), "statuses")
    for runs, as_of, told in results:
        check(runs, as_of, told, truth)


async def test_rows_and_as_of_come_from_one_snapshot(server: Server, client: httpx.AsyncClient) -> None:
    """No row of a page knows more than its `as_of`, and none less: the newest event of each run up to it is its own."""
    seed = random.randrange(2**32)
    print("seed", seed)
    stop = asyncio.Event()

    async def load(number: int) -> None:
        dice = random.Random(seed + number)
        async with httpx.AsyncClient(base_url=server.url, timeout=SECONDS) as own:
            while not stop.is_set():
                await live(own, dice, number, f"snap-{number}")

    loads = [asyncio.create_task(load(number)) for number in range(4)]
    try:
        pages = [(await client.get("/api/v1/runs?limit=10")).json() for _ in range(60)]
    finally:
        stop.set()
        await asyncio.gather(*loads)
    newest: dict[str, list[int]] = {}
    async with sse(client, "/api/v1/runs/stream?after=start&lossless=1") as stream:
        for message in await stream.until(is_event("live")):
            if message.event not in ("hello", "live"):
                newest.setdefault(msgspec.json.decode(message.data)["run_id"], []).append(seq(message.id))
    for page in pages:
        as_of = seq(page["as_of"])
        for run in page["data"]:
            assert seq(run["last_position"]) == max(place for place in newest[run["id"]] if place <= as_of)


async def test_the_feed_begins_now_and_polls_from_as_of(client: httpx.AsyncClient) -> None:
    as_of = (await client.get("/api/v1/runs?limit=1")).json()["as_of"]
    async with sse(client, "/api/v1/runs/stream") as stream:
        assert [m.event for m in await stream.until(is_event("live"))] == ["hello", "live"]
        run_id, token = await lease(client, runner="feed")
        await finish(client, run_id, token)
        seen = events_of(await stream.until(is_event("status", status="completed", run_id=run_id)))
    assert [event["status"] for event in seen] == ["queued", "running", "completed"]
    assert await polled(client, "/api/v1/runs/events", after=as_of) == seen
    assert await polled(client, "/api/v1/runs/events") == []


async def test_several_runs_go_on_one_connection_with_one_position(client: httpx.AsyncClient) -> None:
    leases = [await lease(client, runner="several") for _ in range(18)]
    query = "&".join(f"run={run_id}" for run_id, _ in leases[:17])
    async with sse(client, f"/api/v1/runs/stream?after=start&{query}") as stream:
        before = events_of(await stream.until(is_event("live")))
        assert Counter(event["run_id"] for event in before) == {run_id: 2 for run_id, _ in leases[:17]}
        for run_id, token in reversed(leases):
            await finish(client, run_id, token)
        first = leases[0][0]
        messages = await stream.until(is_event("status", status="completed", run_id=first))
    after = events_of(messages)
    assert [event["run_id"] for event in after] == [run_id for run_id, _ in reversed(leases[:17])]
    assert "stream_end" not in [m.event for m in messages]
    async with sse(client, f"/api/v1/runs/stream?after={messages[3].id}&{query}") as stream:
        rest = events_of(await stream.until(is_event("live")))
    assert rest == after[4:]


async def test_the_feed_of_two_processes_is_one(postgres_url: str) -> None:
    async with (
        fresh_database(postgres_url) as url,
        running(url) as one,
        running(url) as two,
        httpx.AsyncClient(base_url=one.url, timeout=SECONDS) as here,
        httpx.AsyncClient(base_url=two.url, timeout=SECONDS) as there,
    ):
        as_of = (await here.get("/api/v1/runs")).json()["as_of"]
        async with sse(here, "/api/v1/runs/stream") as left, sse(there, f"/api/v1/runs/stream?after={as_of}") as right:
            await left.until(is_event("live"))
            seed = random.randrange(2**32)
            print("seed", seed)
            dice = random.Random(seed)
            await asyncio.gather(*(live(c, dice, n, f"r{n}") for n in range(10) for c in (here, there)))
            last = await create(there, runner="last", mode="queued")
            wanted = is_event("status", status="queued", run_id=last["id"])
            seen, other = await left.until(wanted), await right.until(wanted)
    ours = [(m.id, m.data) for m in seen if m.event not in ("hello", "live", "bookmark")]
    theirs = [(m.id, m.data) for m in other if m.event not in ("hello", "live", "bookmark")]
    assert ours == theirs
    assert len(ours) > 40
    assert names([msgspec.json.decode(data) for _, data in ours]).count("status") > 40
