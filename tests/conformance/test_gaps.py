"""What is skipped for a reader that lags, and what is not; and positions that move on over what a filter hides."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.conformance.asking import SECONDS, Asking, all_live, asking, together
from tests.conformance.conftest import Route
from tests.conformance.nginx import through_nginx
from tests.conformance.stage import Stage
from tests.conformance.table import Ask
from tests.conformance.ways import Way
from tests.support.contract import RUNS, Frame, Served, served, sql

pytestmark = [pytest.mark.asyncio(loop_scope="package"), pytest.mark.nginx]

FAT = "x" * 20_000  # of a model's name, which nothing shortens
PARTS, FAT_EVENTS = 6, 100


@pytest.fixture(scope="module")
def strict(postgres_url: str) -> Iterator[Served]:
    """A server that sheds soon."""
    with served(postgres_url, heartbeat_seconds=0.2, lease_seconds=300, lag_budget_bytes=100_000) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def strict_routes(strict: Served, nginx_path: Path) -> AsyncIterator[list[tuple[str, str]]]:
    async with through_nginx(nginx_path, strict.server.port) as proxied:
        yield [("directly", strict.url), ("through nginx", proxied)]


async def overtake(client: httpx.AsyncClient, stage: Stage, at_work: list[Asking]) -> list[Frame]:
    """Publish far more than a socket holds while nobody reads, and let all go on; the log's own frames."""
    await all_live(at_work)
    for each in at_work:
        each.reading.hold()
    for part in range(PARTS):
        fat = [{"type": "node_update", "node": "n", "iteration": n, "model": FAT} for n in range(FAT_EVENTS)]
        for events in (fat[:50], fat[50:], [{"type": "error", "fatal": False, "code": str(part), "message": "m"}]):
            await stage.append("a", events)
    await stage.play(("a completed",))
    for each in at_work:
        each.reading.go_on()
    await together(each.reading.until(each.is_done) for each in at_work)
    return await everything(client, f"{RUNS}/{stage.ids['a']}/events")


async def everything(client: httpx.AsyncClient, url: str) -> list[Frame]:
    frames: list[Frame] = []
    after: str | None = "start"
    while True:
        body = (await client.get(url, params={"after": after, "limit": 1000})).raise_for_status().json()
        frames += [Frame.of_json(frame) for frame in body["data"]]
        if body["next"] == body["head"]:
            return frames
        after = body["next"]


async def test_who_lags_is_told_exactly_what_was_skipped_and_can_fetch_it(
    strict: Served, strict_routes: list[tuple[str, str]], ways: list[Way]
) -> None:
    async with (
        asyncio.timeout(SECONDS),
        sql(strict.database_url) as database,
        httpx.AsyncClient(base_url=strict.url, timeout=SECONDS) as client,
    ):
        stage = Stage(client, database)
        await stage.play(("run a", "a updates 2"))
        streaming = [way for way in ways if way.kind != "poll"]
        async with asking(Ask(of="run a"), stage, streaming, strict_routes) as at_work:
            log = await overtake(client, stage, at_work)
        for each in at_work:
            gaps = [frame for frame in each.reading.frames if frame.type == "gap"]
            # what is on its way through nginx may be more than was published: then nobody lagged
            assert gaps or each.route != "directly", f"{each.name}: nothing was skipped"
            check_account(each.name, each.reading.events, log)
            for gap in gaps[:2]:
                skipped = [frame for frame in log if gap.event["from_seq"] <= frame.seq <= gap.event["to_seq"]]
                answer = (await client.get(gap.event["backfill"])).raise_for_status().json()
                assert [Frame.of_json(frame) for frame in answer["data"]] == skipped, each.name


def check_account(name: str, came: list[Frame], log: list[Frame]) -> None:
    """Each event was sent, or lies in exactly one gap; what is critical was sent."""
    place = 0
    for frame in came:
        if frame.type == "gap":
            inside = [each for each in log[place:] if each.seq <= frame.event["to_seq"]]
            assert inside[0].seq == frame.event["from_seq"], name
            assert (frame.event["dropped"], frame.event["by_type"]) == (len(inside), Counter(e.type for e in inside))
            assert frame.event["by_type"].keys() == {"node_update"}, name
            assert frame.seq == frame.event["to_seq"], name
            place += len(inside)
        else:
            assert frame == log[place], name
            place += 1
    assert place == len(log), name


async def test_with_lossless_nothing_is_skipped(
    strict: Served, strict_routes: list[tuple[str, str]], ways: list[Way]
) -> None:
    async with (
        asyncio.timeout(SECONDS),
        sql(strict.database_url) as database,
        httpx.AsyncClient(base_url=strict.url, timeout=SECONDS) as client,
    ):
        stage = Stage(client, database)
        await stage.play(("run a",))
        streaming = [way for way in ways if way.kind != "poll"]
        async with asking(Ask(of="run a", lossless=True), stage, streaming, strict_routes) as at_work:
            log = await overtake(client, stage, at_work)
        for each in at_work:
            assert each.reading.events == log, each.name


async def test_a_position_moves_on_over_what_the_filter_hides(
    tailrace: Served, routes: list[Route], ways: list[Way]
) -> None:
    async with (
        asyncio.timeout(SECONDS),
        sql(tailrace.database_url) as database,
        httpx.AsyncClient(base_url=tailrace.url, timeout=SECONDS) as client,
    ):
        stage = Stage(client, database)
        await stage.play(("run a",))
        streams = [way for way in ways if way.kind == "stream"]
        ask = Ask(of="run a", types="status")
        async with asking(ask, stage, streams, [(route.name, route.url) for route in routes]) as at_work:
            await all_live(at_work)
            await stage.play(("a updates 3", "elsewhere 2"))
            head: int = await database.fetchval("SELECT head FROM runs.log")
            await together(each.reading.until(_is_at(each, head)) for each in at_work)
            marks = [each.reading.frames[-1] for each in at_work]
            assert {mark.type for mark in marks} == {"bookmark"}
            assert {tuple(mark.event) for mark in marks} == {("type",)}
        # and there is nothing to be sent after it
        ask = Ask(of="run a", types="status", after=str(marks[0].id))
        async with asking(ask, stage, ways, [(route.name, route.url) for route in routes]) as at_work:
            await all_live(at_work)
            assert [each.name for each in at_work if each.reading.events] == []


def _is_at(each: Asking, head: int) -> Any:
    return lambda: each.reading.frames[-1].seq >= head
