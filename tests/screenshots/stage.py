"""A stage: a service with its own PostgreSQL, a browser, and what takes the pictures.

A scene is a coroutine that takes the stage, fills the service by its API, and has its pictures taken:

    async def board(stage: Stage) -> None:
        await create(stage.client, title="…")
        await stage.shoot("tasks", "/tasks")

`scenes.py` lists them. A picture is taken four times: wide and on a phone, in light and dark.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import httpx
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.e2e.conftest import CHROMIUM_FLAGS
from tests.support.server import running

Scheme = Literal["light", "dark"]
Deed = Callable[[Page], Awaitable[None]]

SIZES = {"wide": (1280, 800), "phone": (360, 740)}
SCHEMES: tuple[Scheme, ...] = ("light", "dark")


class Stage:
    """`client` calls the service. Pictures go to `directory`, as `<name>-<size>-<scheme>.png`."""

    def __init__(self, url: str, client: httpx.AsyncClient, browser: Browser, directory: Path) -> None:
        self.url = url
        self.client = client
        self._browser = browser
        self._directory = directory

    async def shoot(self, name: str, path: str, *, ready: Deed | None = None, is_whole: bool = False) -> None:
        """Open the page at `path`, wait until it is live, do what `ready` does (press something, wait for something),
        and take the picture: of what the screen shows, or with `is_whole` of the page to its end.
        """
        for size, (width, height) in SIZES.items():
            for scheme in SCHEMES:
                context = await self._browser.new_context(
                    viewport={"width": width, "height": height},
                    color_scheme=scheme,
                    reduced_motion="reduce",  # no picture of half a movement
                    has_touch=size == "phone",
                )
                try:
                    page = await context.new_page()
                    await page.goto(self.url + path)
                    await settled(page)
                    if ready is not None:
                        await ready(page)
                    picture = self._directory / f"{name}-{size}-{scheme}.png"
                    await page.screenshot(path=picture, full_page=is_whole)
                finally:
                    await context.close()


async def settled(page: Page) -> None:
    """It is live, or at the end of what it shows, and nothing is being loaded."""
    chip = page.locator("#connection[data-phase=live], #connection[data-phase=ended]")
    await expect(chip).to_be_visible()
    await expect(page.locator(".loading")).to_have_count(0)


@asynccontextmanager
async def set_up(chromium: Path, directory: Path) -> AsyncIterator[Stage]:
    """A service that begins empty and is gone afterwards, with all that it had."""
    async with (
        running("", lease_seconds=600) as server,  # with a PostgreSQL of its own; its workers are seen once
        httpx.AsyncClient(base_url=server.url, timeout=60) as client,
        async_playwright() as playwright,
    ):
        browser = await playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        try:
            yield Stage(server.url, client, browser, directory)
        finally:
            await browser.close()
