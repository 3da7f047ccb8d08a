"""What is promised of every page: nobody is kept out, nothing overflows, and nothing is said without words."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import httpx
import pytest
from playwright.async_api import Page, expect

from tests.e2e.axe import violations
from tests.support.previews import launch
from tests.support.server import append, lease, running
from tests.support.tasks import create, patch
from tests.support.tokens import JWT

pytestmark = pytest.mark.browser

PAGES = [
    "/",
    "/tasks",
    "/tasks/{task}",
    "/tasks/{ended}",
    "/runs",
    "/runs/{run}",
    "/previews",
    "/previews/{generation}",
]
LONG = "a-title-of-one-very-long-word-" * 12
GENERATION = "of-every-page"


@asynccontextmanager
async def filled(database_url: str) -> AsyncIterator[tuple[str, dict[str, str]]]:
    """A service that has something of everything: its address, and the ids."""
    async with running(database_url) as server, httpx.AsyncClient(base_url=server.url) as client:
        task = await create(client, title=LONG, kind="generation", generation_id=GENERATION)
        steps = [{"name": "first", "status": "done"}, {"name": LONG[:150], "status": "running"}]
        progress = {"done": 1, "total": 2, "unit": "steps", "message": LONG}
        await patch(client, task["id"], status="running", steps=steps, progress=progress, result={"text": LONG})
        failed = await create(client, title="failed")
        await patch(client, failed["id"], status="failed", error=LONG)
        await create(client, title="waiting")
        run_id, token = await lease(client, task=LONG, task_id=task["id"])
        await append(client, run_id, token, 3)
        await launch(client, GENERATION)
        yield server.url, {"task": task["id"], "ended": failed["id"], "run": run_id, "generation": GENERATION}


async def is_settled(page: Page) -> None:
    """It shows what it has to: connected, and nothing is being loaded."""
    await expect(page.locator("#connection[data-phase=live], #connection[data-phase=ended]")).to_be_visible()
    await expect(page.locator(".loading")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_no_page_keeps_anybody_out(database_url: str, page: Page, scheme: Literal["light", "dark"]) -> None:
    await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    async with filled(database_url) as (url, ids):
        for path in PAGES:
            await page.goto(url + path.format(**ids))
            await is_settled(page)
            assert (path, await violations(page)) == (path, [])


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_what_opens_on_a_page_keeps_nobody_out(
    database_url: str, page: Page, scheme: Literal["light", "dark"]
) -> None:
    await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    async with filled(database_url) as (url, ids):
        await page.goto(f"{url}/tasks")
        await is_settled(page)
        await page.locator("#connection").click()
        assert await violations(page) == []
        await page.keyboard.press("Escape")
        await page.get_by_role("button", name="New task").click()
        assert await violations(page) == []
        await page.keyboard.press("Escape")
        await page.goto(f"{url}/tasks/{ids['task']}")
        await is_settled(page)
        await page.get_by_text("Raw JSON").click()
        await page.get_by_role("button", name="Cancel").click()
        assert await violations(page) == []
        await page.keyboard.press("Escape")
        await page.goto(f"{url}/tasks/none")
        await expect(page.get_by_text("There is no such task")).to_be_visible()
        assert await violations(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_signing_in_keeps_nobody_out(database_url: str, page: Page, scheme: Literal["light", "dark"]) -> None:
    await page.emulate_media(color_scheme=scheme)
    async with running(database_url, **JWT) as server:
        await page.goto(f"{server.url}/tasks")
        await expect(page.locator("#sign-in")).to_be_visible()
        assert await violations(page) == []


async def test_a_fault_of_accessibility_would_be_noticed(database_url: str, page: Page) -> None:
    async with running(database_url) as server:
        await page.goto(server.url)
        await page.evaluate("document.querySelector('#theme').removeAttribute('aria-label')")
        await page.evaluate("document.querySelector('#theme').removeAttribute('title')")
        await page.evaluate("document.querySelector('h1').style.color = '#bbb'")
        found = [rule.partition(":")[0] for rule in await violations(page)]
        assert sorted(found) == ["button-name", "color-contrast"]


@pytest.mark.parametrize("width", [360, 768, 1920])
async def test_no_page_is_wider_than_the_screen(database_url: str, page: Page, width: int) -> None:
    await page.set_viewport_size({"width": width, "height": 800})
    async with filled(database_url) as (url, ids):
        for path in PAGES:
            await page.goto(url + path.format(**ids))
            await is_settled(page)
            needed = await page.evaluate("document.documentElement.scrollWidth")
            assert (path, needed) == (path, width)
            await expect(page.locator("#theme")).to_be_in_viewport(ratio=1)
            await expect(page.get_by_role("link", name="Previews", exact=True).first).to_be_in_viewport()


async def test_light_and_dark_are_chosen_and_kept(database_url: str, page: Page) -> None:
    await page.emulate_media(color_scheme="light")
    async with running(database_url) as server:
        await page.goto(server.url)
        light = await ground(page)
        button = page.locator("#theme")
        await button.click()
        await button.click()
        await expect(button).to_have_attribute("title", "Dark")
        dark = await ground(page)
        assert dark != light
        await page.goto(f"{server.url}/tasks")
        assert await ground(page) == dark
        await page.locator("#theme").click()
        assert await ground(page) == light


async def ground(page: Page) -> str:
    colour: str = await page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    return colour


async def test_nothing_moves_for_those_who_want_none_of_it(database_url: str, page: Page) -> None:
    await page.emulate_media(reduced_motion="reduce")
    async with filled(database_url) as (url, _):
        await page.goto(f"{url}/tasks")
        await is_settled(page)
        assert await page.evaluate("document.getAnimations().length") == 0


async def test_a_page_of_which_a_part_did_not_arrive_is_loaded_again(database_url: str, page: Page) -> None:
    async with running(database_url) as server:
        await page.route("**/chip.js", lambda route: route.abort("connectionreset"), times=2)
        await page.goto(f"{server.url}/tasks")
        await is_settled(page)
        assert await page.evaluate("sessionStorage.length") == 0


async def test_a_page_that_cannot_be_loaded_says_so(database_url: str, page: Page) -> None:
    async with running(database_url) as server:
        await page.route("**/chip.js", lambda route: route.abort())
        await page.add_init_script("sessionStorage.setItem('tailrace.tries', '5')")  # it has tried before
        await page.goto(f"{server.url}/tasks")
        await expect(page.get_by_role("alert")).to_have_text(
            "A part of this page could not be loaded. Load the page anew."
        )


async def test_a_string_cannot_become_html_on_a_page(database_url: str, page: Page) -> None:
    assert page.context.browser is not None
    page = await (await page.context.browser.new_context()).new_page()  # one that may complain of its policy
    async with running(database_url) as server:
        await page.goto(f"{server.url}/health")  # no policy here: a script may do as it likes
        await page.evaluate("document.body.innerHTML = '<i>x</i>'")
        await page.goto(f"{server.url}/tasks")
        for work in [
            "() => { document.body.innerHTML = '<i>x</i>'; }",
            "() => { trustedTypes.createPolicy('mine', {}); }",
            "() => { document.createElement('script').text = '1'; }",
        ]:
            name = await page.evaluate(f"() => {{ try {{ ({work})(); }} catch (error) {{ return error.name; }} }}")
            assert name == "TypeError", work
