"""A terminal in a page as a person uses it, and programs that print what they are told."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from playwright.async_api import Locator, Page, expect

from tests.support.previews import SERVE, new_generation, running, tell
from tests.support.server import Server

FAST = {"retry_milliseconds": 50}

# The text of the lines that are drawn, by their numbers; and what else there is to know of the screen.
ROWS = """screen => [...screen.querySelectorAll('.line:not(.pinned):not(.gap)')]
    .map(row => [Number(row.dataset.line), row.querySelector('.text').textContent])"""
METRICS = """screen => ({top: screen.scrollTop, height: screen.scrollHeight, view: screen.clientHeight,
    end: screen.scrollHeight - screen.clientHeight - screen.scrollTop})"""
STILL = "() => new Promise(resolve => requestAnimationFrame(() => requestAnimationFrame(resolve)))"


class Terminal:
    """What is seen of it, and the keys one presses."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.screen: Locator = page.locator(".screen")
        self.follow = page.locator(".follow")
        self.search = page.get_by_role("searchbox", name="Search all lines")
        self.ending = page.locator(".ending")
        self.count = page.locator("#line-count")

    def line(self, text: str) -> Locator:
        return self.page.locator(".line:not(.pinned)").filter(has_text=text)

    async def rows(self) -> dict[int, str]:
        """The lines that are drawn."""
        return dict(await self.screen.evaluate(ROWS))

    async def metrics(self) -> dict[str, float]:
        found: dict[str, float] = await self.screen.evaluate(METRICS)
        return found

    async def settled(self) -> None:
        """Two frames later, what was asked for is drawn."""
        await self.page.evaluate(STILL)

    async def press(self, key: str) -> None:
        await self.screen.press(key)
        await self.settled()

    async def scroll_to(self, part: float) -> None:
        """To this part of its height, 0 to 1, as one drags the bar."""
        await self.screen.evaluate("(screen, part) => { screen.scrollTop = screen.scrollHeight * part }", part)
        await self.settled()

    async def has_no_missing_rows(self) -> None:
        await expect(self.page.locator(".line.missing")).to_have_count(0)

    async def clipboard(self) -> str:
        text: str = await self.page.evaluate("() => navigator.clipboard.readText()")
        return text

    async def visit_all(self) -> dict[int, str]:
        """Every line there is to see, from the first to the last, screen by screen."""
        await self.press("Home")
        seen: dict[int, str] = {}
        while True:
            await self.has_no_missing_rows()
            seen |= await self.rows()
            if (await self.metrics())["end"] < 2:
                return seen
            await self.screen.evaluate("screen => { screen.scrollTop += screen.clientHeight - 40 }")
            await self.settled()


@asynccontextmanager
async def printing(
    server: Server, page: Page, code: str = SERVE, **fields: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, str, Terminal]]:
    """A program that answers, its page open and live."""
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        generation = new_generation("t")
        await running(client, generation, code, **fields)
        await page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.url)
        await page.goto(f"{server.url}/previews/{generation}")
        await expect(page.locator("#connection")).to_contain_text("Live")
        yield client, generation, Terminal(page)


async def say(client: httpx.AsyncClient, generation: str, *lines: str, to: str = "stdout") -> None:
    """Have the program print these lines."""
    text = "".join(f"{line}\n" for line in lines)
    await tell(client, generation, f"sys.{to}.write({text!r}); sys.{to}.flush()")


async def count(client: httpx.AsyncClient, generation: str, first: int, last: int, text: str = "line") -> None:
    """Have it print `line 1` … in one go."""
    code = f"sys.stdout.write(''.join(f'{text} {{n}}\\n' for n in range({first}, {last + 1}))); sys.stdout.flush()"
    await tell(client, generation, code)
