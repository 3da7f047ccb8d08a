"""A task with a generation shows how the preview of that generation stands, whatever is killed or reset meanwhile."""

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from msgspec import Struct

from shared.channel.postgres import Database, PostgresEventLog
from tests.support.consumption import Connection, new_task, snapshots, task_of
from tests.support.contract import Served, sql
from tests.support.previews import (
    change,
    new_generation,
    preview_url,
    reached,
    restart,
    running,
    stop,
    tell,
)
from tests.support.readers import eventually
from tests.support.server import ROOT, Server
from tests.support.server import running as server_running

SETTINGS = {"previews_per_tenant": 60}


async def shows(client: httpx.AsyncClient, task_id: str, status: str | None) -> dict[str, Any]:
    """The task once it shows this status."""

    async def is_shown() -> bool:
        return bool((await task_of(client, task_id))["preview_status"] == status)

    await eventually(is_shown, f"the task shows {status}", seconds=20)
    return await task_of(client, task_id)


async def told(client: httpx.AsyncClient, task_id: str) -> list[str | None]:
    """What its snapshots have shown, one after the other; each is another revision."""
    stored = await snapshots(client, task_id)
    assert [snapshot["rev"] for snapshot in stored] == list(range(1, len(stored) + 1))
    return [snapshot["preview_status"] for snapshot in stored]


# ── one process ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_task_shows_its_preview_from_launch_to_end_and_after_a_restart(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    task_id = await new_task(client, generation_id=generation)
    assert (await task_of(client, task_id))["preview_status"] is None
    await running(client, generation)
    task = await shows(client, task_id, "running")
    assert (task["status"], task["generation_id"]) == ("queued", generation)  # a preview does not move its task
    await stop(client, generation)
    await shows(client, task_id, "stopped")
    await restart(client, generation)
    await shows(client, task_id, "running")
    await client.get(f"{preview_url(generation)}/app/x?os._exit(3)")
    await shows(client, task_id, "exited")
    seen = await told(client, task_id)
    assert seen[0] is None
    assert seen[-1] == "exited"
    assert all(first != second for first, second in itertools.pairwise(seen))


async def test_all_tasks_of_a_generation_show_it_and_no_others(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    ids = [await new_task(client, generation_id=generation) for _ in range(3)]
    other, none = await new_task(client, generation_id=new_generation()), await new_task(client)
    ended = await new_task(client, generation_id=generation)
    (await client.post(f"/api/v1/tasks/{ended}/cancel")).raise_for_status()
    await running(client, generation)
    for task_id in (*ids, ended):
        await shows(client, task_id, "running")
    for task_id in (other, none):
        assert (await task_of(client, task_id))["preview_status"] is None
    assert (await task_of(client, ended))["status"] == "cancelled"
    await stop(client, generation)


async def test_a_task_that_is_created_later_shows_it_at_once(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    first = await new_task(client, generation_id=generation)
    await running(client, generation)
    await shows(client, first, "running")  # the news have come
    answer = await client.post("/api/v1/tasks", json={"title": "later", "generation_id": generation})
    assert answer.json()["preview_status"] == "running"
    plain = await new_task(client)
    patched = await client.patch(f"/api/v1/tasks/{plain}", json={"generation_id": generation})
    assert patched.json()["preview_status"] == "running"
    await stop(client, generation)
    for task_id in (first, plain):
        await shows(client, task_id, "stopped")
    patched = await client.patch(f"/api/v1/tasks/{plain}", json={"generation_id": None})
    assert patched.json()["preview_status"] is None


async def test_a_deleted_preview_is_shown_no_more_and_a_new_one_is(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    task_id = await new_task(client, generation_id=generation)
    await running(client, generation)
    await stop(client, generation)
    await shows(client, task_id, "stopped")
    assert (await client.delete(preview_url(generation))).status_code == 204
    await shows(client, task_id, None)
    await running(client, generation)
    await shows(client, task_id, "running")
    await stop(client, generation)
    await shows(client, task_id, "stopped")


async def test_the_newest_preview_of_a_generation_counts(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    task_id = await new_task(client, generation_id=generation)
    await running(client, generation)
    body = {"files": {}, "kind": "command", "command": ["python", "-c", "pass"]}
    answer = await client.post(preview_url(generation), params={"replace": "1"}, json=body)
    assert answer.status_code == 202
    await shows(client, task_id, "failed")
    seen = await told(client, task_id)
    assert "stopped" in seen or "preparing" in seen
    assert seen[-1] == "failed"


async def test_after_the_newest_is_deleted_the_one_before_can_be_started_again(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    task_id = await new_task(client, generation_id=generation)
    old = await running(client, generation)
    await stop(client, generation)
    await running(client, generation)
    await stop(client, generation)
    await shows(client, task_id, "stopped")
    assert (await client.delete(preview_url(generation))).status_code == 204
    await shows(client, task_id, None)
    assert (await restart(client, generation))["id"] == old["id"]
    await shows(client, task_id, "running")
    await stop(client, generation)
    await shows(client, task_id, "stopped")


async def test_a_task_of_another_tenant_does_not_show_it(client: httpx.AsyncClient, tailrace: Served) -> None:
    generation = new_generation()
    theirs, ours = await new_task(client, generation_id=generation), await new_task(client, generation_id=generation)
    async with sql(tailrace.database_url) as database:
        await database.execute("UPDATE tasks.tasks SET tenant = 'other' WHERE id = $1", theirs)
        await running(client, generation)
        await shows(client, ours, "running")
        assert await database.fetchval("SELECT preview_status FROM tasks.tasks WHERE id = $1", theirs) is None
    await stop(client, generation)


# ── apart ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Apart(Struct, frozen=True):
    """The two services in processes of their own, over one database."""

    database_url: str
    database: Connection
    previews_server: Server
    tasks_server: Server
    previews: httpx.AsyncClient
    tasks: httpx.AsyncClient


@asynccontextmanager
async def apart(database_url: str) -> AsyncIterator[Apart]:
    async with (
        server_running(database_url, service="previews") as previews_server,
        server_running(database_url, service="tasks", previews_url=previews_server.url) as tasks_server,
        httpx.AsyncClient(base_url=previews_server.url, timeout=30) as previews,
        httpx.AsyncClient(base_url=tasks_server.url, timeout=30) as tasks,
        sql(database_url) as database,
    ):
        yield Apart(database_url, database, previews_server, tasks_server, previews, tasks)


async def nothing(at: Apart) -> None:
    """The feed goes on from the stored position."""


async def new_epoch(at: Apart) -> None:
    """As an operator does after a restore."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "services.cli", "epoch", "new"),
        cwd=ROOT,
        env={"TAILRACE_DATABASE_URL": at.database_url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


async def trimmed(at: Apart) -> None:
    """Retention has gone past the position."""
    database = Database(at.database_url, pool_size=1)
    await database.start()
    try:
        await PostgresEventLog(database, "previews").trim(max_age_seconds=None, max_events=0)
    finally:
        await database.close()


async def unknown(at: Apart) -> None:
    """There is no position."""
    await at.database.execute("DELETE FROM tasks.feeds")


BREAKS: list[Callable[[Apart], Awaitable[None]]] = [nothing, new_epoch, trimmed, unknown]


@pytest.mark.parametrize("break_", BREAKS, ids=lambda b: b.__name__)
async def test_whatever_happened_while_the_tasks_service_was_down_is_shown_afterwards(
    database_url: str, break_: Callable[[Apart], Awaitable[None]]
) -> None:
    async with apart(database_url) as at:
        goes_on, ends, deleted, again, later = (new_generation() for _ in range(5))
        ids = {g: await new_task(at.tasks, generation_id=g) for g in (goes_on, ends, deleted, again, later)}
        for generation in (goes_on, ends, deleted, again):
            await running(at.previews, generation)
        await stop(at.previews, deleted)
        for generation in (goes_on, ends, again):
            await shows(at.tasks, ids[generation], "running")
        await shows(at.tasks, ids[deleted], "stopped")
        await at.tasks_server.kill()
        await stop(at.previews, ends)
        assert (await at.previews.delete(preview_url(deleted))).status_code == 204
        await stop(at.previews, again)
        await restart(at.previews, again)
        await reached(at.previews, again, "running", attempt=2)
        await running(at.previews, later)
        await break_(at)
        await at.tasks_server.start()
        for generation, status in ((goes_on, "running"), (ends, "stopped"), (deleted, None), (later, "running")):
            await shows(at.tasks, ids[generation], status)
        await shows(at.tasks, ids[again], "running")
        # and it goes on from there
        await stop(at.previews, goes_on)
        await shows(at.tasks, ids[goes_on], "stopped")
        seen = await told(at.tasks, ids[goes_on])
        assert [status for status in seen if status in ("running", "stopped")] == ["running", "stopped"]
        for generation in (again, later):
            await stop(at.previews, generation)


async def test_a_connected_tasks_service_survives_a_new_epoch_of_the_previews_log(database_url: str) -> None:
    async with apart(database_url) as at:
        generation = new_generation()
        task_id = await new_task(at.tasks, generation_id=generation)
        await running(at.previews, generation)
        await shows(at.tasks, task_id, "running")
        await new_epoch(at)
        await stop(at.previews, generation)
        await shows(at.tasks, task_id, "stopped")
        await restart(at.previews, generation)
        await shows(at.tasks, task_id, "running")
        await stop(at.previews, generation)


async def test_a_kill_of_the_previews_service_is_shown_on_the_tasks(database_url: str) -> None:
    async with apart(database_url) as at:
        generation = new_generation()
        task_id = await new_task(at.tasks, generation_id=generation)
        await running(at.previews, generation, files={"a.txt": "a"})
        await shows(at.tasks, task_id, "running")
        await at.previews_server.kill()
        assert (await task_of(at.tasks, task_id))["preview_status"] == "running"  # nobody can tell otherwise
        await at.previews_server.start()
        await shows(at.tasks, task_id, "lost")
        assert (await change(at.previews, generation, **{"b.txt": "b"})).status_code == 200
        await restart(at.previews, generation)
        await shows(at.tasks, task_id, "running")
        assert await tell(at.previews, generation, "answer = sorted(os.listdir('.'))") == "['a.txt', 'b.txt']"
        await stop(at.previews, generation)
        await shows(at.tasks, task_id, "stopped")


async def test_a_tasks_service_that_knows_of_no_previews_goes_without(database_url: str) -> None:
    async with (
        server_running(database_url, service="tasks") as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as client,
    ):
        task_id = await new_task(client, generation_id=new_generation())
        assert (await task_of(client, task_id))["preview_status"] is None
        assert (await client.get("/ready")).status_code == 200
