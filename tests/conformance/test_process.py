"""What a process does to its readers: it drains, bounds how long they stay, and how many there are."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conformance.asking import SECONDS, Asking, all_live, asking, together, wrong_with
from tests.conformance.nginx import through_nginx
from tests.conformance.reading import Reading
from tests.conformance.stage import Stage
from tests.conformance.table import Ask, Comes
from tests.conformance.ways import Way
from tests.support.contract import sql
from tests.support.server import Server, running

pytestmark = [pytest.mark.asyncio(loop_scope="package"), pytest.mark.nginx]

Routes = list[tuple[str, str]]


@asynccontextmanager
async def staged(
    database_url: str, nginx_path: Path, **settings: Any
) -> AsyncIterator[tuple[Server, Stage, Routes, httpx.AsyncClient]]:
    """A server of a test's own, directly and through nginx."""
    async with (
        asyncio.timeout(SECONDS),
        running(database_url, service="runs", heartbeat_seconds=0.1, lease_seconds=300, **settings) as server,
        through_nginx(nginx_path, server.port) as proxied,
        sql(database_url) as database,
        httpx.AsyncClient(base_url=server.url, timeout=SECONDS) as client,
    ):
        stage = Stage(client, database, services=("runs",))
        yield server, stage, [("directly", server.url), ("through nginx", proxied)], client


async def test_a_drain_tells_every_stream_and_all_go_on_at_the_next_process(
    database_url: str, nginx_path: Path, ways: list[Way]
) -> None:
    async with staged(database_url, nginx_path) as (server, stage, routes, _):
        await stage.play(("run a", "a updates 2"))
        clients, streams = ([way for way in ways if way.kind == kind] for kind in ("client", "stream"))
        async with asking(Ask(of="run a"), stage, clients, routes) as resuming:
            async with asking(Ask(of="run a"), stage, streams, routes) as drained:
                await all_live([*resuming, *drained])
                assert await server.end() == 0
                await together(each.reading.until(partial(has_ended, each.reading)) for each in drained)
            assert wrong_with(stage, Comes(history="a1 a2 a3 a4", end="server_shutdown"), drained) == []
            await server.start()
            last = {str(each.reading.last_id) for each in drained}
            assert len(last) == 1  # all had seen the same
            async with asking(Ask(of="run a", after=last.pop()), stage, [*streams, *polls(ways)], routes) as back:
                await all_live(back)
                await stage.play(("a updates 2", "a completed"))
                await together(each.reading.until(partial(has_seen, each, 3)) for each in back)
                await together(each.reading.until(each.is_done) for each in [*resuming, *streaming(back)])
        rest = "a5 a6 a7"
        assert wrong_with(stage, Comes(live=rest, end="terminal completed", resumed=True), back) == []
        for each in resuming:
            assert stage.labels("runs", each.reading.events) == f"a1 a2 a3 a4 {rest}", each.name
            assert each.reading.ended == "terminal completed", each.name


def has_ended(reading: Reading) -> bool:
    """A multiplexed connection that drains closes after its streams have ended."""
    return bool(reading.words("stream_end")) and reading.task is not None and reading.task.done()


def has_seen(each: Asking, count: int) -> bool:
    return len(each.reading.events) == count


def polls(ways: Sequence[Way]) -> list[Way]:
    return [way for way in ways if way.kind == "poll"]


def streaming(at_work: Sequence[Asking]) -> list[Asking]:
    return [each for each in at_work if each.way.kind == "stream"]


async def test_a_stream_that_lasts_too_long_is_told_to_come_back(
    database_url: str, nginx_path: Path, ways: list[Way]
) -> None:
    async with staged(database_url, nginx_path, stream_max_seconds=5) as (_, stage, routes, _):
        await stage.play(("run a",))
        streams = [way for way in ways if way.kind == "stream"]
        async with asking(Ask(of="run a"), stage, streams, routes) as at_work:
            await together(each.reading.until(partial(has_ended, each.reading)) for each in at_work)
            assert wrong_with(stage, Comes(history="a1 a2", end="max_duration"), at_work) == []


@pytest.mark.parametrize(("bound", "status"), [("streams_per_process", 503), ("streams_per_tenant", 429)])
async def test_where_no_stream_more_is_allowed_it_is_refused_and_polling_still_works(
    database_url: str, nginx_path: Path, ways: list[Way], bound: str, status: int
) -> None:
    async with staged(database_url, nginx_path, **{bound: 1}) as (_, stage, routes, client):
        await stage.play(("run a", "run b"))
        streams = [way for way in ways if way.kind == "stream"]
        async with asking(Ask(of="run b"), stage, streams[:1], routes[:1]) as first:
            await all_live(first)
            async with asking(Ask(of="run a"), stage, streams, routes) as at_work:
                await together(each.reading.until(each.is_done) for each in at_work)
                assert wrong_with(stage, Comes(refused=(status, "")), at_work) == []
            async with asking(Ask(of="run a"), stage, polls(ways), routes) as polling:
                await all_live(polling)
                assert wrong_with(stage, Comes(history="a1 a2"), polling) == []
            refused = await client.get(f"/api/v1/runs/{stage.ids['a']}/stream")
            assert int(refused.headers["retry-after"]) > 0
        for each in streams:  # the place is free again as soon as its reader has gone, one after the other
            while True:
                async with asking(Ask(of="run a"), stage, [each], routes[:1]) as alone:
                    await all_live(alone)
                    if each.name == "multiplexed" or alone[0].reading.refused is None:
                        break
