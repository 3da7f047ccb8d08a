"""The terminal of a preview, in a browser, against real programs and a service that is killed under it."""

import json
import re
from typing import Any

import httpx
import pytest
from playwright.async_api import Page, expect

from tests.e2e.terminal import FAST, count, printing, say
from tests.support.previews import download, page_of, printed, stored_logs, tell
from tests.support.readers import eventually
from tests.support.server import running as server_running

pytestmark = pytest.mark.browser


# ── following ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_it_follows_pauses_when_one_scrolls_up_and_loses_nothing(database_url: str, page: Page) -> None:
    async with server_running(database_url) as server, printing(server, page) as (client, generation, terminal):
        await count(client, generation, 1, 300)
        await expect(terminal.line("line 300")).to_be_visible()
        await expect(terminal.follow).to_have_text("Following")
        await terminal.screen.hover()
        await page.mouse.wheel(0, -900)
        await expect(terminal.follow).to_have_text("Follow")
        await terminal.settled()
        before = await terminal.rows()
        top = (await terminal.metrics())["top"]

        await count(client, generation, 301, 1500)
        await expect(terminal.follow).to_have_text(re.compile(r"^1,200 new lines$"))
        assert (await terminal.metrics())["top"] == top  # nothing moves under the eyes of who reads
        assert await terminal.rows() == before

        await terminal.follow.click()
        await expect(terminal.follow).to_have_text("Following")
        await expect(terminal.line("line 1500")).to_be_visible()
        seen = await terminal.visit_all()
        assert list(seen) == list(range(1, len(seen) + 1))
        told = {event["line"]: event["message"] for event in await stored_logs(client, generation)}
        assert seen == {number: told[number] for number in seen}
        assert len(seen) >= 1500


async def test_keys_go_to_the_ends_and_to_the_search(database_url: str, page: Page) -> None:
    async with server_running(database_url) as server, printing(server, page) as (client, generation, terminal):
        await count(client, generation, 1, 500)
        await say(client, generation, "aside", to="stderr")
        await say(client, generation, "ERROR: a \u202e b", "\x1b[1;41mbold\x1b[0m")
        await expect(terminal.line("bold")).to_be_visible()
        await terminal.press("Home")
        await expect(page.locator('.line[data-line="1"]')).to_be_visible()
        await expect(terminal.follow).not_to_have_text("Following")
        await terminal.press("PageDown")
        await terminal.press("End")
        await expect(terminal.follow).to_have_text("Following")
        await terminal.press("PageUp")
        await expect(terminal.follow).to_have_text("Follow")
        heights = await page.locator(".line").evaluate_all("rows => [...new Set(rows.map(row => row.offsetHeight))]")
        assert heights == [20]  # all kinds of lines are equally high, or numbers would not say where they are
        await terminal.press("/")
        await expect(terminal.search).to_be_focused()
        await page.keyboard.press("Escape")
        await expect(terminal.screen).to_be_focused()


async def test_a_line_grows_in_place_and_attempts_are_apart(database_url: str, page: Page) -> None:
    async with server_running(database_url) as server, printing(server, page) as (client, generation, _):
        write = "sys.stdout.write({!r}); sys.stdout.flush()"
        await tell(client, generation, write.format("loading 10%"))
        growing = page.locator(".line[data-growing]")
        await expect(growing.locator(".text")).to_have_text("loading 10%")
        number = await growing.get_attribute("data-line")
        await tell(client, generation, write.format("\rloading 80%"))
        await expect(growing.locator(".text")).to_have_text("loading 80%")
        await tell(client, generation, write.format("\rloaded\n"))
        await expect(page.locator(f'.line[data-line="{number}"] .text')).to_have_text("loaded")
        await expect(growing).to_have_count(0)

        await page.get_by_role("button", name="Restart").click()
        heading = page.locator(".line[data-heading='Attempt 2']")
        await expect(heading).to_contain_text("attempt 2: command")
        await expect(page.locator("[data-fact='attempt']")).to_have_text("attempt 2")


# ── size ───────────────────────────────────────────────────────────────────────────────────────────────────────

LINES = 200_000
BURST = 10_000
BUSY_MILLISECONDS = 50


async def test_200_000_lines_are_followed_without_a_stutter_and_all_of_them_are_within_reach(
    database_url: str, page: Page
) -> None:
    """What a task of the main thread costs is its CPU time: on a machine that others use too the time on the clock,
    which `longtask` entries have, says how busy they are. Both are reported.
    """
    browser = page.context.browser
    assert browser is not None
    settings = {"preview_log_lines_per_second": 50_000, "lag_budget_bytes": 64 * 1024 * 1024}
    async with (
        server_running(database_url, **settings) as server,
        printing(server, page) as (client, generation, terminal),
    ):
        await browser.start_tracing(page=page, categories=["toplevel"])
        await page.evaluate(
            """() => { window.waits = [];
                new PerformanceObserver(list => waits.push(...list.getEntries().map(each => each.duration)))
                    .observe({type: 'longtask'}); }"""
        )
        for first in range(1, LINES, BURST):  # as fast as it can, but never faster than the database of a busy machine
            await count(client, generation, first, first + BURST - 1, "n")
            await expect(terminal.line(f"n {first + BURST - 1}")).to_be_visible(timeout=60_000)
        costs = task_costs(await browser.stop_tracing())
        waits: list[float] = await page.evaluate("waits")
        print(
            f"{len(costs)} tasks of the main thread; the longest took {costs[-1]:.1f} ms of CPU; "
            f"{len(waits)} lasted more than 50 ms on the clock, at most {max(waits, default=0):.0f} ms"
        )
        assert len(costs) > 1_000
        assert costs[-1] < BUSY_MILLISECONDS
        await expect(terminal.follow).to_have_text("Following")
        elements: int = await page.evaluate("() => document.querySelectorAll('*').length")
        assert elements < 1_500

        last = (await page_of(client, generation, tail=1))["last_line"]
        shown = await terminal.count.text_content()
        assert shown == f"{last:,} lines"
        assert last >= LINES
        for part in (0.5, 0.1, 0.9, 0.0):
            await terminal.scroll_to(part)
            await terminal.has_no_missing_rows()
            rows = await terminal.rows()
            assert abs(min(rows) / last - part) < 0.01
            for number, text in rows.items():
                assert text in (f"n {number - 2}", f"n {number - 3}") or number < 4, (number, text)

        await terminal.search.fill("n 123456")
        await expect(page.locator(".line[data-current] .text")).to_have_text("n 123456", timeout=60_000)
        await terminal.has_no_missing_rows()
        heap = await heap_bytes(page)
        print(f"{elements} elements, {heap / 1e6:.1f} MB of JavaScript heap")
        assert heap < 120e6


def task_costs(trace: bytes) -> list[float]:
    """Milliseconds of CPU of each task of the page's main thread, the shortest first."""
    events: list[dict[str, Any]] = json.loads(trace)["traceEvents"]
    main = {
        (event["pid"], event["tid"])
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    tasks = [
        event["tdur"] / 1000
        for event in events
        if event["name"] == "ThreadControllerImpl::RunTask" and (event["pid"], event["tid"]) in main and "tdur" in event
    ]
    return sorted(tasks)


async def heap_bytes(page: Page) -> float:
    """After a collection of garbage."""
    session = await page.context.new_cdp_session(page)
    await session.send("HeapProfiler.collectGarbage")
    usage = await session.send("Runtime.getHeapUsage")
    return float(usage["usedSize"])


# ── taking it away ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_is_copied_is_the_lines_also_those_that_are_not_in_the_document(
    database_url: str, page: Page
) -> None:
    async with server_running(database_url) as server, printing(server, page) as (client, generation, terminal):
        await say(client, generation, "\x1b[31mred\x1b[0m first", "  two  spaces\tand a tab")
        await count(client, generation, 1, 2000)
        await expect(terminal.line("line 2000")).to_be_visible()
        lines = printed(await stored_logs(client, generation))
        await terminal.press("Home")
        await expect(terminal.line("red first")).to_be_visible()
        await terminal.has_no_missing_rows()
        await select_from(page, "red first", 4)
        await terminal.scroll_to(0.55)
        await terminal.has_no_missing_rows()
        await terminal.scroll_to(1.0)
        await expect(terminal.line("line 2000")).to_be_visible()
        await extend_to(page, "line 2000", 6)
        await page.keyboard.press("Control+c")
        await expect(page.locator(".toast")).to_contain_text("Copied 2,00")
        first = lines.index("\x1b[31mred\x1b[0m first")
        expected = ["first", *lines[first + 1 : -1], "line 2"]
        assert (await terminal.clipboard()).split("\n") == expected

        await terminal.press("Control+a")
        await terminal.press("Control+c")
        await expect(page.locator(".toast").last).to_contain_text(
            f"Copied {(await stored_count(client, generation)):,}"
        )
        text = await download(client, generation)
        assert await terminal.clipboard() == text.replace("\x1b[31m", "").replace("\x1b[0m", "").removesuffix("\n")

        await page.get_by_role("button", name="Copy all shown").click()
        await expect(page.locator(".toast")).to_have_count(3)
        assert await terminal.clipboard() == text.replace("\x1b[31m", "").replace("\x1b[0m", "")

        async with page.expect_download() as started:
            await page.get_by_role("button", name="Download").click()
        path = await (await started.value).path()
        assert path.read_text("utf-8") == text


async def stored_count(client: httpx.AsyncClient, generation: str) -> int:
    return int((await page_of(client, generation, tail=1))["last_line"])


async def select_from(page: Page, text: str, offset: int) -> None:
    """Begin a selection in the line that has this text."""
    await page.evaluate(SELECT, [text, offset, False])


async def extend_to(page: Page, text: str, offset: int) -> None:
    await page.evaluate(SELECT, [text, offset, True])


SELECT = """([text, offset, isEnd]) => {
    const row = [...document.querySelectorAll('.line:not(.pinned) .text')].find(each => each.textContent === text);
    const walker = document.createTreeWalker(row, NodeFilter.SHOW_TEXT);
    let left = offset;
    while (walker.nextNode() && left > walker.currentNode.data.length) left -= walker.currentNode.data.length;
    const selection = getSelection();
    if (isEnd) selection.extend(walker.currentNode, left);
    else selection.setBaseAndExtent(walker.currentNode, left, row, row.childNodes.length);
    document.querySelector('.screen').focus({preventScroll: true});
}"""


# ── looking for something ──────────────────────────────────────────────────────────────────────────────────────


async def test_levels_sources_and_matches_are_filtered_by_the_service(database_url: str, page: Page) -> None:
    async with server_running(database_url) as server, printing(server, page) as (client, generation, terminal):
        await count(client, generation, 1, 1500)
        await say(client, generation, "ERROR: the dam is open", "WARNING: the water is high", "DEBUG: a look")
        await say(client, generation, "to the side", to="stderr")
        await count(client, generation, 1501, 3000)
        await expect(terminal.line("line 3000")).to_be_visible()

        texts = page.locator(".line:not(.pinned) .text")
        await page.get_by_role("button", name="Warnings and errors").click()
        await expect(texts).to_have_text(["ERROR: the dam is open", "WARNING: the water is high"])
        await say(client, generation, "ERROR: once more", "INFO: all is well")
        await expect(texts).to_have_text(["ERROR: the dam is open", "WARNING: the water is high", "ERROR: once more"])
        await page.get_by_role("button", name="Errors only").click()
        await expect(texts).to_have_text(["ERROR: the dam is open", "ERROR: once more"])
        await page.get_by_role("button", name="All levels").click()
        await page.get_by_label("Source").select_option("stderr")
        await expect(texts.last).to_have_text("to the side")
        await page.get_by_label("Source").select_option("")
        await expect(terminal.line("INFO: all is well")).to_be_visible()

        await terminal.search.fill("line 77")
        await expect(page.locator(".line[data-current] .text")).to_have_text("line 779")
        await expect(page.locator(".line[data-current] mark")).to_have_text("line 77")
        await expect(page.locator(".found")).to_have_text("11 of 11")
        await terminal.has_no_missing_rows()
        await terminal.search.press("Enter")
        await expect(page.locator(".line[data-current] .text")).to_have_text("line 77")
        await terminal.search.press("Shift+Enter")
        await expect(page.locator(".line[data-current] .text")).to_have_text("line 779")
        await page.get_by_role("button", name="Show only lines that have it").click()
        await expect(texts).to_have_text(["line 77", *(f"line {n}" for n in range(770, 780))])
        await terminal.search.press("Escape")
        await expect(page.locator("#line-count")).not_to_contain_text("of")
        await terminal.search.fill("no line has this")
        await expect(page.locator(".found")).to_have_text("No line has it")


# ── what can happen ────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_the_stream_skipped_stands_in_its_place_and_is_filled_on_request(
    database_url: str, page: Page
) -> None:
    lagging = {"lag_budget_bytes": 64 * 1024, "tail_bytes": 256 * 1024}
    async with server_running(database_url, **lagging) as server, printing(server, page) as (client, at, terminal):
        await count(client, at, 1, 100)
        await expect(terminal.line("line 100")).to_be_visible()
        session = await page.context.new_cdp_session(page)
        await session.send("Debugger.enable")
        await session.send("Debugger.pause")  # the page takes nothing any more, as when its machine is busy
        await count(client, at, 101, 40_000)
        await eventually(lambda: has_stored(client, at, "line 40000"), "all of it is stored")
        await session.send("Debugger.disable")
        await expect(terminal.line("line 40000")).to_be_visible()

        gap = page.locator(".line.gap")
        await terminal.press("Home")
        while not await gap.count():
            assert (await terminal.metrics())["end"] > 2, "nothing was skipped"
            await terminal.screen.evaluate("screen => { screen.scrollTop += screen.clientHeight - 40 }")
            await terminal.settled()
        await expect(gap.first).to_contain_text("skipped to keep up")
        first, last = (int(part) for part in str(await gap.first.get_attribute("data-gap")).split("-"))
        height = (await terminal.metrics())["height"]
        await gap.first.get_by_role("button").click()
        await expect(page.locator(f'.line[data-line="{first + 1}"]:not(.missing)')).to_be_visible()
        assert (await terminal.metrics())["height"] == height - 40 + 20 * (last - first + 1)
        told = {event["line"]: event["message"] for event in (await page_of(client, at, after=first - 1))["data"]}
        rows = await terminal.rows()
        assert rows == {number: told.get(number, rows[number]) for number in rows}
        assert first in rows


async def has_stored(client: httpx.AsyncClient, generation: str, text: str) -> bool:
    return bool((await page_of(client, generation, tail=1))["data"][0]["message"] == text)


async def test_a_killed_service_leaves_the_page_without_a_lost_or_doubled_row(database_url: str, page: Page) -> None:
    async with server_running(database_url, **FAST) as server:
        async with printing(server, page) as (client, generation, terminal):
            await count(client, generation, 1, 700)
            await expect(terminal.line("line 700")).to_be_visible()
            await terminal.press("Home")
            await terminal.has_no_missing_rows()
            await server.kill()
            await expect(page.locator("#connection")).to_contain_text("Reconnecting")
            await server.start()
            await expect(page.locator(".title-line .badge")).to_have_text("lost")
            await expect(terminal.ending).to_contain_text("The service was killed")
            seen = await terminal.visit_all()
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            told = {event["line"]: event["message"] for event in await stored_logs(client, generation)}
        assert seen == told
        assert {"line 1", "line 700"} <= set(seen.values())

        await page.get_by_role("button", name="Start again").click()
        await expect(page.locator(".line[data-heading='Attempt 2']")).to_be_visible()
        await expect(page.locator(".title-line .badge")).to_have_text("running")


HOSTILE = [
    "<script>document.title = 'mine'</script><img src=x onerror=\"document.title='mine'\">",
    "\x1b]0;a title\x07\x1b[2J\x1b[Hnothing is wiped \x1b[31;1mbut\x1b[0m coloured",
    "if access != 'user\u202e \u2066// Check if admin\u2069 \u2066' {",
    "\x1b[8mhidden?\x1b[0m \x1b]8;;http://elsewhere/\x07a link\x1b]8;;\x07",
    "a\u0000b\u0007c \x1b[9999999999mstill\x1b[38;2;999;0;0m here",
]


async def test_whatever_a_program_prints_is_text(database_url: str, page: Page) -> None:
    async with server_running(database_url) as server, printing(server, page) as (client, generation, terminal):
        await say(client, generation, *HOSTILE)
        await tell(client, generation, "sys.stdout.write('y' * 1_048_576 + '!\\n' + 'after it\\n'); sys.stdout.flush()")
        await expect(terminal.line("after it")).to_be_visible()
        texts = await page.locator(".line .text").all_text_contents()
        assert HOSTILE[0] in texts
        assert "nothing is wiped but coloured" in texts
        assert HOSTILE[2] in texts
        assert "hidden? a link" in texts
        assert "abc still here" in texts
        assert await page.locator(".line .turning").count() == 4
        assert await page.locator(".line script, .line img, .line a").count() == 0
        assert "mine" not in await page.title()

        long = terminal.line("yyyy")
        assert len(await long.locator(".text").text_content() or "") == 2_000
        await long.get_by_role("button").click()
        await expect(long.get_by_role("button")).to_contain_text(f"{1_048_577 - 18_000:,} more characters")
        await page.get_by_role("button", name="Wrap long lines").click()
        assert (await terminal.metrics())["height"] > 1_000
        await page.get_by_role("button", name="Show times").click()
        assert ":" not in (await page.locator(".line").first.get_attribute("data-gutter") or "")
        await page.get_by_role("button", name="Copy all shown").click()
        await expect(page.locator(".toast")).to_contain_text("Copied")
        assert "y" * 1_048_576 + "!" in (await terminal.clipboard()).split("\n")
