"""The pages of tasks, in a browser, against a service that is killed, frozen and restored under them."""

import asyncio
import os
import re
import subprocess
import sys

import httpx
import pytest
from playwright.async_api import Locator, Page, expect

from tests.support.server import ROOT, append, lease, running
from tests.support.tasks import NO_SUCH_TASK, TASKS, create, create_many, listed, patch

pytestmark = pytest.mark.browser

FAST = {"retry_milliseconds": 50}
HOSTILE = "<img src=x onerror=alert(1)> \"'&amp; <script>alert(2)</script>"
STEPS = [
    {
        "name": "Read the brief",
        "status": "done",
        "started_at": "2026-11-28T10:00:00Z",
        "finished_at": "2026-11-28T10:00:19Z",
    },
    {"name": HOSTILE, "status": "running", "message": "Pricing table"},
    {"name": "Check it", "status": "pending"},
]


async def is_live(page: Page) -> None:
    await expect(page.locator("#connection")).to_contain_text("Live")


def row_of(page: Page, title: str) -> Locator:
    return page.locator("#tasks > li").filter(has=page.get_by_role("link", name=title, exact=True))


async def titles(page: Page) -> list[str]:
    found: list[str] = await page.locator("#tasks .row-title").all_text_contents()
    return found


# ── the board ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_board_moves_by_itself_and_every_row_stays_where_it_is(database_url: str, page: Page) -> None:
    async with running(database_url) as server, httpx.AsyncClient(base_url=server.url) as client:
        await page.goto(f"{server.url}/tasks")
        await is_live(page)
        await expect(page.get_by_text("No tasks yet")).to_be_visible()

        first, second = await create(client, title="first"), await create(client, title="second", kind="import")
        await expect(page.locator("#tasks .row-title")).to_have_text(["second", "first"])
        await expect(row_of(page, "second").locator(".pill")).to_have_text("import")
        await page.evaluate("for (const row of document.querySelectorAll('#tasks > li')) row.wasHere = true")

        await patch(client, first["id"], status="running", progress={"done": 40, "total": 100, "unit": "files"})
        row = row_of(page, "first")
        await expect(row.locator(".badge")).to_have_text("running")
        await expect(row.locator(".task-progress")).to_contain_text("40 of 100 files")
        await expect(row.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "40")
        await patch(client, second["id"], status="failed", error="the disk is full")
        await expect(row_of(page, "second")).to_contain_text("the disk is full")
        await patch(client, first["id"], status="succeeded")
        await expect(row.locator(".badge")).to_have_text("succeeded")
        await expect(page.locator("#tasks .row-title")).to_have_text(["second", "first"])
        assert await page.evaluate("[...document.querySelectorAll('#tasks > li')].every((row) => row.wasHere)")

        await expect(page.locator("#filters a")).to_have_text(
            ["all2", "queued0", "running0", "waiting input0", "succeeded1", "failed1", "cancelled0"]
        )
        (await client.delete(f"{TASKS}/{second['id']}")).raise_for_status()
        await expect(page.locator("#tasks .row-title")).to_have_text(["first"])


async def test_killed_and_restarted_under_the_board_no_row_is_lost_and_none_is_twice(
    database_url: str, page: Page
) -> None:
    async with running(database_url, **FAST) as server, httpx.AsyncClient(base_url=server.url) as client:
        before = await create_many(client, 20)
        await page.goto(f"{server.url}/tasks")
        await expect(page.locator("#tasks > li")).to_have_count(20)
        await is_live(page)
        await patch(client, before[0]["id"], status="running")
        await server.kill()
        await expect(page.locator("#connection")).to_contain_text("Reconnecting")
        await expect(page.locator("#tasks > li")).to_have_count(20)  # what is known stays to be seen

        await server.start()
        await create_many(client, 5)
        await patch(client, before[0]["id"], status="succeeded")
        (await client.delete(f"{TASKS}/{before[1]['id']}")).raise_for_status()
        await is_live(page)
        await expect(page.locator("#tasks > li")).to_have_count(24)
        await expect(page.locator("#tasks .badge[data-status=succeeded]")).to_have_count(1)
        tasks, _ = await listed(client)
        assert await titles(page) == [task["title"] for task in tasks]
        shown = await page.locator("#tasks > li").evaluate_all("rows => rows.map((row) => row.dataset.key)")
        assert shown == [task["id"] for task in tasks]


async def test_a_filter_is_in_the_address_and_reaches_older_tasks(database_url: str, page: Page) -> None:
    async with running(database_url) as server, httpx.AsyncClient(base_url=server.url) as client:
        old = await create(client, title="the oldest")
        await patch(client, old["id"], status="failed", error="long ago")
        await create_many(client, 120)
        await page.goto(f"{server.url}/tasks")
        await expect(page.locator("#tasks > li")).to_have_count(100)
        await expect(page.locator("#filters a").first).to_have_text("all100+")  # there are more, and it says so

        await page.get_by_role("link", name="failed").click()
        await expect(page).to_have_url(f"{server.url}/tasks?status=failed")
        await expect(page.locator("#tasks .row-title")).to_have_text(["the oldest"])
        await expect(page.get_by_role("link", name="failed")).to_have_attribute("aria-current", "page")
        newer = await create(client, title="newer")
        await patch(client, newer["id"], status="failed")
        await expect(page.locator("#tasks .row-title")).to_have_text(["newer", "the oldest"])

        await page.reload()
        await expect(page.locator("#tasks .row-title")).to_have_text(["newer", "the oldest"])
        await page.get_by_role("link", name="cancelled").click()
        await expect(page.get_by_text("No task is cancelled")).to_be_visible()
        await page.go_back()
        await expect(page.locator("#tasks .row-title")).to_have_text(["newer", "the oldest"])
        await page.get_by_role("link", name="all").first.click()
        await page.get_by_role("button", name="Show older tasks").click()
        await expect(page.locator("#tasks > li")).to_have_count(122)
        await expect(page.locator("#filters a").first).to_have_text("all122")
        await expect(page.get_by_role("button", name="Show older tasks")).to_be_hidden()


async def test_a_task_is_made_cancelled_and_deleted(database_url: str, page: Page) -> None:
    async with running(database_url) as server, httpx.AsyncClient(base_url=server.url) as client:
        await page.goto(f"{server.url}/tasks")
        await page.get_by_role("button", name="New task").first.click()
        await page.get_by_label("Title").fill(HOSTILE)
        await page.get_by_label("Kind").fill("poem")
        await page.get_by_role("button", name="Make the task").click()
        await expect(page.get_by_role("heading", name=HOSTILE)).to_be_visible()
        ((task,), _) = await listed(client)
        assert (task["title"], task["kind"]) == (HOSTILE, "poem")
        await expect(page).to_have_url(f"{server.url}{TASKS.removeprefix('/api/v1')}/{task['id']}")

        await page.get_by_role("button", name="Cancel").click()
        await page.get_by_role("button", name="Let it go on").click()
        await expect(page.locator(".task-head .badge")).to_have_text("queued")
        await page.get_by_role("button", name="Cancel").click()
        await page.get_by_role("button", name="Cancel the task").click()
        await expect(page.locator(".task-head .badge")).to_have_text("cancelled")
        await expect(page.locator("#connection")).to_contain_text("Ended: cancelled")
        await page.get_by_role("link", name="All tasks").click()
        await row_of(page, HOSTILE).get_by_role("button", name="Delete").click()
        await page.get_by_role("button", name="Delete the task").click()
        await expect(page.get_by_text("No tasks yet")).to_be_visible()
        assert await listed(client) == ([], (await listed(client))[1])


async def test_what_goes_wrong_with_a_request_is_said_and_can_be_tried_again(database_url: str, page: Page) -> None:
    async with running(database_url) as server:
        await page.goto(f"{server.url}/tasks")
        await is_live(page)
        await page.get_by_role("button", name="New task").first.click()
        await page.get_by_label("Title").fill("later")
        await page.route(
            f"**{TASKS}", lambda route: route.abort() if route.request.method == "POST" else route.continue_()
        )
        await page.get_by_role("button", name="Make the task").click()
        await expect(page.get_by_role("dialog").get_by_role("alert")).not_to_be_empty()
        await page.unroute(f"**{TASKS}")
        await page.get_by_role("button", name="Make the task").click()
        await expect(page.get_by_role("heading", name="later")).to_be_visible()


async def test_only_changes_of_state_are_said_aloud(database_url: str, page: Page) -> None:
    async with running(database_url) as server, httpx.AsyncClient(base_url=server.url) as client:
        task = await create(client, title="said")
        await page.goto(f"{server.url}/tasks")
        await is_live(page)
        await page.evaluate("""() => {
            window.said = [];
            const region = () => document.getElementById("announcements");
            new MutationObserver(() => { if (region()?.textContent) said.push(region().textContent); })
                .observe(document.body, {subtree: true, childList: true, characterData: true});
        }""")
        for done in range(1, 6):
            await patch(client, task["id"], status="running", progress={"done": done, "total": 6})
        await expect(row_of(page, "said")).to_contain_text("5 of 6")
        await patch(client, task["id"], status="failed")
        await expect(page.locator("#announcements")).to_have_text("said: failed.")
        assert set(await page.evaluate("said")) == {"said: failed."}


async def test_the_board_is_worked_by_the_keyboard(database_url: str, page: Page) -> None:
    async with running(database_url) as server, httpx.AsyncClient(base_url=server.url) as client:
        await create(client, title="reached")
        await page.goto(f"{server.url}/tasks")
        await expect(row_of(page, "reached")).to_be_visible()
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        await page.keyboard.press("Enter")
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("button", name="New task")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.get_by_label("Title")).to_be_focused()
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("button", name="New task")).to_be_focused()
        for _ in range(8):  # the filters, then the row
            await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="reached")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="reached")).to_be_visible()
        await expect(page.locator("#main")).to_be_focused()


async def test_the_chip_notices_a_service_that_has_fallen_silent(database_url: str, page: Page) -> None:
    async with running(database_url, heartbeat_seconds=0.2, **FAST) as server:
        await page.goto(f"{server.url}/tasks")
        await is_live(page)
        server.freeze()  # the connection stays open, and nothing comes
        await expect(page.locator("#connection")).to_contain_text("Reconnecting")
        await page.locator("#connection").click()
        await expect(page.locator("#connections")).to_contain_text("Tasks")
        server.thaw()
        await is_live(page)
        await expect(page.locator("#connections li")).to_contain_text("over a WebSocket")


async def test_the_board_starts_over_when_the_log_does(database_url: str, page: Page) -> None:
    async with running(database_url, **FAST) as server, httpx.AsyncClient(base_url=server.url) as client:
        await create(client, title="before")
        await page.goto(f"{server.url}/tasks")
        await is_live(page)
        environment = {**os.environ, "TAILRACE_DATABASE_URL": database_url}
        command = [sys.executable, "-m", "services.cli", "epoch", "new"]
        await asyncio.to_thread(subprocess.run, command, env=environment, cwd=ROOT, check=True, capture_output=True)
        await create(client, title="after")
        await expect(page.locator("#tasks .row-title")).to_have_text(["after", "before"])


async def test_without_websockets_the_board_is_live_all_the_same(database_url: str, page: Page) -> None:
    async with running(database_url, websockets=False) as server, httpx.AsyncClient(base_url=server.url) as client:
        await page.goto(f"{server.url}/tasks")
        await is_live(page)
        await create(client, title="over server-sent events")
        await expect(row_of(page, "over server-sent events")).to_be_visible()


# ── one task ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_page_of_a_task_shows_it_through_to_its_end(database_url: str, page: Page) -> None:
    async with running(database_url) as server, httpx.AsyncClient(base_url=server.url) as client:
        task = await create(client, title="Build the page", kind="generation", generation_id="landing-7")
        await page.goto(f"{server.url}/tasks/{task['id']}")
        await is_live(page)
        await expect(page).to_have_title("Build the page · Tailrace")
        await expect(page.locator(".task-head .badge")).to_have_text("queued")
        await expect(page.get_by_role("link", name="Open the preview")).to_have_attribute("href", "/previews/landing-7")

        progress = {"done": 1, "total": 3, "unit": "steps", "message": HOSTILE}
        await patch(client, task["id"], status="running", steps=STEPS, progress=progress)
        await expect(page.locator(".far")).to_contain_text("33 %")
        await expect(page.locator(".far")).to_contain_text("1 of 3 steps")
        await expect(page.locator(".far")).to_contain_text(HOSTILE)
        await expect(page.locator(".steps b")).to_have_text(["Read the brief", HOSTILE, "Check it"])
        await expect(page.locator(".steps .badge")).to_have_text(["done", "running", "pending"])
        await expect(page.locator(".steps li").first).to_contain_text("19 s")

        await patch(client, task["id"], attempt=2)
        await expect(page.get_by_text("attempt 2")).to_be_visible()
        await patch(client, task["id"], status="succeeded", progress={"done": 3}, result={"html": HOSTILE})
        await expect(page.locator("#outcome pre")).to_contain_text("<img src=x onerror=alert(1)>")
        await expect(page.locator("#connection")).to_contain_text("Ended: succeeded")
        await expect(page.get_by_role("button", name="Cancel")).to_be_hidden()
        await page.get_by_text("Raw JSON").click()
        await expect(page.get_by_label("The task as JSON")).to_contain_text('"rev": 4')


async def test_a_task_shows_its_runs_as_they_go(database_url: str, page: Page) -> None:
    async with running(database_url) as server, httpx.AsyncClient(base_url=server.url) as client:
        task = await create(client, title="of two runs")
        await page.goto(f"{server.url}/tasks/{task['id']}")
        await is_live(page)
        first, token = await lease(client, task="the first", task_id=task["id"])
        run = page.locator(".run-row").filter(has_text="the first")
        await expect(run.locator(".badge")).to_have_text("running")
        await expect(run.get_by_role("link")).to_have_attribute("href", f"/runs/{first}")
        second, other = await lease(client, task=HOSTILE, task_id=task["id"])
        await expect(page.locator(".run-row")).to_have_count(2)
        await append(client, first, token)
        for run_id, held, status in [(first, token, "completed"), (second, other, "failed")]:
            body = {"status": status, "error": "it broke" if status == "failed" else None}
            url = f"/api/v1/runs/{run_id}/finish"
            (await client.post(url, json=body, headers={"tailrace-lease": held})).raise_for_status()
        await expect(run.locator(".badge")).to_have_text("completed")
        await expect(page.locator(".run-row").filter(has_text=HOSTILE)).to_contain_text("it broke")
        await expect(page.locator(".task-head .badge")).to_have_text("failed")
        await expect(page.locator("#outcome .notice")).to_have_text("it broke")
        await expect(page.locator(".far")).to_contain_text("2 of 2 runs")


async def test_a_page_of_a_task_goes_on_over_kill_9(database_url: str, page: Page) -> None:
    async with running(database_url, **FAST) as server, httpx.AsyncClient(base_url=server.url) as client:
        task = await create(client, title="watched", status="running")
        await page.goto(f"{server.url}/tasks/{task['id']}")
        await is_live(page)
        await server.kill()
        await expect(page.locator("#connection")).to_contain_text(re.compile("Reconnecting"))
        await expect(page.get_by_role("heading", name="watched")).to_be_visible()
        await server.start()
        await patch(client, task["id"], progress={"done": 7, "total": 9}, status="succeeded")
        await expect(page.locator(".far")).to_contain_text("7 of 9")
        await expect(page.locator("#connection")).to_contain_text("Ended: succeeded")


async def test_a_task_that_is_not_there_or_no_more_is_told_in_words(database_url: str, page: Page) -> None:
    async with running(database_url) as server, httpx.AsyncClient(base_url=server.url) as client:
        for strange in [NO_SUCH_TASK, "nonsense", "%3Cimg%20src%3Dx%3E"]:
            await page.goto(f"{server.url}/tasks/{strange}")
            await expect(page.get_by_text("There is no such task")).to_be_visible()
        task = await create(client, title="to go")
        await page.goto(f"{server.url}/tasks/{task['id']}")
        await is_live(page)
        (await client.delete(f"{TASKS}/{task['id']}")).raise_for_status()
        await expect(page.get_by_text("This task has been deleted")).to_be_visible()
        await page.get_by_role("link", name="All tasks").last.click()
        await expect(page.get_by_text("No tasks yet")).to_be_visible()


async def test_how_long_it_takes_is_only_said_where_it_can_be_known(database_url: str, page: Page) -> None:
    async with running(database_url) as server, httpx.AsyncClient(base_url=server.url) as client:
        task = await create(client, title="steady", status="running")
        await page.goto(f"{server.url}/tasks/{task['id']}")
        await is_live(page)
        for done in range(1, 7):
            await patch(client, task["id"], progress={"done": done, "total": 100_000})
            await asyncio.sleep(0.5)  # the pace itself, not a wait
        await expect(page.locator("#left")).to_have_text(re.compile(r"about \d+ h left"))
        await page.reload()  # out of its history
        await expect(page.locator("#left")).to_have_text(re.compile(r"about \d+ h left"))
        await patch(client, task["id"], progress={"total": None})
        await expect(page.locator("#left")).to_be_empty()
