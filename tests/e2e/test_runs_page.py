"""The page of runs: launching, watching, looking at one in full, and acting on it."""

import json
from typing import Any

import httpx
import pytest
from playwright.async_api import Page, expect

from tests.e2e.runs_page import card, chain, check_chain, ids, launch, opened, row, tell
from tests.support.contract import RUNS, events_of, finish
from tests.support.server import append, lease, running

pytestmark = pytest.mark.browser

PATIENT = {"lease_seconds": 600}  # leases are not renewed here, and the machine may be busy


# ── launching ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_run_is_launched_by_keyboard_and_watched_to_its_end(database_url: str, page: Page) -> None:
    async with running(database_url, **PATIENT) as server, httpx.AsyncClient(base_url=server.url) as client:
        await opened(page, server.url)
        await expect(page.get_by_text("No run has ended yet")).to_be_visible()
        await page.get_by_label("Prompt").fill("Say something")
        await page.keyboard.press("Control+Enter")
        shown = page.locator("#cards .card")
        await expect(shown.locator(".card-title")).to_have_text("Say something")
        await expect(shown.locator(".badge")).to_have_text("running")
        await expect(shown.locator(".card-place")).to_contain_text("writer · sample · iteration")
        await expect(shown.locator(".card-words")).to_contain_text("This is a sample")
        await expect(shown.locator(".card-rate b")).not_to_have_text("0.0")
        await expect(shown.locator(".badge")).to_have_text("completed")
        await expect(shown.get_by_role("button", name="Cancel")).to_be_hidden()

        [run] = (await client.get(RUNS)).json()["data"]
        ended = row(page, run["id"])
        await expect(ended.locator(".badge")).to_have_text("completed")
        await expect(ended.locator(".ended-text")).to_have_text(run["snippet"])
        await expect(ended.locator(".ended-facts")).to_contain_text(f"sample · 0 in, {run['tokens_out']} out · ")
        assert await ids(page, "#cards") == [run["id"]]  # it keeps its place until it is cleared
        await page.get_by_role("button", name="Clear the finished").click()
        await expect(page.locator("#cards .card")).to_have_count(0)
        await expect(ended).to_be_visible()


async def test_what_is_wrong_with_a_launch_is_said_where_it_is_wrong(database_url: str, page: Page) -> None:
    async with (
        running(database_url, runs_inline_capacity=0) as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        await opened(page, server.url)
        await page.locator("#count").fill("19")
        await page.locator("#params").evaluate("(field) => (field.value = '[1]')")
        await page.get_by_label("Prompt").fill(" ")
        await page.locator("#go").click()
        for field, fault in (
            ("task", "Say what is to be done."),
            ("count", "1 to 18 runs at once."),
            ("params", 'A JSON object, such as {"words": 20}.'),
        ):
            await expect(page.locator(f"#{field}")).to_have_attribute("aria-invalid", "true")
            await expect(page.locator(f"#{field}-fault")).to_have_text(fault)
        await expect(page.get_by_label("Prompt")).to_be_focused()
        assert (await client.get(RUNS)).json()["data"] == []

        await page.locator("#params").evaluate("(field) => (field.value = '')")
        await launch(page, "no room for it")  # the service's own words
        await expect(page.get_by_role("alert")).to_contain_text(
            "Nothing was launched: no room for another inline run here"
        )
        await expect(page.locator("[aria-invalid]")).to_have_count(0)


async def test_a_runner_that_is_not_set_up_cannot_be_chosen_and_the_page_says_why(
    database_url: str, page: Page
) -> None:
    async with running(database_url, **PATIENT) as server:
        await opened(page, server.url)
        await expect(page.locator('#runner option[value="openai"]')).to_have_attribute("disabled", "")
        await expect(page.locator("#runner-hint")).to_contain_text(
            "set TAILRACE_OPENAI_BASE_URL and TAILRACE_OPENAI_MODEL"
        )


async def test_runs_of_ones_own_workers_are_queued_with_session_and_task(database_url: str, page: Page) -> None:
    async with running(database_url, **PATIENT) as server, httpx.AsyncClient(base_url=server.url) as client:
        task = (await client.post("/api/v1/tasks", json={"title": "Read all"})).json()
        await opened(page, server.url)
        await page.get_by_label("Runner", exact=True).select_option("other")
        await page.get_by_label("Its name").fill("directory")
        await page.get_by_label("Workers", exact=True).fill("3")
        await page.locator(".launch-more summary").click()
        await page.get_by_label("Session", exact=True).fill("colony-7")
        await page.get_by_label("Task", exact=True).fill(task["id"])
        await launch(page, "read it", count=3, params={"pause": 1})
        await expect(page.locator("#cards .card")).to_have_count(3)
        runs = (await client.get(RUNS)).json()["data"]
        for run in runs:
            assert [run[field] for field in ("runner", "workers", "session_id", "task_id", "params", "status")] == [
                *("directory", 3, "colony-7", task["id"], {"pause": 1}, "queued")
            ]
        assert await ids(page, "#cards") == sorted(run["id"] for run in runs)


# ── one run in full ────────────────────────────────────────────────────────────────────────────────────────────


async def test_expand_shows_all_events_by_worker_as_the_api_has_them(database_url: str, page: Page) -> None:
    async with running(database_url, **PATIENT) as server, httpx.AsyncClient(base_url=server.url) as client:
        run_id, token = await lease(client, task="Look at me", session_id="s")
        await opened(page, server.url)
        await tell(
            client,
            run_id,
            token,
            *({"type": "node_update", "node": "writer", "worker_id": "writer-1", "tokens_out": n} for n in range(1, 6)),
            {"type": "llm_text_delta", "stream_id": "worker:7", "text": "Once "},
            {"type": "llm_text_delta", "stream_id": "worker:7", "text": "upon a time"},
            {"type": "error", "fatal": False, "code": "upstream_429", "message": "the model was busy"},
            {"type": "tool_call_started", "stream_id": "worker:7", "tool": "read_file", "path": "README.md"},
        )
        await card(page, run_id).get_by_role("link", name="Expand").click()
        await expect(page).to_have_url(f"{server.url}/runs/{run_id}")
        await expect(page.get_by_role("heading", name="Look at me", level=2)).to_be_focused()
        await expect(page.locator(".group")).to_have_count(3)
        growing = page.locator('[data-worker="7"] .ev').first
        await expect(growing.locator(".ev-text")).to_have_text("Once upon a time")

        await growing.locator(".ev-text").evaluate("(text) => getSelection().selectAllChildren(text)")
        await tell(client, run_id, token, {"type": "llm_text_delta", "stream_id": "worker:7", "text": "Another"})
        await expect(page.locator('[data-worker="7"] .ev')).to_have_count(3)  # not above the call of the tool
        assert await page.evaluate("getSelection().toString()") == "Once upon a time"

        await finish(client, run_id, token, output="The end.")
        await expect(page.get_by_role("region", name="Output")).to_have_text("The end.")
        await expect(page.locator("#run .badge")).to_have_text("completed")
        stored = await events_of(client, run_id)
        check_chain(await chain(page), stored)
        detail = (await client.get(f"{RUNS}/{run_id}")).json()
        assert [frame.event for frame in stored] == detail["events"]
        await check_json(page, detail["events"])


async def check_json(page: Page, events: list[Any]) -> None:
    """The raw JSON of an event, and of each of those that one row is made of."""
    await page.get_by_role("button", name="Raw JSON of tool call started").click()
    shown = json.loads(await page.locator(".ev-json pre").inner_text())
    assert shown == next(event for event in events if event["type"] == "tool_call_started")
    await page.get_by_role("button", name="Raw JSON of tool call started").click()
    await expect(page.locator(".ev-json")).to_have_count(0)
    await page.get_by_role("button", name="Raw JSON of writer").click()
    updates = [event for event in events if event["type"] == "node_update"]
    for place in range(len(updates) - 1, -1, -1):
        assert json.loads(await page.locator(".ev-json pre").inner_text()) == updates[place]
        if place:
            await page.get_by_role("button", name="The event before").click()
    await expect(page.get_by_role("button", name="The event before")).to_be_disabled()


async def test_events_can_be_shown_in_their_order(database_url: str, page: Page) -> None:
    async with running(database_url, **PATIENT) as server, httpx.AsyncClient(base_url=server.url) as client:
        run_id, token = await lease(client)
        updates = [{"type": "node_update", "node": "n", "worker_id": str(n % 2)} for n in range(6)]
        await tell(client, run_id, token, *updates)
        await opened(page, server.url, f"/runs/{run_id}")
        await expect(page.locator(".group")).to_have_count(3)
        await page.get_by_role("button", name="By worker").click()
        await expect(page.locator(".group")).to_have_count(1)
        await expect(page.locator(".group-name")).to_have_text("All events")
        await page.reload()
        await expect(page.locator(".group")).to_have_count(1)  # the choice is kept


async def test_a_run_that_is_not_there_is_told_in_words(database_url: str, page: Page) -> None:
    async with running(database_url, **PATIENT) as server:
        await page.goto(f"{server.url}/runs/run_01jzzzzzzzzzzzzzzzzzzzzzzz")
        await expect(page.get_by_role("alert")).to_contain_text("There is no run to show")
        await page.get_by_role("link", name="All runs").click()
        await expect(page).to_have_url(f"{server.url}/runs")
        await expect(page.locator("#run")).to_be_hidden()
        await page.go_back()
        await expect(page.get_by_role("alert")).to_contain_text("There is no run to show")


# ── acting on runs ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_run_is_cancelled_retried_and_deleted(database_url: str, page: Page) -> None:
    async with running(database_url, **PATIENT) as server, httpx.AsyncClient(base_url=server.url) as client:
        await opened(page, server.url)
        await launch(page, "Never mind", params={"step_seconds": 60})
        await expect(page.locator(".card .badge")).to_have_text("running")
        [first] = await ids(page, "#cards")
        await page.locator(".card").get_by_role("button", name="Cancel").click()
        await expect(card(page, first).locator(".badge")).to_have_text("cancelled")
        await expect(row(page, first).locator(".badge")).to_have_text("cancelled")

        await row(page, first).get_by_role("link").click()
        await page.locator("#run").get_by_role("button", name="Retry").click()
        await expect(page.locator("#run .badge")).to_have_text("running")
        second = page.url.split("/")[-1]
        assert (await client.get(f"{RUNS}/{second}")).json()["retry_of"] == first
        await page.locator("#run").get_by_role("button", name="Cancel").click()
        await expect(page.locator("#run .badge")).to_have_text("cancelled")

        await page.locator("#run").get_by_role("button", name="Delete").click()
        await page.get_by_role("button", name="Keep it").click()
        await expect(row(page, second)).to_be_visible()
        await page.locator("#run").get_by_role("button", name="Delete").click()
        await page.get_by_role("button", name="Delete it").click()
        await expect(row(page, second)).to_have_count(0)
        await expect(page).to_have_url(f"{server.url}/runs")
        assert (await client.get(f"{RUNS}/{second}")).status_code == 404
        assert await ids(page, "#ended") == [first]


async def test_a_run_that_asks_is_answered_from_its_card_and_from_its_page(database_url: str, page: Page) -> None:
    async with running(database_url, **PATIENT) as server, httpx.AsyncClient(base_url=server.url) as client:
        run_id, token = await lease(client, task="Plan a route")
        await opened(page, server.url)
        question = {"type": "client_input_requested", "prompt": "Which river?", "options": ["Rhine", "Elbe"]}
        await tell(client, run_id, token, question)
        asked = card(page, run_id)
        await expect(asked.locator(".badge")).to_have_text("waiting input")
        await expect(page.locator("#total-waiting")).to_have_text("1")
        await asked.get_by_role("button", name="Elbe").click()
        await expect(asked.locator(".badge")).to_have_text("running")
        await expect(asked.locator(".question")).to_be_hidden()

        await tell(client, run_id, token, {**question, "prompt": "And from where?", "options": []})
        await asked.get_by_role("link", name="Expand").click()
        opened_run = page.locator("#run")
        await expect(opened_run.get_by_text("And from where?").first).to_be_visible()
        await opened_run.get_by_label("Your answer").fill("Dresden")
        await append(client, run_id, token)  # what comes meanwhile takes nothing away
        await expect(page.locator("#run .ev").last).to_be_visible()
        await expect(opened_run.get_by_label("Your answer")).to_have_value("Dresden")
        await page.keyboard.press("Enter")
        await expect(opened_run.locator(".badge")).to_have_text("running")
        given = [f.event for f in await events_of(client, run_id) if f.event["type"] == "client_input_received"]
        assert [event["text"] for event in given] == ["Elbe", "Dresden"]
        await expect(page.locator("#run .ev .ev-text", has_text="Dresden")).to_be_visible()


async def test_the_list_goes_on_to_the_oldest_run_and_is_filtered_by_status(database_url: str, page: Page) -> None:
    async with running(database_url, **PATIENT) as server, httpx.AsyncClient(base_url=server.url) as client:
        body = {"task": "one of many", "runner": "nobody", "mode": "queued", "count": 70}
        runs = [run["id"] for run in (await client.post(f"{RUNS}/batch", json=body)).json()["data"]]
        for run_id in runs:
            await client.post(f"{RUNS}/{run_id}/cancel")
        failed, token = await lease(client, task="no luck")
        await finish(client, failed, token, status="failed", error="out of luck")
        newest_first = [failed, *sorted(runs, reverse=True)]
        await opened(page, server.url)
        await expect(page.locator("#ended > li")).to_have_count(50)
        await page.get_by_role("button", name="Older runs").click()
        await expect(page.locator("#ended > li")).to_have_count(71)
        assert await ids(page, "#ended") == newest_first
        await expect(page.get_by_role("button", name="Older runs")).to_be_hidden()

        await page.get_by_role("button", name="Failed").click()
        await expect(page.locator("#ended > li")).to_have_count(1)
        await expect(row(page, failed).locator(".ended-text")).to_have_text("out of luck")
        await page.get_by_role("button", name="Timed out").click()
        await expect(page.get_by_text("No run is timed out")).to_be_visible()


# ── whatever it says ───────────────────────────────────────────────────────────────────────────────────────────

HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>\u202e &amp; \N{PILE OF POO}'


async def test_hostile_text_is_text(database_url: str, page: Page) -> None:
    async with running(database_url, **PATIENT) as server, httpx.AsyncClient(base_url=server.url) as client:
        run_id, token = await lease(client, task=HOSTILE, runner="hostile", session_id="<i>s<b>i", task_id="<i>t")
        await opened(page, server.url)
        await tell(
            client,
            run_id,
            token,
            {"type": "node_update", "node": HOSTILE, "agent": HOSTILE, "worker_id": '"]<b>1', "snippet": HOSTILE},
            {"type": "llm_text_delta", "stream_id": "worker:<b>", "text": HOSTILE},
            {"type": "custom.x", "stream_id": "constructor", "__proto__": {"a": HOSTILE}, "toString": HOSTILE},
            {"type": "error", "fatal": False, "code": "<b>", "message": HOSTILE},
            {"type": "client_input_requested", "prompt": HOSTILE, "options": [HOSTILE, {"a": "<b>"}]},
        )
        await card(page, run_id).locator(".question-options button").first.click()  # an answer of that text
        await expect(card(page, run_id).locator(".badge")).to_have_text("running")
        await card(page, run_id).get_by_role("link", name="Expand").click()
        await expect(page.locator("#run-title")).to_have_text(HOSTILE)
        await page.locator(".run-more summary").click()
        await finish(client, run_id, token, status="failed", error=HOSTILE)
        await expect(page.locator("#run .notice")).to_have_text(HOSTILE)
        await expect(row(page, run_id).locator(".ended-text")).to_have_text(HOSTILE)
        check_chain(await chain(page), await events_of(client, run_id))
        for raw in await page.locator(".ev-raw").all():
            await raw.click()
        assert await page.locator("main img, main script, main b b, main i").count() == 0
        assert await page.title() not in ("1", "2")
