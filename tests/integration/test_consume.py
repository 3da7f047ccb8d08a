"""A durable consumer over cuts, restarts, failing handlers and its own death: each effect happens once."""

import asyncio
import importlib
import random
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from services.runs.events import SCHEMA, Status
from shared.client import Batch, Client, Feed, Follow, Missing, Received, Refused, consume
from shared.protocol.schema import UnknownEvent
from tests.integration.client_support import TRANSPORTS, Transport
from tests.integration.test_slow_readers import events_of_all, publish
from tests.support.contract import ANSWER_SECONDS, NO_SUCH_RUN, RUNS, Served, ended_run, events_of, finish, head_of, sql
from tests.support.cutting_proxy import cutting_proxy, up_to
from tests.support.scripted_server import end, event, hello, live, scripted, stream
from tests.support.server import append, lease, running

SETTINGS = {"heartbeat_seconds": 0.3, "retry_milliseconds": 10, "lag_budget_bytes": 100_000}

pytestmark = pytest.mark.usefixtures("quick_backoff")


class Crash(Exception):
    """What a handler dies of in these tests."""


class Ledger:
    """A handler and its store in one SQLite database: effects and position change together."""

    def __init__(self, path: Path, position: str | None = None, *, dice: random.Random | None = None) -> None:
        self._database = sqlite3.connect(path)
        self._database.execute("CREATE TABLE IF NOT EXISTS effects (position TEXT, type TEXT)")
        self._database.execute("CREATE TABLE IF NOT EXISTS position (one INTEGER PRIMARY KEY, position TEXT)")
        self._dice = dice
        self._news = asyncio.Event()
        self.batches: list[Batch] = []
        self.crashes = 0
        self.read_anew: Callable[[], str] | None = None
        if position is not None:
            self._store(position)

    def _store(self, position: str) -> None:
        with self._database:
            self._database.execute("INSERT OR REPLACE INTO position VALUES (1, ?)", (position,))

    async def load(self) -> str | None:
        await asyncio.sleep(0)
        self._crash(0.05)
        row = self._database.execute("SELECT position FROM position").fetchone()
        return None if row is None else str(row[0])

    async def __call__(self, batch: Batch) -> None:
        self.batches.append(batch)
        self._crash(0.1)
        await asyncio.sleep(0)
        if batch.reset is not None:
            assert self.read_anew is not None
            self._store(self.read_anew())
        else:
            self._take(batch)
        self._news.set()
        self._crash(0.1)  # the effects are there, though nobody is told
        await asyncio.sleep(0)

    def _take(self, batch: Batch) -> None:
        with self._database:
            for received in batch.events:
                kind = received.event.type if isinstance(received.event, UnknownEvent) else "typed"
                self._database.execute("INSERT INTO effects VALUES (?, ?)", (received.position, kind))
                self._crash(0.02)  # rolls back
            self._database.execute("INSERT OR REPLACE INTO position VALUES (1, ?)", (batch.position,))

    def _crash(self, likelihood: float) -> None:
        if self._dice is not None and self._dice.random() < likelihood:
            self.crashes += 1
            self._news.set()
            raise Crash

    @property
    def effects(self) -> list[str]:
        return [row[0] for row in self._database.execute("SELECT position FROM effects ORDER BY rowid")]

    @property
    def position(self) -> str:
        return str(self._database.execute("SELECT position FROM position").fetchone()[0])

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._news.clear()
            await self._news.wait()

    async def until_effect(self, position: str | None) -> None:
        """Wait until this is the last effect."""
        await self.until(lambda: self.effects[-1:] == [position])

    async def until_crash(self, before: int, position: str) -> None:
        """Wait until there have been more than before, or there is nothing left to do."""
        await self.until(lambda: self.crashes > before or self.effects[-1:] == [position])

    def close(self) -> None:
        self._database.close()


@pytest.fixture
def ledger_path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@asynccontextmanager
async def consuming(feed: Feed, ledger: Ledger, **options: int) -> AsyncIterator["asyncio.Task[None]"]:
    """Consumes until the block ends."""
    task = asyncio.create_task(consume(feed, ledger, ledger, on_trouble=lambda error: None, **options))
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


def feed_of(client: Client, path: str, **options: object) -> Feed:
    def feed(after: str | None) -> Follow:
        return client.follow(path, after=after, lossless=True, **options)  # type: ignore[arg-type]  # as they come

    return feed


# ── exactly once ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("seed", range(3))
async def test_every_effect_happens_once_whatever_breaks(
    client: httpx.AsyncClient, tailrace: Served, ledger_path: Path, transport: Transport, seed: int
) -> None:
    dice = random.Random(f"effects {seed}")
    start = "-".join(map(str, await head_of(client)))
    ledger = Ledger(ledger_path, start, dice=dice)
    run_id, token = await lease(client)
    async with cutting_proxy(tailrace.url) as proxy, Client(proxy.url, transport=transport) as consumer:
        proxy.answers = up_to(dice, 20_000 if transport == "sse" else 60_000)
        feed = feed_of(consumer, f"{RUNS}/stream", params={"run": [run_id]})
        for _ in range(6):
            # Whoever consumes dies in the middle of it, and another takes over.
            async with consuming(feed, ledger, max_batch=20):
                crashes = ledger.crashes
                for _ in range(5):
                    answer = await append(client, run_id, token, dice.randint(1, 40))
                    if dice.random() < 0.3:
                        proxy.cut_all()
                await ledger.until_crash(crashes, answer.raise_for_status().json()["position"])
        await finish(client, run_id, token)
        everything = [frame.id for frame in await events_of_all(client, run_id)]
        async with consuming(feed, ledger, max_batch=20):
            await ledger.until_effect(everything[-1])
    assert ledger.effects == everything
    assert ledger.position == everything[-1]
    assert proxy.cuts > 5
    assert ledger.crashes > 5
    assert max(len(batch.events) for batch in ledger.batches) == 20
    ledger.close()


async def test_a_consumer_survives_kill_9_of_the_server(database_url: str, ledger_path: Path) -> None:
    async with running(database_url, retry_milliseconds=10) as server, Client(server.url) as consumer:
        ledger = Ledger(ledger_path, "start")
        async with consuming(feed_of(consumer, f"{RUNS}/stream", schema=SCHEMA), ledger):
            for _ in range(3):
                async with httpx.AsyncClient(base_url=server.url) as http:
                    run_id = await ended_run(http)
                    last = str((await events_of(http, run_id))[-1].id)
                await ledger.until_effect(last)
                await server.kill()
                await server.start()
        epoch = last.partition("-")[0]
        assert ledger.effects == [f"{epoch}-{seq}" for seq in range(1, 19)]
        ledger.close()


# ── batches ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_batches_hold_what_is_there_and_no_more_than_they_may(
    client: httpx.AsyncClient, tailrace: Served, ledger_path: Path
) -> None:
    run_id, token = await lease(client)
    (await append(client, run_id, token, 500)).raise_for_status()
    await finish(client, run_id, token)
    ledger = Ledger(ledger_path, "start")
    async with Client(tailrace.url) as consumer:
        await consume(feed_of(consumer, f"{RUNS}/{run_id}/stream", schema=SCHEMA), ledger, ledger, max_batch=50)
    everything = await events_of_all(client, run_id)
    assert [received.position for batch in ledger.batches for received in batch.events] == [f.id for f in everything]
    assert [batch.position for batch in ledger.batches] == [batch.events[-1].position for batch in ledger.batches]
    sizes = [len(batch.events) for batch in ledger.batches]
    assert max(sizes) == 50
    assert len(sizes) < 30
    last = ledger.batches[-1].events[-1].event
    assert isinstance(last, Status)
    assert last.status == "completed"
    ledger.close()


async def test_a_slow_handler_neither_skips_nor_piles_up(
    client: httpx.AsyncClient, tailrace: Served, ledger_path: Path
) -> None:
    run_id, token = await lease(client)
    ledger = Ledger(ledger_path, "start")
    may_go_on = asyncio.Event()

    async def handler(batch: Batch) -> None:
        await may_go_on.wait()
        await ledger(batch)

    async with Client(tailrace.url) as consumer:
        feed = feed_of(consumer, f"{RUNS}/{run_id}/stream")
        task = asyncio.create_task(consume(feed, ledger, handler))
        count = await publish(client, run_id, token, 10)  # far more than the lag budget
        may_go_on.set()
        await finish(client, run_id, token)
        async with asyncio.timeout(ANSWER_SECONDS):
            await task
    assert len(ledger.effects) == count + 3
    ledger.close()


async def test_bookmarks_move_the_position_on_when_nothing_is_shown(
    client: httpx.AsyncClient, tailrace: Served, ledger_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("shared.client.consume")  # the package's `consume` is the function
    monkeypatch.setattr(module, "BOOKMARK_SECONDS", 0.0)
    run_id, token = await lease(client)
    ledger = Ledger(ledger_path, "-".join(map(str, await head_of(client))))
    async with Client(tailrace.url) as consumer, consuming(feed_of(consumer, f"{RUNS}/{run_id}/stream"), ledger):
        await ended_run(client)  # another one, which the filter hides
        head = "-".join(map(str, await head_of(client)))
        await ledger.until(lambda: ledger.position == head)
    assert ledger.effects == []
    assert all(batch.events == () and batch.reset is None for batch in ledger.batches)
    await finish(client, run_id, token)
    ledger.close()


# ── resets ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_without_a_position_the_handler_begins_with_reading_the_state(
    client: httpx.AsyncClient, tailrace: Served, ledger_path: Path
) -> None:
    await ended_run(client)
    as_of = (await client.get(RUNS, params={"limit": 1})).json()["as_of"]
    ledger = Ledger(ledger_path)
    ledger.read_anew = lambda: as_of
    async with Client(tailrace.url) as consumer, consuming(feed_of(consumer, f"{RUNS}/stream"), ledger):
        await ledger.until(lambda: bool(ledger.batches))
        run_id = await ended_run(client)
        ids = [frame.id for frame in await events_of(client, run_id)]
        await ledger.until_effect(ids[-1])
    first = ledger.batches[0]
    assert (first.events, first.position) == ((), "")
    assert first.reset is not None
    assert (first.reset.reason, first.reset.requested) == ("unknown_position", "")
    assert ledger.effects == ids
    ledger.close()


async def test_a_position_that_cannot_be_continued_has_the_state_read_anew(
    client: httpx.AsyncClient, tailrace: Served, ledger_path: Path
) -> None:
    epoch, head = await head_of(client)
    ledger = Ledger(ledger_path, "zzzzzz-7")
    ledger.read_anew = lambda: f"{epoch}-{head}"
    async with Client(tailrace.url) as consumer, consuming(feed_of(consumer, f"{RUNS}/stream"), ledger):
        run_id = await ended_run(client)
        ids = [frame.id for frame in await events_of(client, run_id)]
        await ledger.until_effect(ids[-1])
    reset = ledger.batches[0].reset
    assert reset is not None
    assert (reset.reason, reset.requested) == ("epoch_changed", "zzzzzz-7")
    assert ledger.effects == ids
    assert sum(batch.reset is not None for batch in ledger.batches) == 1
    ledger.close()


async def test_trimmed_history_has_the_state_read_anew(database_url: str, ledger_path: Path) -> None:
    async with running(database_url) as server, httpx.AsyncClient(base_url=server.url) as http:
        await ended_run(http)
        epoch, head = await head_of(http)
        async with sql(database_url) as database:  # what retention does
            await database.execute("UPDATE runs.retained SET oldest = $1", head)
            await database.execute("DELETE FROM runs.events WHERE seq < $1", head)
        ledger = Ledger(ledger_path, f"{epoch}-2")
        ledger.read_anew = lambda: f"{epoch}-{head}"
        async with Client(server.url) as consumer, consuming(feed_of(consumer, f"{RUNS}/stream"), ledger):
            await ledger.until(lambda: ledger.position == f"{epoch}-{head}")
        reset = ledger.batches[0].reset
        assert reset is not None
        assert reset.reason == "history_trimmed"
        ledger.close()


# ── trouble, and the end ───────────────────────────────────────────────────────────────────────────────────────


async def test_what_a_handler_raises_is_told_and_tried_again(ledger_path: Path) -> None:
    ledger, told, fails = Ledger(ledger_path, "e-0"), list[Exception](), 3
    frames = [hello("e-0"), live("e-0"), event("e-1"), event("e-2"), end("e-2", "terminal", final=True)]

    async def handler(batch: Batch) -> None:
        if len(told) < fails:
            raise Missing(404, {"detail": "of the handler's own affairs"})
        await ledger(batch)

    async with scripted(stream(*frames)) as server, Client(server.url) as client:
        await consume(feed_of(client, "/x"), ledger, handler, on_trouble=told.append)
    assert [type(error) for error in told] == [Missing] * 3
    assert [asked.query["after"] for asked in server.asked] == ["e-0"] * 4
    assert ledger.effects == ["e-1", "e-2"]
    ledger.close()


async def test_a_gap_is_never_passed_over(ledger_path: Path) -> None:
    gap = ("e-3", {"type": "gap", "from_seq": 2, "to_seq": 3, "dropped": 2, "by_type": {"made_up": 2}})
    ended = end("e-3", "terminal", final=True)
    lossy = stream(hello("e-0"), live("e-0"), event("e-1"), gap, ended)
    whole = stream(hello("e-1"), live("e-1"), event("e-2"), event("e-3"), ended)
    ledger, told = Ledger(ledger_path, "e-0"), list[Exception]()
    async with scripted(lossy, whole) as server, Client(server.url) as client:
        await consume(feed_of(client, "/x"), ledger, ledger, on_trouble=told.append)
    assert ledger.effects == ["e-1", "e-2", "e-3"]
    assert ["2 events were skipped" in str(error) for error in told] == [True]
    assert [asked.query["after"] for asked in server.asked] == ["e-0", "e-1"]
    ledger.close()


async def test_a_handler_that_stores_no_position_after_a_reset_does_not_spin(ledger_path: Path) -> None:
    ledger = Ledger(ledger_path)
    resets = 0

    async def handler(batch: Batch) -> None:
        nonlocal resets
        resets += 1

    async with Client("http://127.0.0.1:1") as client:
        task = asyncio.create_task(consume(feed_of(client, "/x"), ledger, handler))
        for _ in range(100):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    assert 1 <= resets <= 5
    ledger.close()


async def test_a_refused_feed_is_raised(tailrace: Served, ledger_path: Path) -> None:
    ledger = Ledger(ledger_path, "start")
    async with Client(tailrace.url) as client:
        with pytest.raises(Missing):
            await consume(feed_of(client, f"{RUNS}/{NO_SUCH_RUN}/stream"), ledger, ledger)
        with pytest.raises(Refused, match="typo"):
            await consume(feed_of(client, f"{RUNS}/stream", params={"typo": 1}), ledger, ledger)
    ledger.close()


async def test_cancelling_a_consumer_in_its_handler_closes_the_stream(ledger_path: Path) -> None:
    ledger, entered = Ledger(ledger_path, "e-0"), asyncio.Event()

    async def handler(batch: Batch) -> None:
        entered.set()
        await asyncio.Event().wait()

    replies = stream(hello("e-0"), live("e-0"), event("e-1"), then="hang")
    async with asyncio.timeout(ANSWER_SECONDS), scripted(replies) as server, Client(server.url) as client:
        task = asyncio.create_task(consume(feed_of(client, "/x"), ledger, handler))
        await entered.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await server.until_left()
    ledger.close()


def test_what_a_batch_holds() -> None:
    """Others build them in their own tests."""
    received = Received("e-1", UnknownEvent("made_up", {}))
    assert Batch((received,), "e-1").reset is None
