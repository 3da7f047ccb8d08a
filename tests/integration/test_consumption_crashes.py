"""kill -9 of the tasks service, a hundred times, and worse: every task is what its runs make of it, exactly once."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx

from tests.support.consumption import Connection, feed_position, heard
from tests.support.contract import sql
from tests.support.forked import ForkedServer
from tests.support.postgres import fresh_database
from tests.support.readers import patient_client, seeded
from tests.support.server import Server, running
from tests.support.stories import Clock, Person, Story, check

KILLS = 100
REPLICAS = 3
STORIES = 90
TROUBLES = 80
LIMIT_SECONDS = 240.0  # on a quiet machine it takes a quarter of that


# ── proxies ────────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def serving(talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[int]:
    """A port where each connection is dealt with by `talk`."""
    talks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await talk(reader, writer)
        finally:
            writer.transport.abort()
            talks.discard(task)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in talks:
            task.cancel()
        if talks:
            await asyncio.wait(tuple(talks))
        await server.wait_closed()


async def first_of(*works: Coroutine[Any, Any, None]) -> None:
    """Until one of them ends; the others are cancelled."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in done:
        task.result()


@asynccontextmanager
async def cutting(server: Server, chance: random.Random) -> AsyncIterator[str]:
    """An address in front of the server, where each connection is cut after so many bytes of answers at most."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: int) -> None:
        while budget > 0 and (data := await reader.read(min(4096, budget))):
            budget -= len(data)
            writer.write(data)
            await writer.drain()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            await first_of(pump(reader, up, 10**9), pump(up_reader, writer, chance.randint(0, 30_000)))
        finally:
            up.transport.abort()

    async with serving(talk) as port:
        yield f"http://127.0.0.1:{port}"


# ── what is watched meanwhile ──────────────────────────────────────────────────────────────────────────────────


async def watch_position(database: Connection) -> None:
    """The feed's position never goes back."""
    last = 0
    while True:
        position = await feed_position(database)
        seq = 0 if position is None else position[1]
        assert seq >= last, f"the position went back from {last} to {seq}"
        last = seq
        await asyncio.sleep(0.02)


@asynccontextmanager
async def told(
    stories: Sequence[Story], clock: Clock, runs_database_url: str, tasks_database_url: str
) -> AsyncIterator[None]:
    """Tells the stories; in the block something goes wrong, until the clock's limit. Afterwards all has been heard.

    The feed is begun before: what is read from the list instead is judged together, not one event after the other.
    """
    await heard(runs_database_url, tasks_database_url)
    async with sql(tasks_database_url) as database:
        watching = asyncio.create_task(watch_position(database))
        try:
            async with asyncio.timeout(LIMIT_SECONDS), asyncio.TaskGroup() as tasks:
                for story in stories:
                    tasks.create_task(story.play())
                yield
                assert clock.is_over
            await heard(runs_database_url, tasks_database_url)
            assert not watching.done(), watching.exception()
        finally:
            watching.cancel()
            await asyncio.wait([watching])


async def holder_of_the_turn(database: Connection) -> int | None:
    pid: int | None = await database.fetchval(
        """SELECT l.pid FROM pg_locks l JOIN pg_stat_activity a USING (pid)
           WHERE a.datname = current_database() AND a.application_name = 'tailrace turn'
               AND l.locktype = 'advisory' AND l.granted"""
    )
    return pid


# ── the service ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_killed_a_hundred_times_every_task_is_right_and_nothing_happened_twice(database_url: str) -> None:
    chance = seeded("killed consumers")
    clock = Clock(KILLS)
    holders: set[int | None] = set()

    async def keep_killing(server: Server, chance: random.Random) -> None:
        time = asyncio.get_running_loop().time
        async with sql(database_url) as database:
            life = 0.5
            while True:
                await asyncio.sleep(chance.uniform(0, life))  # at any moment of its life
                if clock.is_over:
                    return
                holders.add(await holder_of_the_turn(database))
                await server.kill()
                await clock.strike()
                began = time()
                await server.start()
                life = max(0.5, time() - began)  # on a busy machine it takes longer to get anything done, too

    async with running(database_url, service="runs", lease_seconds=600) as runs_server, AsyncExitStack() as stack:
        url = await stack.enter_async_context(cutting(runs_server, chance))
        servers = [ForkedServer(database_url, service="tasks", runs_url=url) for _ in range(REPLICAS)]
        for server in servers:
            await server.start()
            stack.push_async_callback(server.kill)
        client = await stack.enter_async_context(patient_client())
        runs = await stack.enter_async_context(httpx.AsyncClient(base_url=runs_server.url, timeout=60))
        person = Person(client, [server.url for server in servers], chance)
        stories = [Story(person, runs, clock, chance) for _ in range(STORIES)]
        began = asyncio.get_running_loop().time()
        async with told(stories, clock, database_url, database_url):
            await asyncio.gather(*(keep_killing(server, random.Random(chance.random())) for server in servers))
        seconds = asyncio.get_running_loop().time() - began
        async with httpx.AsyncClient(base_url=servers[0].url, timeout=60) as tasks:
            outcomes = await check(stories, tasks, database_url, database_url)
    print(f"{clock.count} kills, {len(holders)} holders of the turn, {seconds:.0f} s, {outcomes}, {person.answers}")
    assert clock.count >= KILLS
    assert len(holders) > KILLS / 5
    assert outcomes.keys() >= {"succeeded", "failed", "cancelled by a person"}


# ── the database ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_whatever_connection_is_ended_nothing_happens_twice(database_url: str, postgres_url: str) -> None:
    chance = seeded("ended connections")
    clock, ended = Clock(TROUBLES), Counter[str]()

    async def keep_ending() -> None:
        async with sql(tasks_url) as database:
            while not clock.is_over:
                await asyncio.sleep(chance.uniform(0, 0.15))
                rows = await database.fetch(
                    """SELECT pid, application_name AS name FROM pg_stat_activity
                       WHERE datname = current_database() AND application_name LIKE 'tailrace %' ORDER BY pid"""
                )
                if rows:
                    row = chance.choice(rows)
                    await database.execute("SELECT pg_terminate_backend($1)", row["pid"])
                    ended[row["name"]] += 1
                await clock.strike()

    async with fresh_database(postgres_url) as tasks_url:
        outcomes = await told_apart((database_url, tasks_url, tasks_url), clock, chance, keep_ending)
    print(f"ended: {ended}; {outcomes}")
    assert ended.keys() >= {"tailrace appender", "tailrace reader", "tailrace listener", "tailrace turn"}


async def test_commits_whose_answer_is_lost_have_their_effects_once(database_url: str, postgres_url: str) -> None:
    chance = seeded("lost answers")
    clock = Clock(TROUBLES)

    async def keep_time() -> None:
        while not clock.is_over:
            await asyncio.sleep(0.1)
            await clock.strike()

    async with fresh_database(postgres_url) as tasks_url, losing_commits(tasks_url, clock, chance) as (url, lost):
        outcomes = await told_apart((database_url, tasks_url, url), clock, chance, keep_time)
    print(f"lost: {len(lost)}; {outcomes}")
    assert lost


async def told_apart(
    urls: tuple[str, str, str], clock: Clock, chance: random.Random, trouble: Callable[[], Awaitable[None]]
) -> Counter[str]:
    """Stories told with the tasks service in a database of its own. How they ended. `urls`: of the runs' database, of
    the tasks', and by which the tasks service reaches that.
    """
    runs_database_url, tasks_database_url, url = urls
    async with (
        running(runs_database_url, service="runs", lease_seconds=600) as runs_server,
        running(url, service="tasks", runs_url=runs_server.url, log_level="error") as server,
        httpx.AsyncClient(base_url=runs_server.url, timeout=60) as runs,
        httpx.AsyncClient(base_url=server.url, timeout=60) as tasks,
        patient_client() as client,
    ):
        person = Person(client, [server.url], chance)
        stories = [Story(person, runs, clock, chance) for _ in range(STORIES // 3)]
        async with told(stories, clock, runs_database_url, tasks_database_url):
            await trouble()
        return await check(stories, tasks, runs_database_url, tasks_database_url)


@asynccontextmanager
async def losing_commits(
    database_url: str, clock: Clock, chance: random.Random
) -> AsyncIterator[tuple[str, list[int]]]:
    """The database's address through a proxy: now and then a COMMIT gets there, and its answer does not come back.

    Also a list that grows with each.
    """
    parts = urlsplit(database_url)
    query = dict(parse_qsl(parts.query))
    socket = f"{query['host']}/.s.PGSQL.{query['port']}"
    lost: list[int] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up = await asyncio.open_unix_connection(socket)
        loses = False

        async def there() -> None:
            nonlocal loses
            while data := await reader.read(65536):
                loses = loses or (0 < clock.count < clock.limit and b"COMMIT" in data and chance.random() < 0.15)
                up.write(data)
                await up.drain()

        async def back() -> None:
            while data := await up_reader.read(65536):
                if loses:
                    lost.append(len(data))
                    return
                writer.write(data)
                await writer.drain()

        with contextlib.suppress(OSError):
            await first_of(there(), back())
        for each in (writer, up):
            each.transport.abort()

    async with serving(talk) as port:
        yield f"postgresql://postgres@127.0.0.1:{port}{parts.path}", lost
