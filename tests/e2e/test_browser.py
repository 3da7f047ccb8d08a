"""The start page, and what a browser has built in, against a service that is killed under them."""

import asyncio
import os
import subprocess
import sys

import httpx
import pytest
from playwright.async_api import Page, expect

from tests.e2e.watchers import EventSourceWatcher, PageWatcher, PageWebSocketWatcher
from tests.support.contract import RUNS, events_of, finish
from tests.support.server import ROOT, Server, append, lease, running

pytestmark = pytest.mark.browser

FAST = {"retry_milliseconds": 50}  # how long an EventSource waits before it connects again


async def test_a_run_started_by_the_form_is_seen_to_go_live_and_to_complete(database_url: str, page: Page) -> None:
    async with running(database_url) as server:
        await page.goto(server.url)
        await expect(page.locator("#feed-state")).to_have_text("Live")
        await expect(page.get_by_text("No runs yet.")).to_be_visible()
        await page.get_by_label("Task").fill("<b>Say</b> something & more")
        await page.get_by_role("button", name="Start a sample run").click()

        row = page.locator("#list a")
        await expect(row.locator(".task")).to_have_text("<b>Say</b> something & more")  # text, whatever it looks like
        await expect(row.locator(".badge")).to_have_text("running")
        await expect(page.locator("#run-state")).to_have_text("Live")
        await expect(row.locator(".snippet")).to_contain_text("This is a sample")

        await expect(row.locator(".badge")).to_have_text("completed")
        await expect(page.locator("#run-state")).to_have_text("Ended: completed")
        await expect(page.locator("#outcome")).to_contain_text("nothing is lost or repeated")
        async with httpx.AsyncClient(base_url=server.url) as client:
            run_id = (await client.get(RUNS)).json()["data"][0]["id"]
            stored = await events_of(client, run_id)
        assert await positions(page) == [frame.id for frame in stored]


async def test_a_run_in_the_list_is_opened_by_a_click_and_cancelled(database_url: str, page: Page) -> None:
    async with running(database_url) as server, httpx.AsyncClient(base_url=server.url) as client:
        await page.goto(server.url)
        await expect(page.locator("#feed-state")).to_have_text("Live")
        body = {"task": "wait for somebody", "mode": "queued", "runner": "nobody"}
        (await client.post(RUNS, json=body)).raise_for_status()
        await page.get_by_text("wait for somebody").click()
        await expect(page.get_by_role("heading", name="wait for somebody")).to_be_visible()
        await page.get_by_role("button", name="Cancel the run").click()
        await expect(page.locator("#list .badge")).to_have_text("cancelled")
        await expect(page.locator("#run-state")).to_have_text("Ended: cancelled")
        await page.get_by_role("link", name="Close").click()
        await expect(page.locator("#run")).to_be_hidden()


async def test_the_page_says_that_it_is_cut_off_and_goes_on_without_loss(database_url: str, page: Page) -> None:
    async with running(database_url, **FAST) as server, httpx.AsyncClient(base_url=server.url) as client:
        run_id, token = await lease(client, task="watched")
        await page.goto(f"{server.url}/#{run_id}")
        await expect(page.locator("#run-state")).to_have_text("Live")
        await append(client, run_id, token, 5)
        await expect(page.locator(".events [data-position]")).to_have_count(7)
        await server.kill()
        await expect(page.locator("#run-state")).to_have_text("Reconnecting")
        await expect(page.locator("#feed-state")).to_have_text("Reconnecting")
        await server.start()
        await append(client, run_id, token, 5)
        await finish(client, run_id, token, output="done")
        await expect(page.locator("#run-state")).to_have_text("Ended: completed")
        await expect(page.locator("#feed-state")).to_have_text("Live")
        await expect(page.locator("#list .badge")).to_have_text("completed")
        assert await positions(page) == [frame.id for frame in await events_of(client, run_id)]


async def test_the_page_notices_a_service_that_has_fallen_silent(database_url: str, page: Page) -> None:
    async with running(database_url, heartbeat_seconds=0.2, **FAST) as server:
        await page.goto(server.url)
        await expect(page.locator("#feed-state")).to_have_text("Live")
        server.freeze()  # the connection stays open, and nothing comes
        await expect(page.locator("#feed-state")).to_have_text("Reconnecting")
        await expect(page.locator("#feed-state")).to_have_attribute("title", "nothing was heard for too long")
        server.thaw()
        await expect(page.locator("#feed-state")).to_have_text("Live")


async def test_the_page_starts_over_when_the_log_does(database_url: str, page: Page) -> None:
    async with running(database_url, **FAST) as server, httpx.AsyncClient(base_url=server.url) as client:
        run_id, token = await lease(client, task="before")
        await append(client, run_id, token, 3)
        await page.goto(f"{server.url}/#{run_id}")
        await expect(page.locator(".events [data-position]")).to_have_count(5)
        environment = {**os.environ, "TAILRACE_DATABASE_URL": database_url}
        command = [sys.executable, "-m", "services.cli", "epoch", "new"]
        await asyncio.to_thread(subprocess.run, command, env=environment, cwd=ROOT, check=True, capture_output=True)
        await lease(client, task="after")
        await expect(page.locator("#list .task")).to_have_text(["after", "before"])
        await expect(page.get_by_text("Starting over: epoch changed.")).to_be_visible()
        await append(client, run_id, token, 1)
        await expect(page.locator(".events [data-position]")).to_have_count(6)
        assert await positions(page) == [frame.id for frame in await events_of(client, run_id)]


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


async def positions(page: Page) -> list[str]:
    """Those of the events that the page shows, in order."""
    found: list[str] = await page.eval_on_selector_all(
        ".events [data-position]", "lines => lines.map((line) => line.dataset.position)"
    )
    return found
