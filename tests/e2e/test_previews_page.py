"""The page of previews: launching, watching, opening, editing and ending programs, in a browser."""

import re
import shutil

import httpx
import pytest
from playwright.async_api import Page, Route, expect

from tests.e2e.axe import violations
from tests.e2e.terminal import Terminal, printing, say
from tests.support.previews import launch, new_generation, preview_url, running, stop
from tests.support.server import running as server_running

pytestmark = pytest.mark.browser

CRASH = """\
def first():
    raise RuntimeError("the dam \\x1b[31mbroke\\x1b[0m <b>here</b>")

first()
"""


async def start_from(page: Page, url: str, starter: str, generation: str) -> None:
    """Launch a starter by the form."""
    await page.goto(f"{url}/previews")
    await page.get_by_role("radio", name=re.compile(starter)).check(force=True)
    await page.get_by_label("Name", exact=True).fill(generation)
    await page.get_by_role("button", name="Launch").click()
    await expect(page.get_by_role("heading", name=generation)).to_be_visible()


async def is_status(page: Page, status: str) -> None:
    await expect(page.locator(".title-line .badge")).to_have_text(status, timeout=60_000)


# ── launching ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("starter", "shown", "line"),
    [
        ("Litestar app", "Leave a word", "INFO: somebody is here; 0 entries so far"),
        ("Static files", "A river", "GET /river.js"),
        ("Node server", "Hello from Node", "GET / is visit"),
        ("A talkative program", "It talks in the terminal", "somebody asks for /"),
    ],
)
async def test_each_starter_is_launched_answers_in_its_frame_and_prints(
    database_url: str, page: Page, starter: str, shown: str, line: str
) -> None:
    if starter == "Node server" and shutil.which("node") is None:
        pytest.skip("node is not installed")
    generation = new_generation("start")
    async with server_running(database_url) as server:
        await start_from(page, server.url, starter, generation)
        await is_status(page, "running")
        program = page.frame_locator("iframe[title='The running program']")
        await expect(program.get_by_text(shown).first).to_be_visible(timeout=30_000)
        await expect(Terminal(page).line(line).first).to_be_visible()
        await expect(page.locator("[data-fact='isolation']")).to_have_text(re.compile("^isolation: "))
        if starter == "Litestar app":  # it works in there: its script runs, its cookie is sent
            await program.get_by_label("Your words").fill("a word")
            await program.get_by_role("button", name="Add").click()
            await expect(program.get_by_role("listitem")).to_have_text("a word")
            await expect(Terminal(page).line("entry 1: a word")).to_be_visible()
            async with page.expect_popup() as opened:
                await page.get_by_role("button", name="Open in a tab").click()
            tab = await opened.value
            await expect(tab.get_by_text("Leave a word")).to_be_visible()
            assert "ticket" not in tab.url
            await tab.close()


async def test_files_are_edited_before_the_launch_and_after_it(database_url: str, page: Page) -> None:
    generation = new_generation("edit")
    async with server_running(database_url) as server:
        await page.goto(f"{server.url}/previews")
        await page.get_by_role("radio", name=re.compile("Static files")).check(force=True)
        await page.get_by_role("tab", name="index.html").click()
        await page.locator(".file-text").fill("<h1>first</h1>")
        await page.get_by_role("button", name="Add a file").click()
        await page.get_by_label("Path of the file").fill("../out.txt")
        await page.get_by_role("button", name="Add", exact=True).click()
        await expect(page.get_by_role("dialog")).to_contain_text("below the program's own directory")
        await page.get_by_label("Path of the file").fill("notes/more.txt")
        await page.get_by_label("Path of the file").press("Enter")
        await expect(page.get_by_role("tab", name="notes/more.txt")).to_have_attribute("aria-selected", "true")
        await page.get_by_label("Name", exact=True).fill(generation)
        await page.get_by_role("button", name="Launch").click()
        program = page.frame_locator("iframe[title='The running program']")
        await expect(program.get_by_role("heading")).to_have_text("first", timeout=60_000)

        await page.get_by_role("button", name="Files", exact=True).click()
        await page.get_by_role("tab", name="index.html").click()
        await expect(page.locator(".file-text")).to_have_value("<h1>first</h1>")
        await page.locator(".file-text").fill("<h1>second</h1>")
        await expect(page.get_by_text("1 file changed")).to_be_visible()
        await page.get_by_role("button", name="Save and restart").click()
        await expect(page.locator("[data-fact='attempt']")).to_have_text("attempt 2", timeout=60_000)
        await is_status(page, "running")
        await page.get_by_role("button", name="Program", exact=True).click()
        await expect(program.get_by_role("heading")).to_have_text("second", timeout=60_000)
        async with httpx.AsyncClient(base_url=server.url) as client:
            files = (await client.get(f"{preview_url(generation)}/files")).json()["files"]
        assert (files["index.html"], files["notes/more.txt"]) == ("<h1>second</h1>", "")


async def test_a_crash_shows_its_traceback_and_how_it_ended(database_url: str, page: Page) -> None:
    generation = new_generation("crash")
    async with server_running(database_url) as server:
        await page.goto(f"{server.url}/previews")
        await page.locator(".file-text").fill(CRASH)
        await page.get_by_label("Name", exact=True).fill(generation)
        await page.get_by_role("button", name="Launch").click()
        await is_status(page, "failed")
        terminal = Terminal(page)
        await expect(terminal.ending).to_contain_text("Failed: exit code 1")
        await expect(terminal.ending).to_contain_text("It ended before it answered.")
        await expect(terminal.line("Traceback (most recent call last)")).to_be_visible()
        error = page.locator(".line[data-level='ERROR']").filter(has_text="RuntimeError: the dam broke <b>here</b>")
        await expect(error).to_be_visible()
        await expect(page.locator(".program-state .tail")).to_contain_text("RuntimeError: the dam broke <b>here</b>")
        await expect(page.locator("iframe")).to_be_hidden()


async def test_an_active_preview_is_replaced_only_when_somebody_says_so(database_url: str, page: Page) -> None:
    generation = new_generation("taken")
    async with server_running(database_url) as server, httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        before = await running(client, generation)
        assert page.context.browser is not None
        watching = await page.context.browser.new_page()
        await watching.goto(f"{server.url}/previews/{generation}")
        await is_status(watching, "running")

        await page.goto(f"{server.url}/previews?generation={generation}")
        await page.get_by_role("radio", name=re.compile("Static files")).check(force=True)
        await page.get_by_role("button", name="Launch").click()
        await expect(page.get_by_role("dialog")).to_contain_text(f"Replace “{generation}”?")
        await page.get_by_role("button", name="Leave it running").click()
        await expect(page.get_by_role("dialog")).to_have_count(0)
        assert (await client.get(preview_url(generation))).json()["id"] == before["id"]

        await page.get_by_role("button", name="Launch").click()
        await page.get_by_role("button", name="Stop it and launch mine").click()
        await is_status(page, "running")
        assert (await client.get(preview_url(generation))).json()["id"] != before["id"]
        # whoever watches sees the one that took its place
        await is_status(watching, "running")
        await expect(Terminal(watching).line("attempt 1: static")).to_be_visible()
        await expect(watching.get_by_text("serving", exact=True)).to_have_count(0)


async def test_a_refusal_is_told_in_the_service_s_words(database_url: str, page: Page) -> None:
    async with server_running(database_url) as server:
        await page.goto(f"{server.url}/previews")
        await page.get_by_label("Entry").fill("no module")
        await page.get_by_role("button", name="Launch").click()
        await expect(page.get_by_role("alert").filter(has_text="It was not launched")).to_contain_text(
            "such as main:app"
        )
        await page.get_by_label("Name", exact=True).fill("")
        await page.get_by_role("button", name="Launch").click()
        await expect(page.get_by_role("alert").filter(has_text="It was not launched")).to_contain_text("Give it a name")


# ── what becomes of them ───────────────────────────────────────────────────────────────────────────────────────


async def test_the_list_moves_by_itself_and_a_preview_is_stopped_started_again_and_removed(
    database_url: str, page: Page
) -> None:
    async with server_running(database_url) as server, httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        await page.goto(f"{server.url}/previews")
        await expect(page.get_by_text("No previews yet")).to_be_visible()
        first, second = new_generation("list"), new_generation("list")
        await running(client, first)
        await launch(client, second, "print('no'); raise SystemExit(3)")
        rows = page.locator(".preview-row")
        await expect(rows.locator(".row-title")).to_have_text([second, first])
        await expect(rows.locator(".badge")).to_have_text(["failed", "running"])
        await expect(rows.first).to_contain_text("Failed: exit code 3")

        await rows.last.click()
        await is_status(page, "running")
        await page.get_by_role("button", name="Stop").click()
        await is_status(page, "stopped")
        await expect(Terminal(page).ending).to_contain_text("Stopped")
        await page.get_by_role("button", name="Start again").click()
        await is_status(page, "running")
        await expect(Terminal(page).ending).to_be_hidden()
        await stop(client, first)
        await is_status(page, "stopped")
        await page.get_by_role("button", name="Remove").click()
        await page.get_by_role("button", name="Remove it").click()
        await expect(rows.locator(".row-title")).to_have_text([second])

        await page.goto(f"{server.url}/previews/{first}")
        await expect(page.get_by_text("There is no such preview")).to_be_visible()
        await page.get_by_role("link", name="Launch one under this name").click()
        await expect(page.get_by_label("Name", exact=True)).to_have_value(first)


async def test_programs_that_are_not_isolated_carry_a_warning(database_url: str, page: Page) -> None:
    """Where tests run, programs are isolated: what the service says of it is put in other words on its way here."""

    async def without_isolation(route: Route) -> None:
        answer = await route.fetch()
        await route.fulfill(response=answer, body=(await answer.text()).replace("bubblewrap", "process"))

    async with server_running(database_url) as server, httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        generation = new_generation("open")
        isolation = (await running(client, generation))["isolation"]
        warning = page.locator(".isolation-warning")
        for path in ("/previews", f"/previews/{generation}"):
            await page.goto(server.url + path)
            await expect(page.locator("#connection")).to_contain_text("Live")
            if isolation != "process":
                await expect(warning).to_be_hidden()
        await page.route(re.compile("/previews/ready$|/preview$"), without_isolation)
        for path in ("/previews", f"/previews/{generation}"):
            await page.goto(server.url + path)
            await expect(warning).to_contain_text("it can read and change whatever Tailrace can")


# ── for everybody ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_nothing_keeps_people_out(database_url: str, page: Page, scheme: str) -> None:
    await page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    async with server_running(database_url) as server:
        colours = [f"\x1b[{n}mcolour {n}\x1b[0m" for n in (*range(30, 38), *range(90, 98), 2, 7, "41;37", "104;30")]
        beyond = [f"\x1b[38;5;{n}mcolour {n}\x1b[0m" for n in (16, 21, 46, 196, 226, 231)]
        async with printing(server, page) as (client, generation, terminal):
            await say(client, generation, *colours)
            await say(client, generation, *beyond, "ERROR: no", "WARNING: perhaps", "DEBUG: look", "a\u202eb")
            await say(client, generation, "to the side", to="stderr")
            await expect(terminal.line("to the side")).to_be_visible()
            await terminal.search.fill("colour")
            await expect(page.locator(".line[data-current]")).to_be_visible()
            assert await violations(page) == []
            await page.get_by_role("button", name="Files", exact=True).click()
            await stop(client, generation)
            await expect(terminal.ending).to_be_visible()
            assert await violations(page) == []
            await launch(client, new_generation("failed"), "raise SystemExit(3)")
            await page.goto(f"{server.url}/previews")
            await expect(page.locator(".preview-row")).to_have_count(2)
            assert await violations(page) == []


async def test_on_a_phone_one_pane_is_shown_at_a_time_and_nothing_sticks_out(database_url: str, page: Page) -> None:
    await page.set_viewport_size({"width": 375, "height": 740})
    async with server_running(database_url) as server, printing(server, page) as (client, generation, terminal):
        await say(client, generation, "a long line " * 30)
        await page.get_by_role("button", name="Output", exact=True).click()
        await expect(terminal.line("a long line")).to_be_visible()
        assert await overflow(page) == 0
        await page.get_by_role("button", name="Files", exact=True).click()
        await expect(terminal.screen).to_be_hidden()
        assert await overflow(page) == 0
        await page.get_by_role("button", name="Program", exact=True).click()
        await expect(page.locator("iframe")).to_be_visible()
        await page.goto(f"{server.url}/previews")
        await expect(page.locator(".preview-row")).to_be_visible()
        assert await overflow(page) == 0


async def overflow(page: Page) -> int:
    """Pixels by which the page is wider than the window."""
    found: int = await page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
    return max(0, found)
