"""The page of runs under load: eighteen runs at once, a killed service, long chains, gaps, small screens."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

import httpx
import pytest
from playwright.async_api import Page, Request, WebSocket, expect

from tests.e2e.axe import violations
from tests.e2e.runs_page import card, chain, check_chain, ids, launch, opened, row, tell
from tests.support.contract import RUNS, Frame, events_of, finish
from tests.support.server import append, lease, running

pytestmark = pytest.mark.browser

EIGHTEEN = 18
BLOCK = 25  # rows; as in chain_view.js
# until all is said the page does not get round to listening
DEAF = """(url) => {
    for (const request = new XMLHttpRequest(); !request.responseText.includes("flood is over"); ) {
        request.open("GET", `${url}/events?types=tool_call_started`, false);
        request.send();
    }
}"""
LONGEST_TASK_MILLISECONDS = 50
PATIENT = {"lease_seconds": 600}  # leases are not renewed here, and the machine may be busy
FAST = {"retry_milliseconds": 50, **PATIENT}


class Connections:
    """What a page has open: its WebSockets, and its requests for streams."""

    def __init__(self, page: Page) -> None:
        self.sockets: list[WebSocket] = []
        self.streams: list[str] = []
        page.on("websocket", self._add)
        page.on("request", self._asked)

    def _add(self, socket: WebSocket) -> None:
        self.sockets.append(socket)

    def _asked(self, request: Request) -> None:
        if "/api/" in request.url and "/stream" in request.url:
            self.streams.append(request.url)

    @property
    def open(self) -> int:
        return sum(not socket.is_closed() for socket in self.sockets)


@asynccontextmanager
async def traced(page: Page) -> AsyncIterator[list[float]]:
    """The tasks of the page's main thread during the block, in milliseconds of its own CPU time: how long others kept
    the machine busy is not the page's doing.
    """
    browser = page.context.browser
    assert browser is not None
    await browser.start_tracing(
        page=page, categories=["toplevel", "disabled-by-default-devtools.timeline", "__metadata"]
    )
    found: list[float] = []
    try:
        yield found
    finally:
        events = json.loads(await browser.stop_tracing())["traceEvents"]
        found.extend(main_thread_tasks(events))


def main_thread_tasks(events: Sequence[dict[str, Any]]) -> list[float]:
    """Of the renderer that worked most: the page's."""
    names = {
        (event["pid"], event["tid"])
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    tasks: dict[tuple[int, int], list[float]] = {}
    for event in events:
        place = (event["pid"], event["tid"])
        if place in names and event["ph"] == "X" and event["name"].endswith("RunTask") and "tdur" in event:
            tasks.setdefault(place, []).append(event["tdur"] / 1000)
    return max(tasks.values(), key=sum, default=[])


async def test_eighteen_runs_at_once_share_a_connection_and_keep_their_places(database_url: str, page: Page) -> None:
    connections = Connections(page)
    async with running(database_url, **PATIENT) as server, httpx.AsyncClient(base_url=server.url) as client:
        await opened(page, server.url)
        async with traced(page) as tasks:
            await launch(page, "Write a haiku", count=EIGHTEEN, params={"step_seconds": 0.4})
            await expect(page.locator('#cards > [data-status="running"]')).to_have_count(EIGHTEEN)
            places = await ids(page, "#cards")
            assert len(set(places)) == EIGHTEEN
            selected = page.locator("#cards .card-title").nth(4)
            await selected.evaluate("(title) => getSelection().selectAllChildren(title)")
            for place in range(EIGHTEEN):
                shown = page.locator("#cards .card").nth(place)
                await expect(shown.locator(".card-words")).to_contain_text("This is a sample")
                await expect(shown.locator(".card-rate b")).not_to_have_text("0.0")
                await expect(shown.locator(".spark-line")).not_to_have_attribute("d", "")
            assert connections.open == 1
            assert await readers(client) == 1
            await expect(page.locator('#cards > [data-status="completed"]')).to_have_count(EIGHTEEN)
        assert await ids(page, "#cards") == places
        assert await page.evaluate("getSelection().toString()") == "Write a haiku"
        assert await ids(page, "#ended") == sorted(places, reverse=True)
        assert len(connections.sockets) == 1
        assert connections.streams == []
        listed = {run["id"]: run for run in (await client.get(RUNS)).json()["data"]}
        for run_id in places:
            await expect(card(page, run_id).locator(".card-tokens")).to_have_text(
                f"0 in · {listed[run_id]['tokens_out']} out"
            )
    assert tasks
    assert max(tasks) <= LONGEST_TASK_MILLISECONDS, sorted(tasks)[-5:]


async def readers(client: httpx.AsyncClient) -> float:
    """How many streams pages have open, by the server's own account; the tasks service follows by SSE."""
    lines = (await client.get("/metrics")).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith('tailrace_readers{transport="websocket"'))


async def test_the_page_goes_on_over_kill_9_with_no_row_lost_and_none_twice(database_url: str, page: Page) -> None:
    async with running(database_url, **FAST) as server, httpx.AsyncClient(base_url=server.url) as client:
        runs = [await lease(client, task=f"work {number}", runner=f"r{number}") for number in range(4)]
        (first, first_token), (second, second_token), (third, _), (fourth, fourth_token) = runs
        await opened(page, server.url, f"/runs/{first}")
        for run_id, token in runs:
            await append(client, run_id, token, 20)
        await finish(client, fourth, fourth_token, output="early")
        await expect(row(page, fourth)).to_be_visible()
        places = await ids(page, "#cards")
        assert sorted(places) == sorted(run_id for run_id, _ in runs)
        await expect(card(page, first).locator(".card-place")).to_have_text("n · iteration 20")

        await server.kill()
        await expect(page.locator("#connection")).to_have_attribute("data-phase", "reconnecting")
        await expect(page.locator(".card .pill:visible")).to_have_count(0)  # nobody knows now whether they stall
        await server.start()
        created = await client.post(RUNS, json={"task": "came later", "mode": "queued", "runner": "nobody"})
        await append(client, first, first_token, 30)
        await finish(client, second, second_token, output="done")
        await expect(page.locator("#connection")).to_have_attribute("data-phase", "live")
        await expect(card(page, first).locator(".card-place")).to_have_text("n · iteration 30")
        await expect(card(page, created.json()["id"]).locator(".card-title")).to_have_text("came later")
        await expect(row(page, second).locator(".badge")).to_have_text("completed")
        await expect(card(page, third).locator(".badge")).to_have_text("running")

        await finish(client, first, first_token, output="at last")
        await expect(page.locator("#run .badge")).to_have_text("completed")
        assert await ids(page, "#ended") == sorted([first, second, fourth], reverse=True)
        # `came later` has the place of the run that had ended, and no other card has moved
        assert await ids(page, "#cards") == [created.json()["id"] if one == fourth else one for one in places]
        check_chain(await chain(page), await events_of(client, first))


async def test_a_page_that_comes_later_shows_runs_as_those_that_were_there(database_url: str, page: Page) -> None:
    async with running(database_url, **PATIENT) as server, httpx.AsyncClient(base_url=server.url) as client:
        run_id, token = await lease(client, task="long under way")
        for worker, tokens in (("a", 40), ("b", 2), ("a", 50)):
            update = {
                "type": "node_update",
                "node": "writer",
                "worker_id": worker,
                "tokens_out": tokens,
                "tokens_in": 5,
            }
            await tell(client, run_id, token, update)
        await opened(page, server.url)
        await expect(card(page, run_id).locator(".card-place")).to_have_text("a: writer")
        await expect(card(page, run_id).locator(".card-tokens")).to_have_text("10 in · 52 out")
        await tell(client, run_id, token, {**update, "worker_id": "b", "tokens_out": 7})
        await expect(card(page, run_id).locator(".card-tokens")).to_have_text("10 in · 57 out")


async def test_a_chain_of_ten_thousand_events_is_whole_and_stays_light(database_url: str, page: Page) -> None:
    async with running(database_url, **PATIENT) as server, httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        run_id, token = await lease(client, task="long")
        for start in range(0, 10_000, 1_000):
            calls = [{"type": "tool_call_started", "tool": f"tool {n}"} for n in range(start, start + 1_000)]
            await tell(client, run_id, token, *calls)
        await page.goto("about:blank")
        async with traced(page) as tasks:
            await opened(page, server.url, f"/runs/{run_id}")
            await expect(page.locator(".chain-head .nums")).to_have_text("10,002")
            await expect(page.locator(".group-facts")).to_have_text("10,002 events")
            assert await page.locator(".ev").count() < 500
            await page.get_by_role("button", name="Follow").click()
            await expect(page.get_by_text("tool 9999", exact=True)).to_be_in_viewport()
            await tell(client, run_id, token, {"type": "tool_call_started", "tool": "the newest"})
            await expect(page.get_by_text("the newest", exact=True)).to_be_in_viewport()
            await finish(client, run_id, token)
            await expect(page.locator("#run .badge")).to_have_text("completed")
            await page.locator("#run").evaluate("(run) => (run.scrollTop = run.scrollHeight / 2)")
            await expect(page.get_by_role("button", name="Follow")).to_have_attribute("aria-pressed", "false")
            assert await page.locator(".ev").count() < 500
        stored = [frame.id for frame in await all_events_of(client, run_id)]
        for place, positions in (await walked(page, 37)).items():
            assert positions == stored[place * BLOCK : (place + 1) * BLOCK]
    assert max(tasks) <= LONGEST_TASK_MILLISECONDS, sorted(tasks)[-5:]


async def all_events_of(client: httpx.AsyncClient, run_id: str) -> list[Frame]:
    """More than one answer of the polling twin holds."""
    answer = await client.get(f"{RUNS}/{run_id}/events", headers={"accept": "application/x-ndjson"})
    frames = [Frame(**json.loads(line)) for line in answer.text.splitlines()]
    return [frame for frame in frames if frame.event["type"] != "bookmark"]


async def walked(page: Page, step: int) -> dict[int, list[str]]:
    """The positions in every so many blocks of a chain of single events, by the number of the block."""
    found: dict[str, list[str]] = await page.evaluate(
        """async (step) => {
            const seen = {};
            const blocks = [...document.querySelectorAll(".block")];
            for (let place = 0; place < blocks.length; place += step) {
                blocks[place].scrollIntoView();
                while (!blocks[place].firstElementChild) await new Promise(requestAnimationFrame);
                seen[place] = [...blocks[place].children].map((row) => row.dataset.first);
            }
            return seen;
        }""",
        step,
    )
    return {int(place): positions for place, positions in found.items()}


async def test_what_a_page_that_fell_behind_was_not_sent_has_a_row_in_its_place(database_url: str, page: Page) -> None:
    async with (
        running(database_url, lag_budget_bytes=20_000, **PATIENT) as server,
        httpx.AsyncClient(base_url=server.url, timeout=60) as client,
    ):
        run_id, token = await lease(client, task="too fast")
        await opened(page, server.url, f"/runs/{run_id}")
        await tell(client, run_id, token, {"type": "llm_text_delta", "text": "before"})
        await expect(page.locator(".ev-text", has_text="before")).to_be_visible()
        piece = {"type": "llm_text_delta", "text": "x" * 100_000}
        last = {"type": "tool_call_started", "tool": "flood is over"}  # critical: it is not skipped itself

        async with page.expect_request(lambda request: "types=tool_call_started" in request.url):
            deaf = asyncio.create_task(page.evaluate(DEAF, f"{RUNS}/{run_id}"))
        for _ in range(15):  # 12 MB, more than the buffers on the way hold
            await tell(client, run_id, token, *[piece] * 8)
        await tell(client, run_id, token, last)
        await deaf
        gap = page.locator('.ev[data-kind="gap"]')
        await expect(gap.first).to_contain_text("skipped, since this page fell behind")
        await expect(page.locator(".ev", has_text="flood is over")).to_be_visible()
        await gap.first.get_by_role("button", name="Load them").click()
        await expect(gap).to_have_count(0)
        check_chain(await chain(page), await all_events_of(client, run_id))


async def test_only_changes_of_state_are_said_aloud(database_url: str, page: Page) -> None:
    async with running(database_url, **PATIENT) as server, httpx.AsyncClient(base_url=server.url) as client:
        run_id, token = await lease(client, task="Speak")
        await opened(page, server.url)
        await page.evaluate(
            """() => {
                window.said = [];
                const hear = () => said.push(document.getElementById("announcements")?.textContent);
                const whatever = {childList: true, subtree: true, characterData: true};
                new MutationObserver(hear).observe(document.body, whatever);
            }"""
        )
        await append(client, run_id, token, 30)
        await expect(card(page, run_id).locator(".card-place")).to_have_text("n · iteration 30")
        await finish(client, run_id, token)
        await expect(page.locator("#announcements")).to_have_text("Speak: completed.")
        assert set(await page.evaluate("said")) - {None, ""} == {"Speak: completed."}


async def test_a_phone_shows_either_the_list_or_a_run_and_nothing_is_cut_off(database_url: str, page: Page) -> None:
    await page.set_viewport_size({"width": 360, "height": 740})
    async with running(database_url, **PATIENT) as server, httpx.AsyncClient(base_url=server.url) as client:
        run_id, token = await lease(client, task="A rather long prompt " * 20)
        question = {"type": "client_input_requested", "prompt": "W" * 300, "options": ["x" * 200, "y"]}
        await opened(page, server.url)
        await tell(client, run_id, token, {"type": "node_update", "node": "n" * 80, "snippet": "s" * 200}, question)
        await expect(card(page, run_id).locator(".question")).to_be_visible()
        assert await overflow(page) == 0
        await card(page, run_id).get_by_role("link", name="Expand").click()
        await expect(page.locator("#runs-list")).to_be_hidden()
        await expect(page.locator("#run .ev").first).to_be_visible()
        assert await overflow(page) == 0
        await page.get_by_role("link", name="All runs").click()
        await expect(page.locator("#runs-list")).to_be_visible()
        await expect(card(page, run_id).get_by_role("link", name="Expand")).to_be_focused()


async def overflow(page: Page) -> int:
    """By how many pixels the page is wider than its window."""
    pixels: int = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return pixels


async def test_arrows_go_from_card_to_card_and_escape_closes(database_url: str, page: Page) -> None:
    async with running(database_url, **PATIENT) as server, httpx.AsyncClient(base_url=server.url) as client:
        body = {"task": "wait", "mode": "queued", "runner": "nobody", "count": 3}
        await client.post(f"{RUNS}/batch", json=body)
        await opened(page, server.url)
        await expect(page.locator("#cards .card")).to_have_count(3)
        first, second, third = await ids(page, "#cards")
        await card(page, first).get_by_role("link", name="Expand").focus()
        await page.keyboard.press("ArrowRight")
        await expect(card(page, second).get_by_role("link", name="Expand")).to_be_focused()
        await page.keyboard.press("ArrowRight")
        await page.keyboard.press("Enter")
        await expect(page).to_have_url(f"{server.url}/runs/{third}")
        await expect(page.locator("#run-title")).to_be_focused()
        await page.keyboard.press("Escape")
        await expect(page).to_have_url(f"{server.url}/runs")
        await expect(card(page, third).get_by_role("link", name="Expand")).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_no_state_of_the_page_keeps_anybody_out(
    database_url: str, page: Page, scheme: Literal["light", "dark"]
) -> None:
    await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    async with running(database_url, **PATIENT) as server, httpx.AsyncClient(base_url=server.url) as client:
        await opened(page, server.url)
        assert await violations(page) == []  # nothing there yet
        asking, token = await lease(client, task="asks", runner="asks")
        trouble = {"type": "error", "fatal": False, "code": "upstream_429", "message": "busy"}
        question = {"type": "client_input_requested", "prompt": "Which?", "options": ["Rhine", "Elbe"]}
        pieces = [{"type": "llm_text_delta", "stream_id": "worker:1", "text": text} for text in ("Once ", "upon")]
        await tell(
            client, asking, token, {"type": "node_update", "node": "n", "snippet": "s"}, trouble, *pieces, question
        )
        failed, other = await lease(client, task="fails", runner="fails")
        await finish(client, failed, other, status="failed", error="out of luck")
        await launch(page, "goes on", count=3, params={"step_seconds": 60})
        await expect(page.locator('#cards > [data-status="running"]')).to_have_count(3)
        await expect(card(page, asking).locator(".question")).to_be_visible()
        await page.get_by_label("Prompt").fill("")
        await page.locator("#go").click()  # a fault is shown
        assert await violations(page) == []
        await card(page, asking).get_by_role("link", name="Expand").click()
        await page.get_by_role("button", name="Raw JSON of llm text delta").click()
        await page.locator(".run-more summary").click()
        assert await violations(page) == []
        await row(page, failed).get_by_role("link").click()
        await expect(page.locator("#run .notice")).to_have_text("out of luck")
        await page.locator("#run").get_by_role("button", name="Delete").click()
        assert await violations(page) == []
