"""The browser client, shared/web/stream.js, in Chromium against the real server."""

import asyncio
import os
import re
import signal
import subprocess
import sys

import httpx
import psutil
import pytest
from playwright.async_api import Page

from tests.e2e.followers import Followers
from tests.support.contract import RUNS, events_of, finish
from tests.support.server import ROOT, Server, append, lease, running, sse
from tests.support.tokens import JWT, client_of, token

pytestmark = pytest.mark.browser

TASKS = "/api/v1/tasks"
FAST = {"retry_milliseconds": 50, "lease_seconds": 600}  # no lease is lost, however long a machine takes
FEEDS_CONSUMED = 2  # by the tasks service, which reads those of the runs and previews as any client does
TRANSPORTS = {"auto": "websocket", "sse": "sse"}

TOKENS = """async () => {
    const { setTokenSource } = await import("/web/shared/stream.js");
    setTokenSource(({ stale }) => give(stale));
}"""


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_nothing_is_lost_or_doubled_when_the_server_is_killed(
    database_url: str, page: Page, transport: str
) -> None:
    async with running(database_url, **FAST) as server, httpx.AsyncClient(base_url=server.url) as client:
        run_id, token = await lease(client)
        followers = await Followers(page).open(server.url)
        run = await followers.follow(f"{RUNS}/{run_id}/stream", transport=transport)
        status = await run.until_phase("live")
        assert status["transport"] == TRANSPORTS[transport]
        for _ in range(3):
            (await append(client, run_id, token, 10)).raise_for_status()
            seen = len(run.statuses)
            await server.kill()
            await run.until_it_was("reconnecting", since=seen)
            await server.start()
            (await append(client, run_id, token, 10)).raise_for_status()
            await run.until_phase("live")
        await finish(client, run_id, token)
        assert (await run.until_phase("ended"))["outcome"] == "completed"
        assert run.ids == [frame.id for frame in await events_of(client, run_id)]
        assert len(run.ids) == 63


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_server_that_is_drained_says_so_and_its_successor_goes_on(
    database_url: str, page: Page, transport: str
) -> None:
    async with running(database_url, **FAST) as server, httpx.AsyncClient(base_url=server.url) as client:
        run_id, token = await lease(client)
        run = await (await Followers(page).open(server.url)).follow(f"{RUNS}/{run_id}/stream", transport=transport)
        await run.until_phase("live")
        assert await server.end(signal.SIGTERM) == 0, "".join(server.output[6:])
        await run.until_it_was("reconnecting")
        assert "the server ended the connection: server shutdown" in [status["why"] for status in run.statuses]
        await server.start()
        await append(client, run_id, token, 2)
        await finish(client, run_id, token)
        await run.until_phase("ended")
        assert run.ids == [frame.id for frame in await events_of(client, run_id)]


async def test_a_server_that_falls_silent_is_noticed(database_url: str, page: Page) -> None:
    async with running(database_url, heartbeat_seconds=0.3, **FAST) as server:
        followers = await Followers(page).open(server.url)
        feeds = [await followers.follow(f"{RUNS}/stream", transport=transport) for transport in TRANSPORTS]
        for feed in feeds:
            await feed.until_phase("live")
        server.freeze()
        for feed in feeds:
            await feed.until_it_was("reconnecting")
            assert "nothing was heard for too long" in [status["why"] for status in feed.statuses]
        server.thaw()
        for feed in feeds:
            await feed.until_phase("live")


# ── many subjects on one connection ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("websockets", [True, False])
async def test_eighteen_runs_share_one_connection(database_url: str, page: Page, websockets: bool) -> None:
    async with (
        running(database_url, websockets=websockets, **FAST) as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        leased = [await lease(client, runner=f"r{number}") for number in range(18)]
        followers = await Followers(page).open(server.url)
        runs = [await followers.follow(f"{RUNS}/{run_id}/stream") for run_id, _ in leased]
        for run in runs:
            await run.until_phase("live")
        transport, readers = ("websocket", 18) if websockets else ("sse", 1)
        await until_readers(client, {transport: readers})
        for number, (run_id, token) in enumerate(leased):
            await append(client, run_id, token, number)
        for run_id, token in leased:
            await finish(client, run_id, token)
        for run, (run_id, _) in zip(runs, leased, strict=True):
            await run.until_phase("ended")
            assert run.ids == [frame.id for frame in await events_of(client, run_id)]
        await until_readers(client, {})


async def test_streams_of_one_service_share_one_websocket(database_url: str, page: Page) -> None:
    async with running(database_url, **FAST) as server, httpx.AsyncClient(base_url=server.url) as client:
        run_id, _ = await lease(client)
        followers = await Followers(page).open(server.url)
        sockets: list[str] = []
        page.on("websocket", lambda socket: sockets.append(socket.url))
        paths = [f"{RUNS}/stream", f"{RUNS}/{run_id}/stream", "/api/v1/sessions/colony-7/stream", f"{TASKS}/stream"]
        followed = [await followers.follow(path) for path in paths]
        for follower in followed:
            await follower.until_phase("live")
        assert sorted(sockets) == [f"{server.url.replace('http', 'ws')}/api/v1/{name}/ws" for name in ("runs", "tasks")]
        for follower in followed:
            await follower.call("stop")
        await until_readers(client, {})


# ── what does not get through ──────────────────────────────────────────────────────────────────────────────────


async def test_where_streams_are_refused_it_polls_and_streams_again_when_there_is_room(
    database_url: str, page: Page
) -> None:
    settings = {"websockets": False, "streams_per_tenant": 1, **FAST}
    async with running(database_url, **settings) as server, httpx.AsyncClient(base_url=server.url) as client:
        run_id, token = await lease(client)
        async with sse(client, f"{RUNS}/stream"):  # takes the only place
            followers = await Followers(page).open(server.url)
            run = await followers.follow(f"{RUNS}/{run_id}/stream")
            status = await run.until_phase("polling")
            assert (status["transport"], "1 streams open already" in status["why"]) == ("polling", True)
            await append(client, run_id, token, 3)
            await run.until(lambda run: len(run.frames) == 5)
        await run.call("retryNow")  # the server has asked for five seconds
        status = await run.until_phase("live")
        assert status["transport"] == "sse"
        await append(client, run_id, token, 3)
        await finish(client, run_id, token)
        await run.until_phase("ended")
        assert run.ids == [frame.id for frame in await events_of(client, run_id)]


async def test_what_is_not_there_is_refused_with_the_reason_on_every_transport(database_url: str, page: Page) -> None:
    async with running(database_url) as server:
        followers = await Followers(page).open(server.url)
        for transport in TRANSPORTS:
            run = await followers.follow(f"{RUNS}/run_nonsense/stream", transport=transport)
            status = await run.until_phase("refused")
            assert status["problem"]["status"] == 404
            assert status["why"] == "There is no such run."


# ── asleep ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_tab_that_was_asleep_catches_up_at_once(database_url: str, page: Page, transport: str) -> None:
    async with running(database_url, **FAST) as server, httpx.AsyncClient(base_url=server.url) as client:
        run_id, token = await lease(client)
        run = await (await Followers(page).open(server.url)).follow(f"{RUNS}/{run_id}/stream", transport=transport)
        await run.until_phase("live")
        devtools = await page.context.new_cdp_session(page)
        await devtools.send("Page.setWebLifecycleState", {"state": "frozen"})
        await append(client, run_id, token, 20)
        await server.kill()
        await server.start()
        await append(client, run_id, token, 20)
        await devtools.send("Page.setWebLifecycleState", {"state": "active"})
        await run.until(lambda run: len(run.frames) == 42)
        await run.until_phase("live")
        assert run.ids == [frame.id for frame in await events_of(client, run_id)]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_back_online_it_connects_without_waiting(database_url: str, page: Page, transport: str) -> None:
    async with running(database_url, **FAST) as server, httpx.AsyncClient(base_url=server.url) as client:
        run_id, token = await lease(client)
        run = await (await Followers(page).open(server.url)).follow(f"{RUNS}/{run_id}/stream", transport=transport)
        await run.until_phase("live")
        await page.context.set_offline(True)
        await server.kill()
        await run.until_it_was("reconnecting")
        await server.start()
        await append(client, run_id, token, 5)
        seen = len(run.statuses)
        await page.context.set_offline(False)
        await run.until_phase("live")
        assert "reconnecting" not in run.phases[seen + 1 :]  # the first attempt, at once
        assert run.ids == [frame.id for frame in await events_of(client, run_id)]


# ── resources ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_board_is_what_the_server_has_whatever_happens_to_both(database_url: str, page: Page) -> None:
    async with running(database_url, **FAST) as server, httpx.AsyncClient(base_url=server.url) as client:
        await make_tasks(client, 3)
        followers = await Followers(page).open(server.url)
        board = await followers.resource(f"{TASKS}?limit=500", f"{TASKS}/stream")
        await board.until_phase("live")
        for _ in range(2):
            ids = await make_tasks(client, 3)
            await client.patch(f"{TASKS}/{ids[0]}", json={"status": "running"})
            await server.kill()
            await server.start()
            await client.patch(f"{TASKS}/{ids[0]}", json={"status": "succeeded"})
            await client.delete(f"{TASKS}/{ids[1]}")
        rows = (await client.get(TASKS, params={"limit": 500})).json()["data"]
        wanted = {row["id"]: {"status": row["status"], "rev": row["rev"]} for row in rows}
        await board.until(lambda board: board.state == wanted)


async def test_a_log_with_a_new_epoch_starts_a_resource_over(database_url: str, page: Page) -> None:
    async with running(database_url, **FAST) as server, httpx.AsyncClient(base_url=server.url) as client:
        (task,) = await make_tasks(client, 1)
        followers = await Followers(page).open(server.url)
        board = await followers.resource(f"{TASKS}?limit=500", f"{TASKS}/stream")
        one = await followers.resource(f"{TASKS}/{task}", f"{TASKS}/{task}/stream")
        for resource in (board, one):
            await resource.until_phase("live")
        await new_epoch(database_url)
        await client.patch(f"{TASKS}/{task}", json={"status": "running"})
        for resource in (board, one):
            await resource.until(lambda resource: "reset" in [kind for kind, _ in resource.told])
            await resource.until(lambda resource: resource.state == {task: {"status": "running", "rev": 2}})
            await resource.until_phase("live")


async def test_lag_is_known_and_small_on_one_machine(database_url: str, page: Page) -> None:
    async with running(database_url) as server, httpx.AsyncClient(base_url=server.url) as client:
        followers = await Followers(page).open(server.url)
        board = await followers.resource(f"{TASKS}?limit=500", f"{TASKS}/stream")
        await board.until_phase("live")
        await make_tasks(client, 1)
        await board.until(lambda board: board.statuses[-1]["lagMilliseconds"] is not None)
        assert 0 <= board.statuses[-1]["lagMilliseconds"] < 60_000


async def test_nothing_is_left_of_what_was_stopped(database_url: str, page: Page) -> None:
    async with running(database_url, **FAST) as server, httpx.AsyncClient(base_url=server.url) as client:
        run_id, _ = await lease(client)
        followers = await Followers(page).open(server.url)
        path = f"{RUNS}/{run_id}"
        kept = [await followers.follow(f"{path}/stream", transport=transport) for transport in TRANSPORTS]
        kept += [await followers.resource(path, f"{path}/stream") for _ in range(3)]
        kept += [await followers.resource(path, None, pollSeconds=0.1)]
        for follower in kept:
            await follower.until(lambda follower: bool({"live", "polling"} & set(follower.phases)))
        assert sockets_of(server) > 0
        for follower in kept:
            await follower.call("stop")
        told = [len(follower.told) for follower in kept]
        await until_readers(client, {})
        await client.delete(path)
        assert [len(follower.told) for follower in kept] == told


# ── tokens ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_token_that_ends_under_a_stream_is_replaced_and_nothing_is_lost(
    database_url: str, page: Page, transport: str
) -> None:
    async with running(database_url, **FAST, **JWT) as server, client_of(server.url, token()) as client:
        run_id, lease_token = await lease(client)
        followers = await Followers(page).open(server.url)
        given: list[str | None] = []

        def give(stale: str | None) -> str:
            given.append(stale)
            return token(seconds=5 if stale is None else 3600)

        await page.expose_function("give", give)
        await page.evaluate(TOKENS)
        run = await followers.follow(f"{RUNS}/{run_id}/stream", transport=transport)
        await run.until_phase("live")
        (await append(client, run_id, lease_token, 5)).raise_for_status()
        await run.until(lambda run: len(given) == 2 and run.phases[-1] == "live")
        (await append(client, run_id, lease_token, 5)).raise_for_status()
        await finish(client, run_id, lease_token)
        await run.until_phase("ended")
        assert run.ids == [frame.id for frame in await events_of(client, run_id)]
        assert len(given) == 2
        assert "signed_out" not in run.phases


async def test_a_newer_token_goes_over_the_open_websocket(database_url: str, page: Page) -> None:
    async with running(database_url, **FAST, **JWT) as server, client_of(server.url, token()) as client:
        followers = await Followers(page).open(server.url)
        await page.expose_function("give", lambda stale: token(seconds=8 if stale is None else 3600))
        await page.evaluate(TOKENS)
        feed = await followers.follow(f"{TASKS}/stream", transport="websocket")
        await feed.until_phase("live")
        opened: list[str] = []
        page.on("websocket", lambda socket: opened.append(socket.url))
        answered = asyncio.Event()

        def look(frame: object) -> None:
            if "authenticated" in str(frame):
                answered.set()

        devtools = await page.context.new_cdp_session(page)
        await devtools.send("Network.enable")
        devtools.on("Network.webSocketFrameReceived", look)
        await page.evaluate("import('/web/shared/stream.js').then(({ credentials }) => credentials.refresh())")
        await asyncio.wait_for(answered.wait(), 60)
        await asyncio.sleep(9)  # the time itself: the first token has ended by now
        await make_tasks(client, 1)
        await feed.until(lambda feed: len(feed.frames) == 1)
        assert feed.phases[-1] == "live"
        assert "reconnecting" not in feed.phases
        assert opened == []


async def test_without_a_token_it_is_signed_out_until_there_is_one(database_url: str, page: Page) -> None:
    async with running(database_url, **FAST, **JWT) as server, client_of(server.url, token()) as client:
        followers = await Followers(page).open(server.url)
        feeds = [await followers.follow(f"{RUNS}/stream", transport=transport) for transport in TRANSPORTS]
        board = await followers.resource(TASKS, f"{TASKS}/stream")
        for follower in (*feeds, board):
            await follower.until_phase("signed_out")
        await page.evaluate("(token) => import('/web/shared/stream.js').then(({ signIn }) => signIn(token))", token())
        for follower in (*feeds, board):
            await follower.until_phase("live")
        await lease(client)
        for feed in feeds:
            await feed.until(lambda feed: len(feed.frames) == 2)


# ── what these tests do ────────────────────────────────────────────────────────────────────────────────────────


async def make_tasks(client: httpx.AsyncClient, count: int) -> list[str]:
    answers = [await client.post(TASKS, json={"title": f"task {number}"}) for number in range(count)]
    return [answer.raise_for_status().json()["id"] for answer in answers]


async def new_epoch(database_url: str) -> None:
    environment = {**os.environ, "TAILRACE_DATABASE_URL": database_url}
    command = [sys.executable, "-m", "services.cli", "epoch", "new"]
    await asyncio.to_thread(subprocess.run, command, env=environment, cwd=ROOT, check=True, capture_output=True)


async def until_readers(client: httpx.AsyncClient, wanted: dict[str, int]) -> None:
    """Until the server has so many readers of each transport, and of no other."""
    for _ in range(600):
        found = await readers(client)
        if found == wanted:
            return
        await asyncio.sleep(0.05)  # the server tells nobody of it
    raise AssertionError(f"there are {found}")


async def readers(client: httpx.AsyncClient) -> dict[str, int]:
    text = (await client.get("/metrics")).text
    found = re.findall(r'^tailrace_readers\{transport="(\w+)"\} (\d+)', text, re.MULTILINE)
    counts = {transport: int(count) for transport, count in found}
    counts["sse"] = counts.get("sse", 0) - FEEDS_CONSUMED
    return {transport: count for transport, count in counts.items() if count}


def sockets_of(server: Server) -> int:
    """Connections that somebody has to it."""
    connections = psutil.Process(server.pid).net_connections("tcp")
    return sum(c.status == psutil.CONN_ESTABLISHED and c.laddr.port == server.port for c in connections)
