"""Tasks follow their runs: the rules of the design's section 5, one after the other, against a real service.

The tasks service of the module's process follows the runs feed over HTTP, from its own address. `heard` waits until it
has dealt with everything that was told so far.
"""

from typing import Any

import httpx
import msgspec
import pytest

from shared.channel.log import MAX_EVENT_BYTES
from tests.support.consumption import (
    TASKS,
    Refusal,
    heard,
    held_run,
    new_task,
    patch_task,
    queued_run,
    refusals,
    run_status,
    snapshots,
    task_of,
)
from tests.support.contract import RUNS, Served, metric, sql
from tests.support.readers import eventually

SETTINGS: dict[str, Any] = {"lease_seconds": 600}


async def told(client: httpx.AsyncClient, tailrace: Served, task_id: str) -> dict[str, Any]:
    """The task after everything that was told of its runs; its snapshots are checked on the way."""
    await heard(tailrace.database_url)
    stored = await snapshots(client, task_id)
    assert [snapshot["rev"] for snapshot in stored] == list(range(1, len(stored) + 1))
    assert sum(snapshot["status"] in ("succeeded", "failed", "cancelled") for snapshot in stored) <= 1
    return await task_of(client, task_id)


def progress_of(task: dict[str, Any]) -> tuple[float, float | None]:
    return task["progress"]["done"], task["progress"]["total"]


# ── status and progress ────────────────────────────────────────────────────────────────────────────────────────


async def test_a_queued_task_runs_when_its_first_run_does(client: httpx.AsyncClient, tailrace: Served) -> None:
    task_id = await new_task(client)
    waiting = await queued_run(client, task_id)
    task = await told(client, tailrace, task_id)
    assert (task["status"], task["run_ids"]) == ("queued", [waiting])
    assert task["progress"] == {"done": 0, "total": 1, "unit": "runs", "message": None}
    run = await held_run(client, task_id)
    task = await told(client, tailrace, task_id)
    assert (task["status"], task["run_ids"]) == ("running", sorted([waiting, run.id]))
    assert progress_of(task) == (0, 2)


async def test_progress_is_the_finished_of_all_runs(client: httpx.AsyncClient, tailrace: Served) -> None:
    task_id = await new_task(client)
    runs = [await held_run(client, task_id) for _ in range(3)]
    seen = []
    for run in runs:
        task = await told(client, tailrace, task_id)
        seen.append((task["status"], *progress_of(task)))
        await run.finish()
    task = await told(client, tailrace, task_id)
    assert [*seen, (task["status"], *progress_of(task))] == [
        ("running", 0, 3),
        ("running", 1, 3),
        ("running", 2, 3),
        ("succeeded", 3, 3),
    ]


async def test_a_persons_words_about_progress_stay(client: httpx.AsyncClient, tailrace: Served) -> None:
    task_id = await new_task(client, progress={"unit": "chapters", "message": "the long one first"})
    await (await held_run(client, task_id)).finish()
    task = await told(client, tailrace, task_id)
    assert task["progress"] == {"done": 1, "total": 1, "unit": "chapters", "message": "the long one first"}


@pytest.mark.parametrize(
    ("ends", "status", "error"),
    [
        ("completed", "succeeded", None),
        ("completed completed", "succeeded", None),
        ("failed:boom", "failed", "boom"),
        ("failed", "failed", "run {0} failed"),
        ("timed_out", "failed", "run {0} took too long"),
        ("completed failed:boom completed", "failed", "boom"),
        ("completed timed_out:late", "failed", "late"),
        ("cancelled failed:boom", "failed", "boom"),
        ("failed:first failed:second", "failed", "first"),
        ("cancelled", "cancelled", None),
        ("cancelled cancelled", "cancelled", None),
        ("cancelled completed", "succeeded", None),
        ("completed cancelled", "succeeded", None),
    ],
)
async def test_how_the_runs_ended_is_how_the_task_ends(
    client: httpx.AsyncClient, tailrace: Served, ends: str, status: str, error: str | None
) -> None:
    task_id = await new_task(client)
    runs = [await held_run(client, task_id) for _ in ends.split()]
    for run, end in zip(runs, ends.split(), strict=True):
        assert (await told(client, tailrace, task_id))["status"] == "running"
        how, _, why = end.partition(":")
        await run.finish(how, why or None)
    task = await told(client, tailrace, task_id)
    assert task["status"] == status
    assert task["error"] == (None if error is None else error.format(*(run.id for run in runs)))
    assert progress_of(task) == (len(runs), len(runs))
    assert await refusals(tailrace.database_url, [task_id]) == []


async def test_a_task_waits_for_input_while_one_of_its_runs_does(client: httpx.AsyncClient, tailrace: Served) -> None:
    task_id = await new_task(client)
    asking, other = await held_run(client, task_id), await held_run(client, task_id)
    await asking.tell({"type": "client_input_requested"})
    assert (await told(client, tailrace, task_id))["status"] == "waiting_input"
    await other.finish()
    task = await told(client, tailrace, task_id)
    assert (task["status"], *progress_of(task)) == ("waiting_input", 1, 2)
    (await client.post(f"{RUNS}/{asking.id}/input", json={"input": "yes"})).raise_for_status()
    assert (await told(client, tailrace, task_id))["status"] == "running"
    await asking.finish()
    assert (await told(client, tailrace, task_id))["status"] == "succeeded"


async def test_an_attempt_that_is_lost_takes_nothing_back(client: httpx.AsyncClient, tailrace: Served) -> None:
    task_id = await new_task(client)
    done, lost = await held_run(client, task_id), await held_run(client, task_id, max_attempts=2)
    await done.finish()
    async with sql(tailrace.database_url) as database:
        await database.execute(
            "UPDATE runs.runs SET lease_expires_at = now() - interval '1 s' WHERE id = $1 AND status = 'running'",
            lost.id,
        )

    async def is_queued() -> bool:
        return await run_status(client, lost.id) == "queued"

    await eventually(is_queued, "the run is queued again")
    task = await told(client, tailrace, task_id)
    assert (task["status"], *progress_of(task)) == ("running", 1, 2)


async def test_runs_of_a_batch_belong_to_their_task(client: httpx.AsyncClient, tailrace: Served) -> None:
    task_id = await new_task(client)
    runner = f"of/{task_id}"
    body = {"task": "work", "runner": runner, "task_id": task_id, "count": 7, "stagger_ms": 0}
    (await client.post(f"{RUNS}/batch", json=body)).raise_for_status()
    task = await told(client, tailrace, task_id)
    assert (task["status"], *progress_of(task)) == ("queued", 0, 7)
    for done in range(7):
        leased = (await client.post(f"{RUNS}/lease", json={"runners": [runner], "worker": "w"})).json()
        assert progress_of(await told(client, tailrace, task_id)) == (done, 7)
        answer = await client.post(
            f"{RUNS}/{leased['run']['id']}/finish",
            json={"status": "completed"},
            headers={"tailrace-lease": leased["lease"]["token"]},
        )
        answer.raise_for_status()
    task = await told(client, tailrace, task_id)
    assert (task["status"], *progress_of(task), len(set(task["run_ids"]))) == ("succeeded", 7, 7, 7)


async def test_an_inline_run_moves_its_task_too(client: httpx.AsyncClient, tailrace: Served) -> None:
    task_id = await new_task(client)
    body = {"task": "work", "task_id": task_id, "params": {"step_seconds": 0, "words": 2}}
    answer = await client.post(RUNS, json=body, headers={"prefer": "wait=20"})
    assert answer.json()["status"] == "completed", answer.text
    assert (await told(client, tailrace, task_id))["status"] == "succeeded"


async def test_a_retry_is_another_run_of_the_task(client: httpx.AsyncClient, tailrace: Served) -> None:
    task_id = await new_task(client)
    failing, other = await held_run(client, task_id), await held_run(client, task_id)
    await failing.finish("failed", "boom")
    (await client.post(f"{RUNS}/{failing.id}/retry")).raise_for_status()
    task = await told(client, tailrace, task_id)
    assert (task["status"], *progress_of(task)) == ("running", 1, 3)
    leased = (await client.post(f"{RUNS}/lease", json={"runners": [f"of/{task_id}"], "worker": "w"})).json()
    await client.post(
        f"{RUNS}/{leased['run']['id']}/finish",
        json={"status": "completed"},
        headers={"tailrace-lease": leased["lease"]["token"]},
    )
    await other.finish()
    task = await told(client, tailrace, task_id)
    assert (task["status"], task["error"], *progress_of(task)) == ("failed", "boom", 3, 3)


# ── a person's cancel ──────────────────────────────────────────────────────────────────────────────────────────


async def cancel(client: httpx.AsyncClient, task_id: str, how: str) -> None:
    if how == "post":
        (await client.post(f"{TASKS}/{task_id}/cancel")).raise_for_status()
    else:
        await patch_task(client, task_id, status="cancelled")


@pytest.mark.parametrize("how", ["post", "patch"])
async def test_a_persons_cancel_wins_and_cancels_the_runs(
    client: httpx.AsyncClient, tailrace: Served, how: str
) -> None:
    task_id = await new_task(client)
    done, running, waiting = [await held_run(client, task_id) for _ in range(3)]
    queued = await queued_run(client, task_id)
    await waiting.tell({"type": "client_input_requested"})
    await done.finish()
    await heard(tailrace.database_url)
    await cancel(client, task_id, how)
    assert (await task_of(client, task_id))["status"] == "cancelled"
    await eventually(running.is_to_stop, "the running one is to stop")
    await eventually(waiting.is_to_stop, "the waiting one is to stop")

    async def is_cancelled() -> bool:
        return await run_status(client, queued) == "cancelled"

    await eventually(is_cancelled, "the queued one is cancelled")
    await running.finish("cancelled")
    await waiting.finish("failed", "too late")  # a worker that did not listen
    task = await told(client, tailrace, task_id)
    assert (task["status"], task["error"], *progress_of(task)) == ("cancelled", None, 1, 4)
    assert await refusals(tailrace.database_url, [task_id]) == [
        Refusal(task_id, f"run/{waiting.id}", "task_has_ended", "the run is failed")
    ]
    assert await run_status(client, done.id) == "completed"


@pytest.mark.parametrize("how", ["post", "patch"])
async def test_runs_of_which_the_news_come_after_the_cancel_are_stopped_too(
    client: httpx.AsyncClient, tailrace: Served, how: str
) -> None:
    task_id = await new_task(client)
    known = await held_run(client, task_id)
    await heard(tailrace.database_url)
    await cancel(client, task_id, how)
    late = await held_run(client, task_id)
    await eventually(known.is_to_stop, "the one that was known is to stop")
    await eventually(late.is_to_stop, "the one that came later is to stop")
    for run in (known, late):
        await run.finish("cancelled")
    (await client.post(f"{RUNS}/{late.id}/retry")).raise_for_status()
    await heard(tailrace.database_url)
    runs = (await client.get(RUNS, params={"task_id": task_id})).json()["data"]
    retry = next(run["id"] for run in runs if run["id"] not in (known.id, late.id))

    async def is_cancelled() -> bool:
        return await run_status(client, retry) == "cancelled"

    await eventually(is_cancelled, "its retry is cancelled")
    task = await told(client, tailrace, task_id)
    assert (task["status"], task["run_ids"]) == ("cancelled", [known.id])
    assert await refusals(tailrace.database_url, [task_id]) == []


async def test_a_task_that_is_cancelled_and_deleted_at_once_still_stops_its_runs(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    task_id = await new_task(client)
    runs = [await held_run(client, task_id) for _ in range(2)]
    await heard(tailrace.database_url)
    await cancel(client, task_id, "post")
    (await client.delete(f"{TASKS}/{task_id}")).raise_for_status()
    for run in runs:
        await eventually(run.is_to_stop, "it is to stop", seconds=10)
    async with sql(tailrace.database_url) as database:

        async def is_forgotten() -> bool:
            return not await database.fetchval("SELECT count(*) FROM tasks.task_runs WHERE task_id = $1", task_id)

        await eventually(is_forgotten, "nothing is kept of a task that is gone")


async def test_a_task_that_is_set_to_succeeded_leaves_its_runs_alone(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    task_id = await new_task(client)
    run = await held_run(client, task_id)
    await heard(tailrace.database_url)
    await patch_task(client, task_id, status="succeeded")
    other = await new_task(client)
    stopped = await held_run(client, other)
    await heard(tailrace.database_url)
    await cancel(client, other, "post")
    await eventually(stopped.is_to_stop, "a cancelled one's run stops meanwhile")
    assert not await run.is_to_stop()


# ── what cannot be done ────────────────────────────────────────────────────────────────────────────────────────


async def refused_metric(client: httpx.AsyncClient, reason: str) -> float:
    return await metric(client, "tailrace_refused_moves_total", feed="runs", reason=reason)


async def test_a_run_of_another_tenants_task_is_ignored_and_counted(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    task_id, mine = await new_task(client, title="theirs"), await new_task(client)
    async with sql(tailrace.database_url) as database:
        await database.execute("UPDATE tasks.tasks SET tenant = 'other' WHERE id = $1", task_id)
        before = await database.fetchrow("SELECT * FROM tasks.tasks WHERE id = $1", task_id)
        counted = await refused_metric(client, "other_tenant")
        run, good = await held_run(client, task_id), await held_run(client, mine)
        await run.finish("failed", "boom")
        await good.finish()
        assert (await told(client, tailrace, mine))["status"] == "succeeded"
        assert await database.fetchrow("SELECT * FROM tasks.tasks WHERE id = $1", task_id) == before
        assert not await database.fetchval("SELECT count(*) FROM tasks.task_runs WHERE task_id = $1", task_id)
    assert await refused_metric(client, "other_tenant") == counted + 3
    assert await refusals(tailrace.database_url, [task_id]) == [
        Refusal(task_id, f"run/{run.id}", "other_tenant", f"the run is {status}")
        for status in ("queued", "running", "failed")
    ]


@pytest.mark.parametrize(
    "task_id", ["task_01jzzzzzzzzzzzzzzzzzzzzzzz", "nonsense", "'; DROP TABLE tasks.tasks --", "ä" * 200]
)
async def test_a_task_that_nobody_knows_is_recorded(client: httpx.AsyncClient, tailrace: Served, task_id: str) -> None:
    run = await queued_run(client, task_id)
    await heard(tailrace.database_url)
    assert await refusals(tailrace.database_url, [task_id]) == [
        Refusal(task_id, f"run/{run}", "no_such_task", "the run is queued")
    ]


@pytest.mark.parametrize(
    ("set_to", "end", "is_refused"),
    [
        ("succeeded", "completed", False),
        ("succeeded", "failed", True),
        ("succeeded", "cancelled", True),
        ("failed", "completed", True),
        ("failed", "failed", False),
        ("failed", "timed_out", False),
    ],
)
async def test_an_end_that_a_person_has_set_stays_and_the_feed_goes_on(
    client: httpx.AsyncClient, tailrace: Served, set_to: str, end: str, is_refused: bool
) -> None:
    task_id, after = await new_task(client), await new_task(client)
    run = await held_run(client, task_id)
    await heard(tailrace.database_url)
    await patch_task(client, task_id, status=set_to, result={"by": "hand"})
    before = await task_of(client, task_id)
    counted = await refused_metric(client, "task_has_ended")
    await run.finish(end, "boom" if end == "failed" else None)
    await (await held_run(client, after)).finish()
    assert (await told(client, tailrace, after))["status"] == "succeeded"
    assert await told(client, tailrace, task_id) == before
    expected = [Refusal(task_id, f"run/{run.id}", "task_has_ended", f"the run is {end}")] if is_refused else []
    assert await refusals(tailrace.database_url, [task_id]) == expected
    assert await refused_metric(client, "task_has_ended") == counted + len(expected)


@pytest.mark.parametrize("how", ["by a person", "by its runs"])
async def test_a_run_that_starts_for_a_task_that_has_ended_is_recorded(
    client: httpx.AsyncClient, tailrace: Served, how: str
) -> None:
    task_id, after = await new_task(client), await new_task(client)
    if how == "by a person":
        await patch_task(client, task_id, status="succeeded")
    else:
        await (await held_run(client, task_id)).finish()
        await heard(tailrace.database_url)
    before = await task_of(client, task_id)
    late = await held_run(client, task_id)
    await late.finish("failed", "boom")
    await (await held_run(client, after)).finish()
    assert (await told(client, tailrace, after))["status"] == "succeeded"
    assert await told(client, tailrace, task_id) == before
    assert await refusals(tailrace.database_url, [task_id]) == [
        Refusal(task_id, f"run/{late.id}", "task_has_ended", f"the run is {status}")
        for status in ("queued", "running", "failed")
    ]


async def test_runs_of_a_deleted_task_go_on_and_are_recorded(client: httpx.AsyncClient, tailrace: Served) -> None:
    task_id, after = await new_task(client), await new_task(client)
    run = await held_run(client, task_id)
    await heard(tailrace.database_url)
    (await client.delete(f"{TASKS}/{task_id}")).raise_for_status()
    await run.finish()
    await (await held_run(client, after)).finish()
    assert (await told(client, tailrace, after))["status"] == "succeeded"
    assert await run_status(client, run.id) == "completed"
    assert (await client.get(f"{TASKS}/{task_id}")).status_code == 404
    assert await refusals(tailrace.database_url, [task_id]) == [
        Refusal(task_id, f"run/{run.id}", "no_such_task", "the run is completed")
    ]


async def test_a_run_that_is_deleted_after_its_end_still_counts(client: httpx.AsyncClient, tailrace: Served) -> None:
    task_id = await new_task(client)
    gone, other = await held_run(client, task_id), await held_run(client, task_id)
    await gone.finish("completed")
    await heard(tailrace.database_url)
    (await client.delete(f"{RUNS}/{gone.id}")).raise_for_status()
    task = await told(client, tailrace, task_id)
    assert (task["status"], *progress_of(task)) == ("running", 1, 2)
    await other.finish()
    task = await told(client, tailrace, task_id)
    assert (task["status"], *progress_of(task)) == ("succeeded", 2, 2)


# ── sizes ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_task_that_has_no_room_left_for_its_runs_does_not_stop_the_feed(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    small = await new_task(client)
    taken = len(msgspec.json.encode((await snapshots(client, small))[0]))
    full, after = await new_task(client, result="x" * (MAX_EVENT_BYTES - taken - 20)), await new_task(client)
    run = await held_run(client, full)
    await run.finish()
    await (await held_run(client, after)).finish()
    assert (await told(client, tailrace, after))["status"] == "succeeded"
    assert (await told(client, tailrace, full))["status"] == "queued"
    refused = await refusals(tailrace.database_url, [full])
    assert refused[-1] == Refusal(full, f"run/{run.id}", "too_large", "the run is completed")
    assert {refusal.reason for refusal in refused} == {"too_large"}


async def test_an_error_is_cut_where_a_task_has_no_room_for_all_of_it(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    task_id = await new_task(client, result="x" * (MAX_EVENT_BYTES - 2_000))
    await (await held_run(client, task_id)).finish("failed", "y" * 2_000)
    task = await told(client, tailrace, task_id)
    assert (task["status"], task["error"]) == ("failed", "y" * 200 + "…")
