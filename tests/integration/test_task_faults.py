"""Tasks that are large, late, gone or wrong: each test is of a fault that was found by reading."""

import httpx
import pytest

from services.tasks.store import TaskStore
from shared.channel.postgres import Database
from tests.support.contract import Served, problem_of
from tests.support.tasks import TASKS, as_of, create, get, of

MAX_SEQ = 2**63 - 1


async def test_a_page_of_present_tasks_is_bounded_in_bytes(client: httpx.AsyncClient, tailrace: Served) -> None:
    """Each reader of a board that starts over holds a page: five of 500 tasks of 200 kB took 800 MB."""
    sizes = [200_000, 100, 100, 150_000, 150_000, 100, 240_000, 100]
    tasks = [await create(client, result="x" * size) for size in sizes]
    database = Database(tailrace.database_url)
    await database.start()
    try:
        store, seen, after = TaskStore("tasks", database), [], 0
        while True:
            page, state = await store.changed(database, "default", after, MAX_SEQ, limit=3, max_bytes=200_000)
            if not page:
                break
            held = sum(len(task.result) for task in page)
            assert len(page) == 1 or held - len(page[-1].result) < 200_000
            assert len(page) <= 3
            seen += [task.id for task in page]
            after = page[-1].last_seq
        assert seen == [task["id"] for task in tasks]
        assert (state.epoch, state.head) == await as_of(client)
    finally:
        await database.close()


@pytest.mark.parametrize("field", ["started_at", "finished_at"])
async def test_a_steps_time_has_a_zone(client: httpx.AsyncClient, field: str) -> None:
    """Without one each reader took it for its own."""
    task = await create(client, steps=[{"name": "a", field: "2026-01-01T00:00:00+02:00"}])
    for body in ({"name": "b", field: "2026-01-01T00:00:00"}, {"name": "b", field: "2026-01-01"}):
        told = problem_of(await client.post(TASKS, json={"title": "t", "steps": [body]}), 400)
        assert f"steps[0].{field}" in told["detail"]
        problem_of(await client.patch(of(task), json={"steps": [body]}), 400)
    assert await get(client, task["id"]) == task
    assert task["steps"][0][field] == "2026-01-01T00:00:00+02:00"
