"""The tasks service when the runs service is away, and when there is more than one of it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import httpx
import psutil

from shared.channel.log import MAX_COMMAND_BYTES, MAX_EVENT_BYTES
from shared.channel.postgres.turn import SILENT_SECONDS
from tests.support.consumption import (
    TASKS,
    Apart,
    Connection,
    apart,
    feed_position,
    heard,
    held_run,
    new_task,
    refusals,
    snapshots,
    task_of,
)
from tests.support.contract import RUNS, metric, sql
from tests.support.readers import eventually
from tests.support.server import Server, running

# ── the runs service is away ───────────────────────────────────────────────────────────────────────────────────


def answer(status: str, media_type: str, body: str, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-type: {media_type}", f"content-length: {len(body)}", *headers]
    return ("\r\n".join([*lines, "connection: close", "", ""]) + body).encode()


PAGE = "<html><body><h1>Something else lives here</h1></body></html>"
STRANGE = {
    "502 of a proxy": answer("502 Bad Gateway", "text/html", PAGE),
    "503 that asks for patience": answer("503 Service Unavailable", "text/html", PAGE, "retry-after: 1"),
    "200 with a page": answer("200 OK", "text/html", PAGE),
    "200 with other JSON": answer("200 OK", "application/json", '{"hello": "world"}'),
    "a stream of something else": answer("200 OK", "text/event-stream", "data: hello\n\n"),
    "404 of a proxy": answer("404 Not Found", "text/plain", "no such backend"),
    "401": answer("401 Unauthorized", "text/html", PAGE),
    "302 to a login": answer("302 Found", "text/html", "", "location: http://127.0.0.1:9/login"),
    "no HTTP at all": b"SSH-2.0-OpenSSH_9.9\r\n",
    "nothing": b"",
}


class Stranger:
    """Something that answers at the runs service's port, and counts who asked for what."""

    def __init__(self, says: bytes) -> None:
        self._says = says
        self.asked: list[str] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            self.asked.append(request.decode().split("\r\n")[0])
            writer.write(self._says)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def was_asked(self, what: str) -> bool:
        return any(what in line for line in self.asked)


@asynccontextmanager
async def stranger(port: int, says: bytes) -> AsyncIterator[Stranger]:
    made = Stranger(says)
    server = await asyncio.start_server(made.handle, "127.0.0.1", port)
    try:
        yield made
    finally:
        server.close()
        await server.wait_closed()


async def test_whatever_answers_while_the_runs_service_is_away_tasks_go_on_after_it(database_url: str) -> None:
    async with apart(database_url) as at:
        task_id, cancelled = await new_task(at.tasks), await new_task(at.tasks)
        run, stopped = await held_run(at.runs, task_id), await held_run(at.runs, cancelled)
        await heard(database_url)
        position = await feed_position(at.database)

        await at.runs_server.kill()
        for number, says in enumerate(STRANGE.values()):
            async with stranger(at.runs_server.port, says) as other:
                if number == 0:
                    (await at.tasks.post(f"{TASKS}/{cancelled}/cancel")).raise_for_status()
                await eventually(partial(other.was_asked, "/stream"), "the feed is asked for")
                await eventually(partial(other.was_asked, f"{stopped.id}/cancel"), "a run is asked to stop")
        assert (await at.tasks.get("/health")).status_code == 200
        assert await feed_position(at.database) == position
        await at.runs_server.start()

        await run.finish()
        await eventually(stopped.is_to_stop, "the cancelled task's run is to stop")
        await stopped.finish("cancelled")
        await heard(database_url)
        assert await at.states(task_id, cancelled) == [("succeeded", 1, 1), ("cancelled", 0, 1)]
        assert await refusals(database_url) == []

        async def is_asked() -> bool:
            stop = await at.database.fetchval("SELECT stop FROM tasks.task_runs WHERE run_id = $1", stopped.id)
            return bool(stop == "asked")

        await eventually(is_asked, "it is not asked again and again")


async def test_a_runs_service_that_is_restarted_again_and_again_costs_no_news(database_url: str) -> None:
    async with apart(database_url) as at:
        task_id = await new_task(at.tasks)
        runs = [await held_run(at.runs, task_id) for _ in range(6)]
        for done, run in enumerate(runs):
            await run.finish()
            await (at.runs_server.kill() if done % 2 else at.runs_server.end())
            await at.runs_server.start()
        await heard(database_url)
        assert await at.states(task_id) == [("succeeded", 6, 6)]
        assert await each_change_was_told_once(at.tasks) > 1


# ── the tasks service was away: what it missed comes in one batch ──────────────────────────────────────────────


async def test_what_came_and_went_meanwhile_is_not_told(database_url: str) -> None:
    async with apart(database_url) as at:
        task_id = await new_task(at.tasks)
        run, other = await held_run(at.runs, task_id), await held_run(at.runs, task_id)
        await heard(database_url)
        before = await task_of(at.tasks, task_id)
        await at.tasks_server.kill()
        await run.tell({"type": "client_input_requested"})
        (await at.runs.post(f"{RUNS}/{run.id}/input", json={"input": "yes"})).raise_for_status()
        await at.tasks_server.start()
        await heard(database_url)
        assert await task_of(at.tasks, task_id) == before
        await run.finish()
        await other.finish()
        await heard(database_url)
        assert await at.states(task_id) == [("succeeded", 2, 2)]
        await each_change_was_told_once(at.tasks)


async def test_more_snapshots_than_one_transaction_takes_are_told_in_several(database_url: str) -> None:
    async with apart(database_url) as at:
        result = "x" * (MAX_EVENT_BYTES - 2_000)
        task_ids = [await new_task(at.tasks, result=result) for _ in range(MAX_COMMAND_BYTES // MAX_EVENT_BYTES + 5)]
        await heard(database_url)
        await at.tasks_server.kill()
        for task_id in task_ids:
            await held_run(at.runs, task_id)
        await at.tasks_server.start()
        await heard(database_url)
        assert await at.states(*task_ids) == [("running", 0, 1)] * len(task_ids)
        assert await refusals(database_url) == []
        await each_change_was_told_once(at.tasks)


async def test_without_the_runs_services_address_tasks_are_served_all_the_same(database_url: str) -> None:
    async with (
        running(database_url, service="tasks") as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as client,
    ):
        task_id = await new_task(client)
        assert (await client.post(f"{TASKS}/{task_id}/cancel")).json()["status"] == "cancelled"
        assert any("TAILRACE_RUNS_URL" in line for line in server.output)


async def each_change_was_told_once(client: httpx.AsyncClient) -> int:
    """Checks the stored snapshots of all tasks; how many there are."""
    revs: dict[str, list[int]] = {}
    for snapshot in await snapshots(client):
        revs.setdefault(snapshot["task_id"], []).append(snapshot["rev"])
    for task_id, seen in revs.items():
        assert seen == list(range(1, len(seen) + 1)), task_id
    return sum(map(len, revs.values()))


TAKEN = "a turn was taken"
WAITS = "a feed waits for the database"

# ── standbys ───────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def three(database_url: str) -> AsyncIterator[tuple[Apart, list[Server]]]:
    """Three tasks processes over one database; the first is `tasks_server` too."""
    async with apart(database_url, log_level="info") as at, AsyncExitStack() as stack:
        more = [
            await stack.enter_async_context(
                running(database_url, service="tasks", runs_url=at.runs_server.url, log_level="info")
            )
            for _ in range(2)
        ]
        yield at, [at.tasks_server, *more]


def active(servers: Sequence[Server]) -> Server:
    """Who took the turn last: lines begin with the time."""
    taken = [(line, place) for place, server in enumerate(servers) for line in server.output if TAKEN in line]
    return servers[max(taken)[1]]


async def turns(database: Connection) -> tuple[int | None, int]:
    """The session that has the turn, and how many there are that want it."""
    rows = await database.fetch(
        """SELECT a.pid, EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'advisory' AND l.granted)
               AS has_it
           FROM pg_stat_activity a
           WHERE a.datname = current_database() AND a.application_name = 'tailrace turn'"""
    )
    having = [row["pid"] for row in rows if row["has_it"]]
    assert len(having) <= 1
    return (having[0] if having else None), len(rows)


async def turn_of_another(database: Connection, holder: int | None, sessions: int) -> int:
    """Wait until a session other than `holder` has the turn, of so many that want it."""
    found: list[int] = []

    async def is_there() -> bool:
        pid, wanted = await turns(database)
        found[:] = [pid] if pid is not None and pid != holder and wanted == sessions else []
        return bool(found)

    await eventually(is_there, "another has the turn")
    return found[0]


async def one_reads(at: Apart) -> bool:
    return await metric(at.runs, "tailrace_readers", transport="sse") == 1


async def test_of_three_one_consumes_and_when_it_is_gone_another(database_url: str) -> None:
    async with three(database_url) as (at, servers):
        holder = await turn_of_another(at.database, None, 3)
        client_of = {server: httpx.AsyncClient(base_url=server.url, timeout=30) for server in servers}
        task_id = await new_task(at.tasks)
        runs = [await held_run(at.runs, task_id) for _ in range(4)]
        for number, run in enumerate(runs[:3]):
            gone = active(servers)
            await (gone.end() if number == 1 else gone.kill())
            began = asyncio.get_running_loop().time()
            await run.finish()
            await heard(database_url)
            assert asyncio.get_running_loop().time() - began < 5  # a tenth of a second, and up to 0.75 s of waiting
            assert active(servers) is not gone
            await gone.start()
            holder = await turn_of_another(at.database, holder, 3)
            await eventually(lambda: one_reads(at), "one reads the feed")
        await runs[3].finish()
        await heard(database_url)
        for client in client_of.values():
            task = await task_of(client, task_id)
            assert (task["status"], task["progress"]["done"]) == ("succeeded", 4)
            await client.aclose()
        await each_change_was_told_once(at.tasks)


async def test_news_that_another_has_dealt_with_meanwhile_are_refused(database_url: str) -> None:
    async with apart(database_url) as at:
        task_id = await new_task(at.tasks)
        run, other = await held_run(at.runs, task_id), await held_run(at.runs, task_id)
        await heard(database_url)
        async with sql(database_url) as another, another.transaction():
            await another.execute("SELECT FROM tasks.log FOR UPDATE")  # every change begins with this lock
            await run.finish()
            await another.execute("UPDATE tasks.feeds SET position = (SELECT epoch || '-' || head FROM runs.log)")
        await other.finish("failed", "boom")
        await heard(database_url)
        assert await at.states(task_id) == [("running", 1, 2)]  # of `other`: the news of `run` were not this one's
        assert any("any more" in line for line in at.tasks_server.output)


async def test_one_that_is_frozen_is_replaced_and_refused_when_it_wakes(database_url: str) -> None:
    async with three(database_url) as (at, servers):
        holder = await turn_of_another(at.database, None, 3)
        frozen = active(servers)
        (awake, *_) = [server for server in servers if server is not frozen]
        async with httpx.AsyncClient(base_url=awake.url, timeout=30) as client:
            task_id, cancelled = await new_task(client), await new_task(client)
            runs = [await held_run(at.runs, task_id) for _ in range(3)]
            stopped = await held_run(at.runs, cancelled)
            await heard(database_url)
            frozen.freeze()
            process = psutil.Process(frozen.pid)
            await eventually(lambda: process.status() == psutil.STATUS_STOPPED, "it is frozen")
            began = asyncio.get_running_loop().time()
            await runs[0].finish()  # it will find the news of this in its socket
            (await client.post(f"{TASKS}/{cancelled}/cancel")).raise_for_status()
            await eventually(stopped.is_to_stop, "any replica asks runs to stop")
            await stopped.finish("cancelled")
            await heard(database_url)
            assert SILENT_SECONDS / 2 < asyncio.get_running_loop().time() - began < SILENT_SECONDS * 2
            second = await turn_of_another(at.database, holder, 2)
            await runs[1].finish()
            await heard(database_url)

            frozen.thaw()
            await eventually(lambda: any(WAITS in line for line in frozen.output), "it has noticed")
            assert await turn_of_another(at.database, None, 3) == second
            await eventually(lambda: one_reads(at), "one reads the feed")
            await runs[2].finish()
            await heard(database_url)
            assert await at.states(task_id, cancelled) == [("succeeded", 3, 3), ("cancelled", 0, 1)]
            await each_change_was_told_once(client)
            assert await refusals(database_url) == []
        print("".join(line for line in frozen.output if "not at" in line))
