"""Workers made with the Python client: they complete, fail, are cancelled, lose leases, die and are replaced."""

import asyncio
import random
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import pytest_asyncio

from shared.client import Client, Conflict, Forbidden, LeasedRun, Refused, Worker, publish
from shared.client.attempt import Handler
from tests.integration.client_support import in_time
from tests.support.contract import ANSWER_SECONDS, RUNS, Frame, Served, events_of, sql
from tests.support.cutting_proxy import cutting_proxy
from tests.support.server import running, sse

SETTINGS = {"lease_seconds": 1.5, "retry_milliseconds": 50}

pytestmark = pytest.mark.usefixtures("quick_backoff")


@pytest_asyncio.fixture
async def plain(tailrace: Served) -> AsyncIterator[Client]:
    async with Client(tailrace.url) as opened:
        yield opened


@asynccontextmanager
async def working(client: Client, runner: str, handler: Handler, **options: Any) -> AsyncIterator[Worker]:
    """A worker that works until the block ends, and is then cancelled like a process that is told to leave."""
    worker = Worker(client, [runner], handler, **options)
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        task.cancel()
        await asyncio.wait([task])


async def queued(client: httpx.AsyncClient, runner: str, **more: Any) -> str:
    body = {"task": "work", "mode": "queued", "runner": runner, **more}
    return str((await client.post(RUNS, json=body)).raise_for_status().json()["id"])


async def ended(client: httpx.AsyncClient, run_id: str) -> dict[str, Any]:
    """The run, when it is over."""
    async with in_time(), sse(client, f"{RUNS}/{run_id}/stream") as stream:
        await stream.until(lambda message: message.event == "stream_end")
    run: dict[str, Any] = (await client.get(f"{RUNS}/{run_id}")).raise_for_status().json()
    return run


def life(frames: list[Frame]) -> list[tuple[str, int]]:
    return [(f.event.get("status") or f.event["code"], f.event["attempt"]) for f in frames if f.type != "node_update"]


# ── ends ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_a_handler_returns_is_the_runs_output(client: httpx.AsyncClient, plain: Client) -> None:
    seen: list[LeasedRun] = []

    async def handler(run: LeasedRun) -> str:
        seen.append(run)
        for number in range(3):
            await run.emit("node_update", node="writer", iteration=number)
        await run.emit("custom.note", text="done")
        return "the output"

    async with working(plain, "completes", handler, name="me"):
        run_id = await queued(client, "completes", params={"a": 1})
        run = await ended(client, run_id)
    assert (run["status"], run["output"], run["attempt"]) == ("completed", "the output", 1)
    (leased,) = seen
    assert (leased.id, leased.task, leased.params, leased.attempt) == (run_id, "work", {"a": 1}, 1)
    assert leased.json["max_attempts"] == 3
    frames = await events_of(client, run_id)
    assert [frame.type for frame in frames] == ["status", "status", *["node_update"] * 3, "custom.note", "status"]
    assert [frame.event["iteration"] for frame in frames[2:5]] == [0, 1, 2]
    assert {(frame.event["worker_id"], frame.event["attempt"]) for frame in frames[2:5]} == {("me", 1)}
    assert frames[1].event["worker"] == "me"


async def test_what_a_handler_raises_is_the_runs_error_in_one_line(client: httpx.AsyncClient, plain: Client) -> None:
    async def handler(run: LeasedRun) -> None:
        if run.task == "wordless":
            raise LookupError
        raise ValueError("the model\n  said\0 no " + "x" * 5_000)

    async with working(plain, "fails", handler):
        run = await ended(client, await queued(client, "fails"))
        wordless = await ended(client, await queued(client, "fails", task="wordless"))
    assert run["status"] == wordless["status"] == "failed"
    assert run["error"].startswith("the model said no xxx")
    assert len(run["error"]) == 1_000
    assert wordless["error"] == "LookupError"


async def test_an_output_that_is_refused_fails_the_run_with_the_reason(
    client: httpx.AsyncClient, plain: Client
) -> None:
    async def handler(run: LeasedRun) -> str:
        return "NUL: \0"

    async with working(plain, "nul", handler):
        run = await ended(client, await queued(client, "nul"))
    assert run["status"] == "failed"
    assert run["error"].startswith("the output was refused: output: ")


async def test_a_refused_event_is_the_handlers_to_deal_with(client: httpx.AsyncClient, plain: Client) -> None:
    async def handler(run: LeasedRun) -> str:
        with pytest.raises(Refused, match="type must be one of"):
            await run.emit("status", status="completed")
        return "all the same"

    async with working(plain, "refused", handler):
        run = await ended(client, await queued(client, "refused"))
    assert run["output"] == "all the same"


async def test_what_was_said_without_waiting_comes_before_the_end(
    client: httpx.AsyncClient, plain: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "MAX_EVENTS", 5)  # many requests, one after the other
    emitting: set[asyncio.Task[Any]] = set()

    async def handler(run: LeasedRun) -> None:
        for number in range(50):
            emitting.add(asyncio.create_task(run.emit("node_update", node="n", iteration=number)))
        await asyncio.sleep(0)

    async with working(plain, "unwaited", handler):
        run_id = await queued(client, "unwaited")
        await ended(client, run_id)
    frames = await events_of(client, run_id)
    assert [frame.event["iteration"] for frame in frames if frame.type == "node_update"] == list(range(50))
    assert frames[-1].event["status"] == "completed"


# ── cancelling ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_cancelled_run_cancels_its_handler(client: httpx.AsyncClient, plain: Client) -> None:
    begun, left = asyncio.Event(), asyncio.Event()

    async def handler(run: LeasedRun) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            assert run.cancelled.is_set()
            await run.emit("node_update", node="last words")
            left.set()

    async with working(plain, "cancelled", handler):
        run_id = await queued(client, "cancelled")
        await begun.wait()
        (await client.post(f"{RUNS}/{run_id}/cancel")).raise_for_status()
        run = await ended(client, run_id)
    assert left.is_set()
    assert run["status"] == "cancelled"
    assert [frame.event["node"] for frame in await events_of(client, run_id) if frame.type == "node_update"] == [
        "last words"
    ]


async def test_an_event_brings_the_news_of_a_cancellation_at_once(client: httpx.AsyncClient, plain: Client) -> None:
    async def handler(run: LeasedRun) -> str:
        (await client.post(f"{RUNS}/{run.id}/cancel")).raise_for_status()
        await run.emit("node_update", node="n")
        assert run.cancelled.is_set()
        await asyncio.Event().wait()
        return "too late"

    async with working(plain, "news", handler):
        run = await ended(client, await queued(client, "news"))
    assert (run["status"], run["output"]) == ("cancelled", None)


async def test_a_thread_sees_that_its_run_is_cancelled(client: httpx.AsyncClient, plain: Client) -> None:
    begun, left = asyncio.Event(), threading.Event()

    async def handler(run: LeasedRun) -> None:
        def count() -> None:
            while not run.cancelled.is_set():
                left.wait(0.01)
            left.set()

        begun.set()
        await asyncio.to_thread(count)

    async with working(plain, "thread", handler):
        run_id = await queued(client, "thread")
        await begun.wait()
        (await client.post(f"{RUNS}/{run_id}/cancel")).raise_for_status()
        assert (await ended(client, run_id))["status"] == "cancelled"
    assert await asyncio.to_thread(left.wait, ANSWER_SECONDS)


async def test_a_handler_that_does_not_stop_is_left_behind(client: httpx.AsyncClient, plain: Client) -> None:
    begun, may_stop, stopped = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def handler(run: LeasedRun) -> None:
        begun.set()
        while not may_stop.is_set():
            try:
                await may_stop.wait()
            except asyncio.CancelledError:
                continue
        stopped.set()

    async with working(plain, "stubborn", handler, cancel_grace_seconds=0.1):
        run_id = await queued(client, "stubborn")
        await begun.wait()
        (await client.post(f"{RUNS}/{run_id}/cancel")).raise_for_status()
        assert (await ended(client, run_id))["status"] == "cancelled"
    may_stop.set()
    await stopped.wait()


# ── leases ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_lease_is_kept_while_the_work_takes_longer(client: httpx.AsyncClient, plain: Client) -> None:
    async def handler(run: LeasedRun) -> str:
        await asyncio.sleep(3.5)  # more than two leases
        return "done"

    async with working(plain, "long", handler):
        run_id = await queued(client, "long")
        run = await ended(client, run_id)
    assert (run["status"], run["attempt"]) == ("completed", 1)
    assert "error" not in [frame.type for frame in await events_of(client, run_id)]


@pytest.mark.parametrize("noticed_by", ["renewing", "emitting"])
async def test_a_lost_lease_cancels_the_handler_and_says_nothing(
    client: httpx.AsyncClient, tailrace: Served, plain: Client, noticed_by: str
) -> None:
    begun: list[int] = []
    left = asyncio.Event()

    async def handler(run: LeasedRun) -> str:
        begun.append(run.attempt)
        if run.attempt == 2:
            return "of the second"
        async with sql(tailrace.database_url) as database:
            await database.execute("UPDATE runs.runs SET lease_expires_at = now() WHERE id = $1", run.id)
        try:
            if noticed_by == "emitting":
                with pytest.raises((Forbidden, Conflict)):
                    await run.emit("node_update", node="n")
            await asyncio.Event().wait()
        finally:
            left.set()
        return "of the first"

    async with working(plain, f"lost-{noticed_by}", handler):
        run_id = await queued(client, f"lost-{noticed_by}")
        run = await ended(client, run_id)
    assert left.is_set()
    assert begun == [1, 2]
    assert (run["status"], run["output"], run["attempt"]) == ("completed", "of the second", 2)
    assert life(await events_of(client, run_id)) == [
        ("queued", 1),
        ("running", 1),
        ("lease_lost", 1),
        ("queued", 2),
        ("running", 2),
        ("completed", 2),
    ]


async def test_a_run_that_ends_otherwise_cancels_its_handler(client: httpx.AsyncClient, plain: Client) -> None:
    left = asyncio.Event()

    async def handler(run: LeasedRun) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    async with working(plain, "late", handler):
        run = await ended(client, await queued(client, "late", timeout_seconds=0.3))
        await left.wait()
    assert run["status"] == "timed_out"


async def test_another_worker_takes_over_from_one_that_died(client: httpx.AsyncClient, plain: Client) -> None:
    begun = asyncio.Event()

    async def dies(run: LeasedRun) -> None:
        await run.emit("node_update", node="first")
        begun.set()
        await asyncio.Event().wait()

    async def completes(run: LeasedRun) -> str:
        await run.emit("node_update", node="second")
        return "done"

    run_id = await queued(client, "dies")
    async with working(plain, "dies", dies):
        await begun.wait()
    async with working(plain, "dies", completes):
        run = await ended(client, run_id)
    assert (run["status"], run["attempt"]) == ("completed", 2)
    nodes = [frame.event["node"] for frame in await events_of(client, run_id) if frame.type == "node_update"]
    assert nodes == ["first", "second"]


async def test_kill_9_of_the_server_does_not_end_the_attempt(database_url: str) -> None:
    async with running(database_url) as server, Client(server.url) as plain, asyncio.timeout(ANSWER_SECONDS * 2):
        emitted = asyncio.Event()
        is_back = asyncio.Event()

        async def handler(run: LeasedRun) -> str:
            await run.emit("node_update", node="n", iteration=1)
            emitted.set()
            await run.emit("node_update", node="n", iteration=2)  # under way when it dies, or after
            await is_back.wait()
            await run.emit("node_update", node="n", iteration=3)
            return "done"

        async with working(plain, "x", handler):
            async with httpx.AsyncClient(base_url=server.url) as http:
                run_id = await queued(http, "x")
            await emitted.wait()
            await server.kill()
            await server.start()
            is_back.set()
            async with httpx.AsyncClient(base_url=server.url) as http:
                run = await ended(http, run_id)
                frames = await events_of(http, run_id)
    assert (run["status"], run["attempt"]) == ("completed", 1)
    assert [frame.event["iteration"] for frame in frames if frame.type == "node_update"] == [1, 2, 3]


async def test_an_end_is_said_until_it_is_answered(client: httpx.AsyncClient, tailrace: Served) -> None:
    dice = random.Random("ends")

    async def handler(run: LeasedRun) -> str:
        proxy.answers = lambda: dice.choice([0, 0, 0, 2_000])  # what is asked arrives, answers mostly do not
        proxy.cut_all()
        return "done"

    async with (
        asyncio.timeout(ANSWER_SECONDS * 2),
        cutting_proxy(tailrace.url) as proxy,
        Client(proxy.url) as through,
        working(through, "ends", handler),
    ):
        for _ in range(3):
            run_id = await queued(client, "ends")
            assert (await ended(client, run_id))["output"] == "done"
            assert [frame.event["status"] for frame in await events_of(client, run_id)][-1] == "completed"


# ── several at a time, and stopping ────────────────────────────────────────────────────────────────────────────


async def test_as_many_runs_at_a_time_as_there_is_room_for(client: httpx.AsyncClient, plain: Client) -> None:
    begun: list[str] = []
    three, may_end = asyncio.Barrier(4), asyncio.Event()

    async def handler(run: LeasedRun) -> None:
        begun.append(run.id)
        if len(begun) <= 3:
            await three.wait()
        await may_end.wait()

    runs = [await queued(client, "room") for _ in range(6)]
    async with working(plain, "room", handler, capacity=3):
        await three.wait()  # three at once
        for _ in range(30):  # time enough for a fourth
            await client.get(RUNS)
        assert begun == runs[:3]
        may_end.set()
        for run_id in runs:
            assert (await ended(client, run_id))["status"] == "completed"


async def test_stopping_ends_what_is_under_way_and_takes_no_more(client: httpx.AsyncClient, plain: Client) -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def handler(run: LeasedRun) -> str:
        begun.set()
        await may_end.wait()
        return "done"

    worker = Worker(plain, ["stopping"], handler)
    task = asyncio.create_task(worker.run())
    run_id = await queued(client, "stopping")
    await begun.wait()
    worker.stop()
    left_over = await queued(client, "stopping")
    may_end.set()
    await task
    assert (await ended(client, run_id))["status"] == "completed"
    assert (await client.get(f"{RUNS}/{left_over}")).json()["status"] == "queued"


async def test_stopping_does_not_wait_for_work_to_come(plain: Client) -> None:
    async def handler(run: LeasedRun) -> None: ...

    worker = Worker(plain, ["nothing"], handler)
    task = asyncio.create_task(worker.run())
    for _ in range(50):
        await asyncio.sleep(0)
    worker.stop()
    async with asyncio.timeout(5):
        await task


async def test_a_worker_that_is_refused_says_so(plain: Client) -> None:
    async def handler(run: LeasedRun) -> None: ...

    with pytest.raises(Refused, match="runners"):
        await Worker(plain, [], handler).run()


async def test_a_worker_that_is_cancelled_leaves_no_task(client: httpx.AsyncClient, tailrace: Served) -> None:
    async def handler(run: LeasedRun) -> None:
        await run.emit("node_update", node="n")
        await asyncio.Event().wait()

    before = asyncio.all_tasks()
    await queued(client, "leaves")
    for steps in (0, 5, 20, 60, 200, 600):
        async with Client(tailrace.url) as plain, working(plain, "leaves", handler):
            for _ in range(steps):
                await asyncio.sleep(0)
        assert asyncio.all_tasks() == before
