"""Streams through a real nginx with the shipped configuration: not held back, not cut off when idle, nothing lost."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from shared.client import Client
from tests.integration.client_support import TRANSPORTS, Taking
from tests.support.contract import (
    ANSWER_SECONDS,
    RUNS,
    Served,
    events_of,
    finish,
    metric,
    read_until,
    read_until_live,
    socket,
)
from tests.support.nginx import Nginx, proxy
from tests.support.readers import eventually
from tests.support.server import append, lease, running, sse
from tests.support.tasks import TASKS

pytestmark = pytest.mark.nginx

SETTINGS = {"retry_milliseconds": 10}
# A fifteenth of what is shipped, in nginx as in the services.
HEARTBEAT_SECONDS = 1.0
TIMEOUTS = {"proxy_read_timeout 75s": "proxy_read_timeout 5s", "send_timeout 75s": "send_timeout 5s"}
IDLE_HEARTBEATS = 7


@pytest_asyncio.fixture
async def nginx(nginx_path: Path, tailrace: Served) -> AsyncIterator[Nginx]:
    async with proxy(nginx_path, tailrace.url) as started:
        yield started


@pytest_asyncio.fixture
async def through(nginx: Nginx) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=nginx.url, timeout=30) as client:
        yield client


# ── nothing is held back ───────────────────────────────────────────────────────────────────────────────────────


async def test_each_event_is_received_before_the_next_is_published(through: httpx.AsyncClient) -> None:
    run_id, token = await lease(through)
    async with sse(through, f"{RUNS}/{run_id}/stream") as stream:
        await read_until_live(stream)
        for number in range(1, 31):
            await append(through, run_id, token)
            (frame,) = await read_until(stream, lambda frame: frame.is_stored)
            assert frame.event["iteration"] == 1, number


async def test_each_message_of_a_websocket_is_received_before_the_next_is_published(
    nginx: Nginx, through: httpx.AsyncClient
) -> None:
    run_id, token = await lease(through)
    async with socket(f"{nginx.url.replace('http', 'ws', 1)}{RUNS}/{run_id}/stream") as stream:
        await stream.until_type("live")
        for _ in range(30):
            await append(through, run_id, token)
            assert [frame.type for frame in await stream.until_type("node_update")] == ["node_update"]


async def test_streams_at_the_urls_of_polls_are_not_held_back_either(through: httpx.AsyncClient) -> None:
    url = "/api/v1/sessions/through-nginx/events"
    async with sse(through, url, headers={"Accept": "text/event-stream"}) as stream:
        await stream.until(lambda message: message.event == "live")
        for number in range(10):
            body = {"events": [{"type": "goal_progress", "stream_id": "s", "number": number}]}
            (await through.post(url, json=body)).raise_for_status()
            async with asyncio.timeout(ANSWER_SECONDS):
                message = (await stream.until(lambda message: message.event == "goal_progress"))[-1]
            assert json.loads(message.data)["number"] == number


async def test_a_task_s_snapshots_are_not_held_back(through: httpx.AsyncClient) -> None:
    task = (await through.post(TASKS, json={"title": "watched"})).json()
    async with sse(through, f"{TASKS}/{task['id']}/stream?interval=0.1") as stream:
        await stream.until(lambda message: message.event == "live")
        for number in range(1, 6):
            (await through.patch(f"{TASKS}/{task['id']}", json={"title": f"title {number}"})).raise_for_status()
            async with asyncio.timeout(ANSWER_SECONDS):
                await stream.until(lambda message, number=number: f"title {number}" in message.data)  # type: ignore[misc]


async def test_the_services_say_themselves_that_streams_are_not_to_be_held_back(
    nginx_path: Path, tailrace: Served
) -> None:
    """For a proxy of somebody else's making: here nginx is told to buffer, and what the service says wins."""
    buffering = {"http.conf": {"proxy_buffering off": "proxy_buffering on"}}
    async with (
        proxy(nginx_path, tailrace.url, changes=buffering) as nginx,
        httpx.AsyncClient(base_url=nginx.url, timeout=30) as client,
    ):
        await test_each_event_is_received_before_the_next_is_published(client)


async def test_a_stream_is_not_compressed(through: httpx.AsyncClient) -> None:
    run_id, token = await lease(through)
    await append(through, run_id, token, 50)
    await finish(through, run_id, token)
    answer = await through.get(f"{RUNS}/{run_id}/stream", headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in answer.headers
    page = await through.get("/", headers={"Accept-Encoding": "gzip"})
    assert page.headers["content-encoding"] == "gzip"
    assert "accept-encoding" in page.headers["vary"].lower()


# ── idle ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_heartbeats_keep_an_idle_stream_open_past_nginx_s_own_timeouts(
    nginx_path: Path, database_url: str
) -> None:
    async with (
        running(database_url, heartbeat_seconds=HEARTBEAT_SECONDS) as server,
        proxy(nginx_path, server.url, changes={"http.conf": TIMEOUTS}) as nginx,
        httpx.AsyncClient(base_url=nginx.url, timeout=30) as client,
    ):
        run_id, token = await lease(client)
        async with (
            client.stream("GET", f"{RUNS}/{run_id}/stream", timeout=30) as response,
            socket(f"{nginx.url.replace('http', 'ws', 1)}{RUNS}/{run_id}/stream") as websocket,
        ):
            await websocket.until_type("live")
            heartbeats, lines = 0, response.aiter_lines()
            while heartbeats < IDLE_HEARTBEATS:
                heartbeats += await anext(lines) == ":"
            for _ in range(IDLE_HEARTBEATS - 1):
                assert (await websocket.next()).type == "bookmark"
            await append(client, run_id, token)
            while await anext(lines) != "event: node_update":
                pass
            assert [frame.type for frame in await websocket.until_type("node_update")][-1] == "node_update"


async def test_without_heartbeats_nginx_would_have_ended_it(nginx_path: Path, database_url: str) -> None:
    """So that the test above cannot pass for want of a timeout."""
    async with (
        running(database_url, heartbeat_seconds=300) as server,
        proxy(nginx_path, server.url, changes={"http.conf": TIMEOUTS}) as nginx,
        httpx.AsyncClient(base_url=nginx.url, timeout=30) as client,
    ):
        run_id, _ = await lease(client)
        with pytest.raises(httpx.RemoteProtocolError):
            await read_on(client, f"{RUNS}/{run_id}/stream")
        async with socket(f"{nginx.url.replace('http', 'ws', 1)}{RUNS}/{run_id}/stream", ping_interval=None) as stream:
            assert await stream.close_code() == 1006


async def read_on(client: httpx.AsyncClient, url: str) -> None:
    async with asyncio.timeout(ANSWER_SECONDS), client.stream("GET", url) as response:
        async for _ in response.aiter_raw():
            pass


# ── restarts and reloads ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("quick_backoff")
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_our_client_resumes_without_loss_when_a_service_is_restarted_behind_nginx(
    nginx_path: Path, database_url: str, transport: Any
) -> None:
    async with (
        running(database_url, **SETTINGS) as server,
        proxy(nginx_path, server.url) as nginx,
        httpx.AsyncClient(base_url=nginx.url, timeout=30) as client,
        Client(nginx.url, transport=transport) as follower,
        aclosing(follower.follow(f"{RUNS}/{(leased := await lease(client))[0]}/stream")) as stream,
    ):
        run_id, token = leased
        taking = Taking(stream)
        await append(client, run_id, token, 3)
        last = (await events_of(client, run_id))[-1].id
        for end in (server.kill, server.end):
            assert last is not None
            await taking.until_at(last)
            await end()
            assert (await client.get(f"{RUNS}/{run_id}")).status_code == 502
            await server.start()
            await append(client, run_id, token, 3)
            last = (await events_of(client, run_id))[-1].id
        await finish(client, run_id, token)
        seen = [position for position, _ in await taking.to_the_end()]
        assert seen == [frame.id for frame in await events_of(client, run_id)]


@pytest.mark.usefixtures("quick_backoff")
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_reload_of_nginx_loses_no_event_for_a_client_that_resumes(
    nginx_path: Path, tailrace: Served, transport: Any
) -> None:
    impatient = {"main.conf": {"worker_shutdown_timeout 60s": "worker_shutdown_timeout 1s"}}
    async with (
        proxy(nginx_path, tailrace.url, changes=impatient) as nginx,
        # past nginx, which closes idle connections when it is reloaded: a request may be on its way on one
        httpx.AsyncClient(base_url=tailrace.url, timeout=30) as client,
        Client(nginx.url, transport=transport) as follower,
        aclosing(follower.follow(f"{RUNS}/{(leased := await lease(client))[0]}/stream")) as stream,
    ):
        run_id, token = leased
        taking = Taking(stream)
        for _ in range(2):
            await append(client, run_id, token, 3)
            last = (await events_of(client, run_id))[-1].id
            assert last is not None
            await taking.until_at(last)  # its stream is at a worker that is about to become an old one
            old = {worker.pid for worker in nginx.workers}
            await nginx.reload()
            while {worker.pid for worker in nginx.workers} & old:  # events come before, while and after it is cut
                await append(client, run_id, token)
        await finish(client, run_id, token)
        seen = [position for position, _ in await taking.to_the_end()]
        assert seen == [frame.id for frame in await events_of(client, run_id)]


# ── a slow client ──────────────────────────────────────────────────────────────────────────────────────────────


async def publish_megabytes(client: httpx.AsyncClient, run_id: str, token: str, megabytes: int) -> None:
    event = {"type": "error", "fatal": False, "code": "big", "message": "x" * 15_000}
    for _ in range(megabytes):
        body = {"events": [event] * 66}
        answer = await client.post(f"{RUNS}/{run_id}/events", json=body, headers={"tailrace-lease": token})
        answer.raise_for_status()


async def test_a_slow_client_does_not_make_nginx_write_to_a_disk(nginx_path: Path, database_url: str) -> None:
    async with (
        running(database_url, slow_reader_seconds=2, heartbeat_seconds=1) as server,
        proxy(nginx_path, server.url) as nginx,
        httpx.AsyncClient(base_url=nginx.url, timeout=60) as client,
        httpx.AsyncClient(base_url=server.url, timeout=60) as direct,
    ):
        run_id, token = await lease(client)
        await publish_megabytes(client, run_id, token, 32)
        reader, writer = await asyncio.open_connection("127.0.0.1", nginx.port, limit=1024)
        writer.write(f"GET {RUNS}/{run_id}/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await reader.readuntil(b"event: hello")
        # It reads no further. The service notices that its socket takes nothing more, as if nginx were not there.
        seen: list[str] = []

        async def is_cut_off() -> bool:
            seen.extend(nginx.files_on_disk())
            return await metric(direct, "tailrace_stream_ends_total", transport="sse", reason="slow_reader") == 1

        await eventually(is_cut_off, "the slow reader is cut off")
        assert seen == []
        async with sse(client, f"{RUNS}/{run_id}/stream?after=now") as stream:  # others are not held up
            await read_until_live(stream)
            await append(client, run_id, token)
            frames = await read_until(stream, lambda frame: frame.is_stored)
            assert [frame.type for frame in frames] == ["node_update"]
        writer.close()
