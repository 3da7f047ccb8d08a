"""Tasks follow their runs across a break in the runs feed: the state is read anew, and nothing is lost or invented.

One story is told for every way in which continuity can break while the tasks service is down, and once for none. The
runs service and the tasks service are processes of their own, over one database.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from shared.channel.postgres import Database, PostgresEventLog
from shared.client.consume import MAX_BATCH
from tests.support.consumption import (
    TASKS,
    Apart,
    Held,
    apart,
    feed_position,
    heard,
    held_run,
    new_task,
    refusals,
    snapshots,
    task_of,
)
from tests.support.contract import RUNS, sql
from tests.support.readers import eventually
from tests.support.server import ROOT

# ── ways to break it ───────────────────────────────────────────────────────────────────────────────────────────


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
        state = await PostgresEventLog(database, "runs").trim(max_age_seconds=None, max_events=0)
    finally:
        await database.close()
    position = await feed_position(at.database)
    assert position is not None
    assert position[1] < state.oldest - 1


async def ahead(at: Apart) -> None:
    """The position is one that the log has not come to."""
    await at.database.execute(
        "UPDATE tasks.feeds SET position = (SELECT epoch || '-' || (head + 1000)::text FROM runs.log)"
    )


async def unknown(at: Apart) -> None:
    """There is no position."""
    await at.database.execute("DELETE FROM tasks.feeds")


BREAKS = [nothing, new_epoch, trimmed, ahead, unknown]


TITLES = (
    *("ended", "several", "fresh", "failed", "gone", "unheard", "waiting", "idle", "cancelled"),
    *("untouched", "finished", "theirs"),
)


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: str(broken.__name__))
async def test_what_was_missed_is_made_up_for(database_url: str, broken: Callable[[Apart], Awaitable[None]]) -> None:
    async with apart(database_url) as at:
        tasks = {title: await new_task(at.tasks, title=title) for title in TITLES}
        await at.database.execute("UPDATE tasks.tasks SET tenant = 'other' WHERE id = $1", tasks["theirs"])
        runs = await begun(at, tasks)
        unchanged = [(await task_of(at.tasks, tasks[title]))["rev"] for title in ("untouched", "finished", "idle")]

        await at.tasks_server.kill()
        await go_on(at, tasks, runs)
        await broken(at)
        await at.tasks_server.start()

        await heard(database_url)
        assert await at.states(*(tasks[title] for title in TITLES[:9])) == [
            ("succeeded", 1, 1),
            ("running", 1, 2),
            ("running", 1, 2),
            ("failed", 2, 2),
            ("failed", 1, 1),
            ("queued", 0, None),
            ("waiting_input", 0, 1),
            ("queued", 0, None),
            ("cancelled", 0, 1),
        ]
        assert (await task_of(at.tasks, tasks["failed"]))["error"] == "boom"
        assert (await task_of(at.tasks, tasks["gone"]))["error"] == f"run {runs['gone'].id} is not known any more"
        revs = [(await task_of(at.tasks, tasks[title]))["rev"] for title in ("untouched", "finished", "idle")]
        assert revs == unchanged
        await eventually(runs["missed"].is_to_stop, "a run that the cancelled task had not heard of is to stop")
        refused = await refusals(database_url)
        assert {(refusal.subject, refusal.reason) for refusal in refused} == {
            (f"run/{runs['stranger'].id}", "other_tenant")
        }

        for name in ("several, too", "fresh, too", "untouched"):
            await runs[name].finish()
        await runs["waiting"].finish("cancelled")
        await heard(database_url)
        assert await at.states(*(tasks[title] for title in ("several", "fresh", "untouched", "waiting"))) == [
            ("succeeded", 2, 2),
            ("succeeded", 2, 2),
            ("succeeded", 1, 1),
            ("cancelled", 1, 1),
        ]
        assert await refusals(database_url) == refused
        await check_snapshots(at)


async def begun(at: Apart, tasks: dict[str, str]) -> dict[str, Held]:
    """Their runs before the break, and the cancel of one task; all of it has been heard."""
    titles = ("ended", "several", "failed", "gone", "waiting", "untouched", "cancelled", "finished")
    runs = {title: await held_run(at.runs, tasks[title]) for title in titles}
    for title in ("several", "failed"):
        runs[f"{title}, too"] = await held_run(at.runs, tasks[title])
    await runs["finished"].finish()
    await heard(at.database_url)
    (await at.tasks.post(f"{TASKS}/{tasks['cancelled']}/cancel")).raise_for_status()
    await eventually(runs["cancelled"].is_to_stop, "the cancelled task's run is to stop")
    await heard(at.database_url)
    return runs


async def go_on(at: Apart, tasks: dict[str, str], runs: dict[str, Held]) -> None:
    """What the tasks service does not hear of when it happens."""
    for title in ("fresh", "fresh, too"):
        runs[title] = await held_run(at.runs, tasks["fresh"])
    for name in ("ended", "several", "fresh", "failed, too"):
        await runs[name].finish()
    await runs["failed"].finish("failed", "boom")
    await runs["waiting"].tell({"type": "client_input_requested"})
    runs["unheard"] = await held_run(at.runs, tasks["unheard"])
    for name in ("gone", "unheard"):
        await runs[name].finish()
        (await at.runs.delete(f"{RUNS}/{runs[name].id}")).raise_for_status()
    runs["stranger"] = await held_run(at.runs, tasks["theirs"])
    runs["missed"] = await held_run(at.runs, tasks["cancelled"])


async def check_snapshots(at: Apart) -> None:
    """Each change of a task was told once."""
    revs: dict[str, list[int]] = {}
    for snapshot in await snapshots(at.tasks):
        revs.setdefault(snapshot["task_id"], []).append(snapshot["rev"])
    for task_id, seen in revs.items():
        assert seen == list(range(1, len(seen) + 1)), task_id


# ── a restore ──────────────────────────────────────────────────────────────────────────────────────────────────


async def back_up(at: Apart) -> None:
    await at.database.execute("CREATE SCHEMA backup")
    for table in await runs_tables(at):
        await at.database.execute(f"CREATE TABLE backup.{table} AS TABLE runs.{table}")


async def restore(at: Apart) -> None:
    """The runs service's part of the database is what it was, under the same epoch."""
    await at.runs_server.kill()
    async with at.database.transaction():
        for table in await runs_tables(at):
            await at.database.execute(f"DELETE FROM runs.{table}")
            await at.database.execute(f"INSERT INTO runs.{table} SELECT * FROM backup.{table}")
    await at.runs_server.start()


async def runs_tables(at: Apart) -> list[str]:
    rows = await at.database.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'runs'")
    return [row["tablename"] for row in rows]


@pytest.mark.parametrize("is_told", [False, True], ids=["same epoch", "new epoch"])
async def test_runs_that_a_restore_has_taken_back_are_taken_back(database_url: str, is_told: bool) -> None:
    """What the tasks service has heard is younger than what is there now, and counts no more."""
    async with apart(database_url) as at:
        several, ended, cancelled, lost = [await new_task(at.tasks) for _ in range(4)]
        one, two, ending, stopping = [
            await held_run(at.runs, task_id) for task_id in (several, several, ended, cancelled)
        ]
        await heard(database_url)
        await back_up(at)
        await one.tell(*({"type": "node_update", "node": "n"} for _ in range(300)))
        await one.finish()
        await ending.finish()
        await held_run(at.runs, lost)
        await heard(database_url)
        (await at.tasks.post(f"{TASKS}/{cancelled}/cancel")).raise_for_status()
        await eventually(stopping.is_to_stop, "it is to stop")
        await heard(database_url)
        assert await at.states(several, ended, lost) == [("running", 1, 2), ("succeeded", 1, 1), ("running", 0, 1)]

        await restore(at)
        if is_told:
            await new_epoch(at)
        await heard(database_url)
        assert await at.states(several, ended, lost) == [("running", 0, 2), ("succeeded", 1, 1), ("failed", 1, 1)]
        await eventually(stopping.is_to_stop, "it goes on again, and is to stop again")

        await one.finish("failed", "boom")
        await two.finish()
        await ending.finish()
        await heard(database_url)
        assert await at.states(several, ended) == [("failed", 2, 2), ("succeeded", 1, 1)]
        assert await refusals(database_url) == []
        await check_snapshots(at)


# ── what happens while the state is read ───────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def held_up(at: Apart, lock: str, *args: object) -> AsyncIterator[None]:
    """The tasks service starts over, and the block begins when it waits for what this statement locks."""
    await at.tasks_server.kill()
    await unknown(at)
    async with sql(at.database_url) as blocking, blocking.transaction():
        await blocking.fetch(lock, *args)
        pid = blocking.get_server_pid()
        await at.tasks_server.start()

        async def waits() -> bool:
            return bool(
                await at.database.fetchval(
                    """SELECT count(*) FROM pg_stat_activity
                       WHERE application_name = 'tailrace appender' AND $1 = ANY(pg_blocking_pids(pid))""",
                    pid,
                )
            )

        await eventually(waits, "it waits")
        yield


async def test_what_the_list_has_told_the_feed_does_not_tell_again(database_url: str) -> None:
    async with apart(database_url) as at:
        task_id = await new_task(at.tasks)
        asking, other = await held_run(at.runs, task_id), await held_run(at.runs, task_id)
        await heard(database_url)
        told = len(await snapshots(at.tasks, task_id))
        async with held_up(at, "SELECT FROM tasks.log FOR UPDATE"):  # it knows the head, and has not read the list
            await asking.tell({"type": "client_input_requested"})
            noise = {"task": "work", "runner": "nobody", "count": 100, "stagger_ms": 0}
            for _ in range(MAX_BATCH // 100 + 1):  # so that the feed brings the question and its answer apart
                (await at.runs.post(f"{RUNS}/batch", json=noise)).raise_for_status()
            (await at.runs.post(f"{RUNS}/{asking.id}/input", json={"input": "yes"})).raise_for_status()
            await asking.finish()
        await heard(database_url)
        since = (await snapshots(at.tasks, task_id))[told:]
        assert [(snapshot["status"], snapshot["progress"]["done"]) for snapshot in since] == [("running", 1)]
        await other.finish()
        await heard(database_url)
        assert await at.states(task_id) == [("succeeded", 2, 2)]


async def test_what_happens_after_the_list_was_read_the_feed_tells(database_url: str) -> None:
    async with apart(database_url) as at:
        task_id = await new_task(at.tasks)
        run, other = await held_run(at.runs, task_id), await held_run(at.runs, task_id)
        await heard(database_url)
        await run.finish()
        await heard(database_url)
        await at.database.execute("UPDATE tasks.task_runs SET seq = 1")  # so that the list has something to tell
        async with held_up(at, "SELECT FROM tasks.tasks WHERE id = $1 FOR UPDATE", task_id):
            await other.finish()
            late = await held_run(at.runs, task_id)
        await heard(database_url)
        assert await at.states(task_id) == [("succeeded", 2, 2)]
        assert {refusal.subject for refusal in await refusals(database_url)} == {f"run/{late.id}"}
        await check_snapshots(at)


# ── while it is connected ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_new_epoch_reaches_a_consumer_that_is_connected(database_url: str) -> None:
    async with apart(database_url) as at:
        task_id = await new_task(at.tasks)
        run, other = await held_run(at.runs, task_id), await held_run(at.runs, task_id)
        await heard(database_url)
        for _ in range(3):
            await new_epoch(at)
            await heard(database_url)
        await run.finish()
        await other.finish()
        await heard(database_url)
        assert await at.states(task_id) == [("succeeded", 2, 2)]
        assert await refusals(database_url) == []
        await check_snapshots(at)
