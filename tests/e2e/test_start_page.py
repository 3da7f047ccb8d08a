"""The start page, in a browser: what goes on in the three domains, and how well they are."""

import re

import httpx
import pytest
from playwright.async_api import Locator, Page, expect

from tests.support.contract import finish
from tests.support.previews import launch, preview_url
from tests.support.server import append, lease, running
from tests.support.tasks import create, create_many, patch

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=alert(1)> & <b>bold</b>"


def count_of(page: Page, name: str) -> Locator:
    return page.locator(f"#{name} .meter")


async def test_the_start_page_shows_what_goes_on_as_it_does(database_url: str, page: Page) -> None:
    async with running(database_url, retry_milliseconds=50) as server, httpx.AsyncClient(base_url=server.url) as client:
        await page.goto(server.url)
        await expect(page.locator("#connection")).to_contain_text("Live")
        await expect(page.locator("#runs")).to_contain_text("None yet")
        await expect(page.locator("#health-all")).to_contain_text("ready")

        task = await create(client, title=HOSTILE)
        await expect(count_of(page, "tasks")).to_have_text("0running · 1 queued")
        await patch(client, task["id"], status="running", progress={"done": 3, "total": 4})
        await expect(count_of(page, "tasks")).to_have_text("1running")
        await expect(page.locator("#tasks .item")).to_contain_text(HOSTILE)
        await expect(page.locator("#tasks .item")).to_contain_text("3 of 4")
        await expect(page.locator("#tasks .item")).to_have_attribute("href", f"/tasks/{task['id']}")

        run_id, token = await lease(client, task=HOSTILE)
        await expect(count_of(page, "runs")).to_have_text("1running")
        await expect(page.locator("#runs .item")).to_contain_text(HOSTILE)
        await append(client, run_id, token)
        await finish(client, run_id, token, output="done")
        await expect(page.locator("#runs .badge")).to_have_text("completed")
        await expect(count_of(page, "runs")).to_have_text("0running")

        await launch(client, "of-the-start-page")
        await expect(page.locator("#previews .item")).to_contain_text("of-the-start-page")
        await expect(count_of(page, "previews")).to_have_text("1running")
        (await client.delete(preview_url("of-the-start-page"))).raise_for_status()
        await expect(page.locator("#previews .badge")).to_have_text("stopped")

        await server.kill()
        await expect(page.locator("#connection")).to_contain_text("Reconnecting")
        await server.start()
        await patch(client, task["id"], status="succeeded")
        await expect(page.locator("#tasks .badge")).to_have_text("succeeded")
        await expect(page.locator("#connection")).to_contain_text("Live")


async def test_what_goes_on_is_counted_and_shown_however_old_it_is(database_url: str, page: Page) -> None:
    async with running(database_url) as server, httpx.AsyncClient(base_url=server.url) as client:
        old = await create(client, title="old, and still at it", status="running")
        for task in await create_many(client, 110):
            await patch(client, task["id"], status="succeeded")
        await page.goto(server.url)
        await expect(count_of(page, "tasks")).to_have_text("1running")
        await expect(page.locator("#tasks .item")).to_have_count(5)
        await expect(page.locator("#tasks .item").last).to_contain_text("old, and still at it")
        await patch(client, old["id"], status="failed")
        await expect(count_of(page, "tasks")).to_have_text("0running")


async def test_a_sample_run_is_one_press_away(database_url: str, page: Page) -> None:
    async with running(database_url) as server:
        await page.goto(server.url)
        await page.get_by_role("button", name="Start a sample run").click()
        await expect(page).to_have_url(re.compile(f"^{server.url}/runs/run_[0-9a-z]{{26}}$"))
