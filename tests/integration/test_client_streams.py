"""Following with the Python client, over both transports: against a real server, over cuts, restarts and lags."""

import asyncio
import contextlib
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from services.runs.events import SCHEMA, NodeUpdate, Status
from shared.client import Client, Forbidden, Gone, Missing, Refused
from shared.client.follow import Item
from shared.protocol.control import Gap, Reset, StreamEnd
from shared.protocol.schema import UnknownEvent
from tests.integration.client_support import (
    TRANSPORTS,
    Taking,
    Transport,
    Watch,
    fields_of,
    rest_of,
    until_live,
)
from tests.integration.test_slow_readers import ends_of, events_of_all, publish, say_error
from tests.support.contract import (
    ANSWER_SECONDS,
    NO_SUCH_RUN,
    RUNS,
    Served,
    ended_run,
    events_of,
    finish,
    head_of,
    served,
)
from tests.support.cutting_proxy import cutting_proxy, up_to
from tests.support.server import ROOT, Server, append, lease, running

SETTINGS = {"heartbeat_seconds": 0.3, "retry_milliseconds": 10, "lag_budget_bytes": 100_000}


@pytest_asyncio.fixture(params=TRANSPORTS)
async def follower(request: pytest.FixtureRequest, tailrace: Served) -> AsyncIterator[Client]:
    """A client of the module's server, once for each transport."""
    async with Client(tailrace.url, transport=request.param) as client:
        yield client


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> Transport:
    chosen: Transport = request.param
    return chosen


# ── what it yields ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_stream_is_typed_and_ends_with_its_run(client: httpx.AsyncClient, follower: Client) -> None:
    run_id = await ended_run(client)
    stored = await events_of(client, run_id)
    async with follower.follow(f"{RUNS}/{run_id}/stream", schema=SCHEMA) as stream:
        seen = await rest_of(stream)
    assert [position for position, _ in seen] == [frame.id for frame in stored]
    assert [type(event) for _, event in seen] == [Status, Status, *[NodeUpdate] * 3, Status]
    last = seen[-1][1]
    assert isinstance(last, Status)
    assert last.status == "completed"
    assert isinstance(stream.end, StreamEnd)
    assert (stream.end.reason, stream.end.final, stream.end.status) == ("terminal", True, "completed")
    assert stream.state == "ended"


async def test_without_a_schema_events_are_kept_as_they_came(client: httpx.AsyncClient, follower: Client) -> None:
    run_id = await ended_run(client)
    stored = await events_of(client, run_id)
    async with follower.follow(f"{RUNS}/{run_id}/stream") as stream:
        assert [fields_of(item) for _, item in await rest_of(stream)] == [frame.event for frame in stored]


async def test_types_lists_and_flags_become_parameters(client: httpx.AsyncClient, follower: Client) -> None:
    runs = [await lease(client) for _ in range(3)]
    wanted = [run_id for run_id, _ in runs[:2]]
    async with follower.follow(
        f"{RUNS}/stream", schema=SCHEMA, after="start", types=("status", "err*"), params={"run": wanted}, lossless=True
    ) as stream:
        for run_id, token in runs:
            await append(client, run_id, token)
            await finish(client, run_id, token)
        seen: list[Item] = []
        async for event in stream:
            seen.append(event)
            if sum(isinstance(event, Status) and event.status == "completed" for event in seen) == 2:
                break
    assert {type(event) for event in seen} == {Status}
    assert {event.run_id for event in seen if isinstance(event, Status)} == set(wanted)


async def test_live_tells_history_from_what_happens_now(client: httpx.AsyncClient, follower: Client) -> None:
    run_id, token = await lease(client)
    watch = Watch()
    async with follower.follow(f"{RUNS}/{run_id}/stream", schema=SCHEMA, on_state=watch) as stream:
        assert (stream.state, stream.live) == ("connecting", False)
        assert [(await anext(stream), stream.live)[1] for _ in range(2)] == [False, False]
        following = asyncio.ensure_future(anext(stream))
        await watch.until("live")
        await finish(client, run_id, token)
        assert isinstance(await following, Status)
        assert stream.live
        assert await rest_of(stream) == []
    assert watch.states == ["catching_up", "live", "ended"]


@pytest.mark.parametrize("after", ["now", "position"])
async def test_following_starts_where_it_is_told_to(client: httpx.AsyncClient, follower: Client, after: str) -> None:
    run_id, token = await lease(client)
    await append(client, run_id, token, 3)
    if after == "position":
        after = "-".join(map(str, await head_of(client)))
    async with follower.follow(f"{RUNS}/{run_id}/stream", schema=SCHEMA, after=after) as stream:
        await until_live(stream)
        await append(client, run_id, token, 2)
        await finish(client, run_id, token)
        assert [type(item) for _, item in await rest_of(stream)] == [NodeUpdate, NodeUpdate, Status]


async def test_ready_gives_what_has_come_already(client: httpx.AsyncClient, follower: Client) -> None:
    run_id, token = await lease(client)
    (await append(client, run_id, token, 50)).raise_for_status()
    batches: list[list[tuple[str, Item]]] = []
    async with follower.follow(f"{RUNS}/{run_id}/stream", schema=SCHEMA) as stream:
        await finish(client, run_id, token)
        while await stream.wait():
            batches.append([(stream.position, item) for item in stream.ready()])
    assert [position for batch in batches for position, _ in batch] == [f.id for f in await events_of(client, run_id)]
    assert len(batches) < 20


# ── how it ends, and is refused ────────────────────────────────────────────────────────────────────────────────


async def test_who_comes_back_after_the_end_is_told_so(client: httpx.AsyncClient, follower: Client) -> None:
    run_id = await ended_run(client)
    last = (await events_of(client, run_id))[-1].id
    async with follower.follow(f"{RUNS}/{run_id}/stream", after=last) as stream:
        assert await rest_of(stream) == []
        assert await stream.wait() is False
    assert stream.end is not None
    assert (stream.end.reason, stream.end.final, stream.position) == ("terminal", True, last)


async def test_a_run_that_is_deleted_meanwhile_ends_its_stream(client: httpx.AsyncClient, follower: Client) -> None:
    run_id, token = await lease(client)
    async with follower.follow(f"{RUNS}/{run_id}/stream", types=("error",), after="now") as stream:
        ending = asyncio.create_task(rest_of(stream))
        await finish(client, run_id, token)
        (await client.delete(f"{RUNS}/{run_id}")).raise_for_status()
        assert await ending == []
    assert stream.end is not None
    assert stream.end.final
    with pytest.raises(Missing):
        await anext(follower.follow(f"{RUNS}/{run_id}/stream"))


@pytest.mark.parametrize(
    ("path", "options", "kind", "words"),
    [
        (f"/{NO_SUCH_RUN}/stream", {}, Missing, "no such run"),
        ("/stream", {"types": ["bogus"]}, Refused, "node_update"),
        ("/stream", {"after": "nonsense"}, Refused, "not a position"),
        ("/stream", {"params": {"typo": 1}}, Refused, "allowed: run, after"),
    ],
)
async def test_a_refusal_is_raised_at_once_with_its_problem(
    follower: Client, path: str, options: dict[str, Any], kind: type[Refused], words: str
) -> None:
    stream = follower.follow(RUNS + path, **options)
    with pytest.raises(kind) as refused:
        await anext(stream)
    assert refused.value.status == refused.value.problem["status"] == (404 if kind is Missing else 400)
    assert words in str(refused.value)
    assert str(refused.value.problem["request_id"]) in str(refused.value)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert stream.state == "ended"


async def test_where_websockets_are_off_the_refusal_says_what_to_use(database_url: str) -> None:
    async with running(database_url, websockets="false") as server, Client(server.url) as client:
        with pytest.raises(Forbidden, match="served as SSE"):
            await anext(client.follow(f"{RUNS}/stream", transport="websocket"))


# ── resets ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_position_that_cannot_be_continued_is_a_reset_and_then_what_is_kept(
    client: httpx.AsyncClient, follower: Client
) -> None:
    run_id = await ended_run(client)
    epoch, head = await head_of(client)
    async with follower.follow(f"{RUNS}/{run_id}/stream", after=f"{epoch}-{head + 1000}") as stream:
        (_, reset), *events = await rest_of(stream)
    assert isinstance(reset, Reset)
    assert (reset.reason, reset.requested) == ("unknown_position", f"{epoch}-{head + 1000}")
    assert [position for position, _ in events] == [frame.id for frame in await events_of(client, run_id)]


async def test_where_a_reset_is_asked_for_as_an_error_it_is_raised(follower: Client) -> None:
    with pytest.raises(Gone) as gone:
        await anext(follower.follow(f"{RUNS}/stream", after="zzzzzz-1", on_reset="error"))
    assert gone.value.status == 410
    assert gone.value.problem["reason"] == "epoch_changed"


@pytest.mark.parametrize("on_reset", ["reset", "error"])
async def test_a_new_epoch_resets_those_who_are_following(
    database_url: str, transport: Transport, on_reset: Any
) -> None:
    async with (
        asyncio.timeout(ANSWER_SECONDS * 2),
        running(database_url) as server,
        httpx.AsyncClient(base_url=server.url) as http,
        Client(server.url, transport=transport) as client,
    ):
        run_id, token = await lease(http)
        async with client.follow(f"{RUNS}/{run_id}/stream", after="now", on_reset=on_reset) as stream:
            await until_live(stream)
            following = asyncio.ensure_future(anext(stream))
            await new_epoch(server, database_url)
            await append(http, run_id, token)  # so that somebody looks at the database
            if on_reset == "error":
                with pytest.raises(Gone, match="epoch_changed"):
                    await following
                return
            reset = await following
            assert isinstance(reset, Reset)
            assert reset.reason == "epoch_changed"
            assert fields_of(await anext(stream))["status"] == "queued"  # from the oldest on


async def new_epoch(server: Server, database_url: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.cli", "epoch", "new", cwd=ROOT, env=server.environment
    )
    assert await process.wait() == 0


# ── resuming ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("quick_backoff")
@pytest.mark.parametrize("seed", range(4))
async def test_nothing_is_lost_or_repeated_over_cuts_at_any_byte(
    client: httpx.AsyncClient, tailrace: Served, transport: Transport, seed: int
) -> None:
    dice = random.Random(f"cuts {seed}")
    run_id, token = await lease(client)
    async with (
        asyncio.timeout(ANSWER_SECONDS),
        cutting_proxy(tailrace.url) as proxy,
        Client(proxy.url, transport=transport) as following,
        following.follow(f"{RUNS}/{run_id}/stream", lossless=True) as stream,
    ):
        # A message of a WebSocket comes whole or not at all: more must pass than the largest.
        proxy.answers = up_to(dice, 8_000 if transport == "sse" else 60_000)
        taking = Taking(stream)
        for _ in range(30):
            if dice.random() < 0.2:
                proxy.refuse = dice.randint(1, 3)
                proxy.cut_all()
            answer = (await append(client, run_id, token, dice.randint(1, 30))).raise_for_status().json()
            if dice.random() < 0.5:  # it has caught up, and is cut in the middle of what comes live
                await taking.until_at(answer["position"])
        await finish(client, run_id, token)
        items = await taking.to_the_end()
    everything = await events_of_all(client, run_id)
    assert [position for position, _ in items] == [frame.id for frame in everything]
    assert [fields_of(item) for _, item in items] == [frame.event for frame in everything]
    assert proxy.cuts > 5


async def test_kill_9_and_a_restart_lose_and_repeat_nothing(database_url: str, transport: Transport) -> None:
    async with (
        asyncio.timeout(ANSWER_SECONDS * 2),
        running(database_url, retry_milliseconds=10) as server,
        Client(server.url, transport=transport) as client,
    ):
        async with httpx.AsyncClient(base_url=server.url) as http:
            run_id, token = await lease(http)
            watch = Watch()
            stream = client.follow(f"{RUNS}/{run_id}/stream", on_state=watch)
            before = [(await anext(stream), stream.position)[1] for _ in range(2)]
            (await append(http, run_id, token, 3)).raise_for_status()
        following = asyncio.create_task(rest_of(stream))
        await server.kill()
        await watch.until("reconnecting")
        await server.start()
        async with httpx.AsyncClient(base_url=server.url) as http:
            (await append(http, run_id, token, 3)).raise_for_status()
            await finish(http, run_id, token)
            seen = before + [position for position, _ in await following]
            assert seen == [frame.id for frame in await events_of(http, run_id)]


async def test_a_server_that_leaves_is_taken_at_its_word(database_url: str, transport: Transport) -> None:
    async with (
        asyncio.timeout(ANSWER_SECONDS * 2),
        running(database_url, retry_milliseconds=400) as server,
        Client(server.url, transport=transport) as client,
    ):
        async with httpx.AsyncClient(base_url=server.url) as http:
            run_id, token = await lease(http)
        watch = Watch()
        stream = client.follow(f"{RUNS}/{run_id}/stream", on_state=watch)
        following = asyncio.create_task(rest_of(stream))
        await watch.until("live")
        leaving = asyncio.create_task(server.end(signal.SIGTERM))
        await watch.until("reconnecting")
        assert stream.trouble == "the server ended the connection: server_shutdown"
        assert await leaving == 0
        await server.start()
        async with httpx.AsyncClient(base_url=server.url) as http:
            await finish(http, run_id, token)
            assert [position for position, _ in await following] == [
                frame.id for frame in await events_of(http, run_id)
            ]


async def test_a_wait_that_is_cancelled_leaves_the_stream_where_it_was(
    client: httpx.AsyncClient, follower: Client
) -> None:
    run_id, token = await lease(client)
    async with follower.follow(f"{RUNS}/{run_id}/stream") as stream:
        seen: list[str] = []
        for _ in range(5):
            (await append(client, run_id, token, 2)).raise_for_status()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    async for _ in stream:
                        seen.append(stream.position)  # noqa: PERF401  what came before the time was up counts
        await finish(client, run_id, token)
        seen.extend(position for position, _ in await rest_of(stream))
    assert seen == [frame.id for frame in await events_of(client, run_id)]


# ── consumers that do not keep up ──────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def impatient(postgres_url: str) -> Iterator[Served]:
    """A server that gives a socket half a second."""
    with served(postgres_url, slow_reader_seconds=0.5, heartbeat_seconds=0.3, retry_milliseconds=10) as server:
        yield server


async def test_a_consumer_that_stops_reading_holds_little_and_loses_nothing(
    impatient: Served, transport: Transport
) -> None:
    async with (
        asyncio.timeout(ANSWER_SECONDS * 2),
        httpx.AsyncClient(base_url=impatient.url, timeout=30) as http,
        cutting_proxy(impatient.url) as proxy,
        Client(proxy.url, transport=transport) as client,
    ):
        run_id, token = await lease(http)
        await publish(http, run_id, token, 20)
        ends = await ends_of(http, "slow_reader")
        stream = client.follow(f"{RUNS}/{run_id}/stream", lossless=True)
        seen = [(await anext(stream), stream.position)[1] for _ in range(3)]
        while await ends_of(http, "slow_reader") == ends:  # the pressure has come through to the server
            assert proxy.passed_down < 12_000_000  # of 20: kernels hold that, not we
        await finish(http, run_id, token)
        seen += [position for position, _ in await rest_of(stream)]
        assert seen == [frame.id for frame in await events_of_all(http, run_id)]


async def test_a_consumer_that_lags_is_told_of_the_gap(client: httpx.AsyncClient, follower: Client) -> None:
    run_id, token = await lease(client)
    async with follower.follow(f"{RUNS}/{run_id}/stream", after="now") as stream:
        await until_live(stream)
        for part in range(5):
            await publish(client, run_id, token, 3)
            await say_error(client, run_id, token, f"part{part}")
        await finish(client, run_id, token)
        items = [item for _, item in await rest_of(stream)]
    gaps = [item for item in items if isinstance(item, Gap)]
    events = Counter(item.type for item in items if isinstance(item, UnknownEvent))
    assert gaps
    assert events["node_update"] + sum(gap.dropped for gap in gaps) == 750
    assert (events["error"], events["status"]) == (5, 1)
    backfilled = await follower.request("GET", gaps[0].backfill)
    assert len(backfilled["data"]) == gaps[0].dropped
