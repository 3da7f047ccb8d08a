"""The page of runs: all at once, one in full, and nothing yet."""

import asyncio
from collections.abc import Sequence
from typing import Any

from playwright.async_api import Page, expect

from tests.screenshots.stage import Stage
from tests.support.server import append, lease

RUNS = "/api/v1/runs"
PROMPTS = (
    ("Summarise the minutes of November", 0.55),
    ("Name ten risks of the tidal power plan", 0.35),
    ("Compare the three offers for the new roof", 0.75),
    ("Write a poem about a river that flows backwards", 0.45),
    ("Find contradictions in the travel policy", 0.65),
)


async def no_run(stage: Stage) -> None:
    await stage.shoot("runs-empty", "/runs")


async def at_work(stage: Stage) -> None:
    """Workers that write, one that asks, one that has run into a limit; some that have ended."""
    await asks(stage)
    await fails(stage)
    await stage.client.post(f"{RUNS}/batch", json={"task": "Embed the archive", "count": 1, "runner": "archive"})

    async def many_at_work(page: Page) -> None:
        await begin(stage)
        working = page.locator('#cards > [data-status="running"]')
        await expect(working).to_have_count(len(PROMPTS))
        await asyncio.sleep(12)  # so long that there is a curve to see

    await stage.shoot("runs", "/runs", ready=many_at_work)


async def begin(stage: Stage) -> None:
    """Anew for each picture; what the one before has begun is over first."""
    for run in (await stage.client.get(RUNS, params={"status": "running"})).json()["data"]:
        if run["runner"] == "sample":
            await stage.client.post(f"{RUNS}/{run['id']}/cancel")
            await stage.client.get(f"{RUNS}/{run['id']}/events", params={"after": "now", "types": "status", "wait": 5})
    for prompt, pace in PROMPTS:
        body = {"task": prompt, "workers": 1, "params": {"step_seconds": pace}}
        (await stage.client.post(RUNS, json=body)).raise_for_status()


async def asks(stage: Stage) -> str:
    """A run of three workers that has come to a question; its id."""
    run_id, token = await lease(stage.client, task="Plan a week of walks along the Elbe", runner="walks", workers=3)
    await said(stage, run_id, token, WALKS)
    return run_id


async def fails(stage: Stage) -> None:
    run_id, token = await lease(stage.client, task="Translate chapter 15 into Portuguese", runner="translation")
    await append(stage.client, run_id, token, 3)
    error = "the endpoint answered 401: the key was not accepted"
    finish = {"status": "failed", "error": error}
    await stage.client.post(f"{RUNS}/{run_id}/finish", json=finish, headers={"tailrace-lease": token})


async def said(stage: Stage, run_id: str, token: str, events: Sequence[dict[str, Any]]) -> None:
    headers = {"tailrace-lease": token}
    (await stage.client.post(f"{RUNS}/{run_id}/events", json={"events": events}, headers=headers)).raise_for_status()


async def one_run(stage: Stage) -> None:
    """Its events by worker."""
    run_id = await asks(stage)

    async def shows_all(page: Page) -> None:
        await expect(page.locator("#run .group")).to_have_count(4)

    await stage.shoot("run", f"/runs/{run_id}", ready=shows_all)


def node(name: str, snippet: str, **more: Any) -> dict[str, Any]:
    return {"type": "node_update", "node": name, "snippet": snippet, **more}


def piece(text: str) -> dict[str, Any]:
    return {"type": "llm_text_delta", "stream_id": "worker:maps", "text": text}


WALKS: Sequence[dict[str, Any]] = (
    node("supervisor", "Three workers: maps, trains, beds.", agent="planner", tokens_in=812, tokens_out=64),
    *(piece(text) for text in ("The path on the left bank ", "is closed at Wehlen, ", "so day three begins by ferry.")),
    {"type": "tool_call_started", "stream_id": "worker:maps", "tool": "read_map", "call_id": "c1", "sheet": "Elbe 4"},
    {
        "type": "tool_call_completed",
        "stream_id": "worker:maps",
        "tool": "read_map",
        "call_id": "c1",
        "kilometres": 17.4,
    },
    *(
        node("planner", f"{found} connections found", worker_id="trains", iteration=found, tokens_in=90, tokens_out=31)
        for found in range(1, 9)
    ),
    {
        "type": "error",
        "fatal": False,
        "code": "upstream_429",
        "message": "the endpoint answered 429: rate limit reached",
    },
    node("writer", "Seven inns have a room on the day.", worker_id="beds", iteration=3, tokens_in=411, tokens_out=208),
    {
        "type": "client_input_requested",
        "prompt": "Up the river or down?",
        "options": ["Down, from Bad Schandau", "Up, from Dresden"],
    },
)

SCENES = (no_run, at_work, one_run)
