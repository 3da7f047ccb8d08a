"""The pages of tasks, and the start page."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from playwright.async_api import Page, expect

from tests.screenshots.stage import Stage
from tests.support.previews import launch
from tests.support.tasks import create, patch

FAILURE = "archive-2019-07.zip: the central directory is damaged at byte 41,233,902"
QUESTION = "Chapter 15 uses a term that the glossary does not have"


async def board(stage: Stage) -> None:
    """Tasks in every state; one of them goes on while one looks, so that its pace is known."""
    client = stage.client
    evaluated = {"done": 120, "total": 120, "unit": "cases"}
    await ended(stage, "Nightly evaluation of the summariser", "evaluation", "succeeded", evaluated)
    imported = {"done": 4_211, "total": 9_000, "unit": "files"}
    await ended(stage, "Import the customer archive of 2019", "import", "failed", imported, error=FAILURE)
    dropped = await create(client, title="Reindex the knowledge base")
    await patch(client, dropped["id"], status="cancelled")
    asking = await create(client, title="Translate the handbook into Portuguese", kind="translation")
    progress = {"done": 14, "total": 31, "unit": "chapters", "message": QUESTION}
    await patch(client, asking["id"], status="waiting_input", progress=progress)
    crawling = await create(client, title="Collect pages about tidal power", kind="crawl")
    found = {"done": 1_834, "unit": "pages", "message": "tidal.example/reports/2024"}
    await patch(client, crawling["id"], status="running", progress=found)
    await create(client, title="Summarise the minutes of November", kind="summary")
    await build(stage, "landing-7")
    await poems(stage)
    embedding = await create(client, title="Embed 400 support conversations", kind="embedding", status="running")

    async def goes_on(page: Page) -> None:
        await advance(stage, embedding["id"])
        await expect(page.locator("#tasks > li").first).to_contain_text("left")

    await stage.shoot("tasks", "/tasks", ready=goes_on)


async def ended(stage: Stage, title: str, kind: str, status: str, progress: dict[str, Any], **more: Any) -> None:
    """One that is over."""
    task = await create(stage.client, title=title, kind=kind, status="running")
    await patch(stage.client, task["id"], progress=progress, status=status, **more)


async def advance(stage: Stage, task_id: str, *, total: int = 400) -> None:
    """A few steps at an even pace, beginning where it is."""
    task = (await stage.client.get(f"/api/v1/tasks/{task_id}")).json()
    for done in range(task["progress"]["done"] + 4, task["progress"]["done"] + 24, 4):
        await patch(stage.client, task_id, progress={"done": done, "total": total, "unit": "conversations"})
        await asyncio.sleep(0.6)


async def build(stage: Stage, generation: str) -> dict[str, Any]:
    """A task with steps and a preview."""
    now = datetime.now(UTC)

    def step(name: str, begun: float | None, over: float | None, message: str | None = None) -> dict[str, Any]:
        times = [None if ago is None else (now - timedelta(seconds=ago)).isoformat() for ago in (begun, over)]
        status = "pending" if begun is None else "running" if over is None else "done"
        return {"name": name, "status": status, "message": message, "started_at": times[0], "finished_at": times[1]}

    steps = [
        step("Read the brief", 190, 171),
        step("Choose a layout", 171, 120, "Two columns, the river above"),
        step("Write the components", 120, None, "Pricing table"),
        step("Check the contrast", None, None),
        step("Launch the preview", None, None),
    ]
    await launch(stage.client, generation)
    title = "Build the landing page from the brief"
    task = await create(stage.client, title=title, kind="generation", generation_id=generation)
    progress = {"done": 2, "total": 5, "unit": "steps", "message": "Writing the components"}
    return await patch(stage.client, task["id"], status="running", steps=steps, progress=progress)


async def poems(stage: Stage) -> dict[str, Any]:
    """A task of three runs, which go on by themselves."""
    task = await create(stage.client, title="Three poems about rivers", kind="poems")
    batch = {"task": "Write a poem about a river", "count": 3, "task_id": task["id"], "stagger_ms": 1_500}
    (await stage.client.post("/api/v1/runs/batch", json=batch)).raise_for_status()
    return task


async def one_task(stage: Stage) -> None:
    """One with steps, and one with runs."""
    building = await build(stage, "landing-8")
    await stage.shoot("task", f"/tasks/{building['id']}")
    with_runs = await poems(stage)

    async def has_begun(page: Page) -> None:
        await expect(page.locator(".run-row")).to_have_count(3)

    await stage.shoot("task-with-runs", f"/tasks/{with_runs['id']}", ready=has_begun)


async def no_task(stage: Stage) -> None:
    """Empty, and not there."""
    await stage.shoot("tasks-empty", "/tasks")


async def new_task(stage: Stage) -> None:
    async def asks(page: Page) -> None:
        await page.get_by_role("button", name="New task").first.click()

    await stage.shoot("task-new", "/tasks", ready=asks)


async def start(stage: Stage) -> None:
    """The start page, when all the others have left something there."""
    await poems(stage)
    await stage.shoot("start", "/")


SCENES = (no_task, board, one_task, new_task)
