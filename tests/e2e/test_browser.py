"""What a browser has built in, against a service that is killed under it."""

import asyncio

import httpx
import pytest
from playwright.async_api import Page

from tests.e2e.watchers import EventSourceWatcher, PageWatcher, PageWebSocketWatcher
from tests.support.contract import RUNS, events_of, finish
from tests.support.server import Server, append, lease, running

pytestmark = pytest.mark.browser

FAST = {"retry_milliseconds": 50}  # how long an EventSource waits before it connects again


@pytest.mark.parametrize("kind", [EventSourceWatcher, PageWebSocketWatcher])
async def test_what_a_browser_has_built_in_resumes_after_kill_9(
    database_url: str, page: Page, kind: type[PageWatcher]
) -> None:
    async with running(database_url, **FAST) as server, httpx.AsyncClient(base_url=server.url) as client:
        run_id, token = await lease(client)
        await page.goto(server.url)
        watcher = kind(f"{server.url}{RUNS}/{run_id}/stream", page)
        following = asyncio.create_task(watcher.follow())
        await append(client, run_id, token, 10)
        await watcher.until(lambda watcher: len(watcher.events) == 12)
        seen = watcher.last_id
        await restart(server, watcher)
        await append(client, run_id, token, 10)
        await finish(client, run_id, token)
        await following

        first, second = watcher.hellos
        assert not first.event["resumed"]
        assert second.event["resumed"]
        assert second.id == seen  # it came back with the position of what it had
        assert [frame.id for frame in watcher.events] == [frame.id for frame in await events_of(client, run_id)]
        assert watcher.frames[-1].event["final"]
        await asyncio.wait_for(watcher.closed.wait(), 10)  # an EventSource by the 204 that it gets when it comes back


async def restart(server: Server, watcher: PageWatcher) -> None:
    """kill -9; the next process starts when the watcher has found the port closed at least once."""
    await server.kill()
    await watcher.until(lambda watcher: watcher.cuts >= 2)
    await server.start()
