"""The channel by itself: what it asks the log, what it believes of the answers, and what it tells of itself."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shared.channel.channel import FEED_PAGE_EVENTS, SMALL_CHANGE_BYTES, Channel, ChannelLimits
from shared.channel.log import Committed, LogUnavailable, Outcome, Page, Transaction
from shared.channel.reader import Reader
from shared.protocol.filter import Filter
from shared.protocol.position import Anchor, LogState, Position, ResetReason
from shared.protocol.record import DELETED, OVERHEAD_BYTES, Record
from tests.support.channels import MINE, SECONDS, Listening, channel_over, seqs, until
from tests.support.memory_log import MemoryLog, Store
from tests.unit.protocol.sample import SCHEMA, draft


class Told(MemoryLog):
    """Remembers what it was asked; its news are what a test says."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.states = 0
        self.reads: list[tuple[Filter, int, int, int]] = []
        self.news = asyncio.Queue[LogState | Exception]()
        self.gate = asyncio.Event()
        self.gate.set()
        self.closed = False

    async def start(self) -> LogState:
        return self.store.state

    async def close(self) -> None:
        self.closed = True

    async def state(self) -> LogState:
        self.states += 1
        state = self.store.state
        await self.gate.wait()
        return state

    async def read(self, filter: Filter, after: int, *, limit: int, max_bytes: int) -> Page:
        self.reads.append((filter, after, limit, max_bytes))
        await self.gate.wait()
        return await super().read(filter, after, limit=limit, max_bytes=max_bytes)

    async def heads(self) -> AsyncIterator[LogState]:
        while True:
            news = await self.news.get()
            if isinstance(news, Exception):
                raise news
            yield news


def told(count: int = 3) -> Told:
    store = Store()
    store.commit([Record.of(seq, draft()) for seq in range(1, count + 1)])
    return Told(store)


@asynccontextmanager
async def at_the_head(log: Told) -> AsyncIterator[tuple[Channel, Reader]]:
    async with (
        asyncio.timeout(SECONDS),
        channel_over(log) as channel,
        channel.reader(MINE, await channel.resolve(Anchor.NOW)) as reader,
    ):
        yield channel, reader


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_bounds() -> None:
    assert ChannelLimits() == ChannelLimits(
        tail_bytes=67_108_864, lag_budget_bytes=1_048_576, batch_bytes=49_152, page_events=500, page_bytes=524_288
    )
    assert (FEED_PAGE_EVENTS, SMALL_CHANGE_BYTES) == (2_000, 1_024)


# ── where a reader starts ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("wish", "ask", "asked", "expected"),
    [
        (Anchor.NOW, False, 0, (3, False, None)),
        (Anchor.NOW, True, 1, (3, False, None)),
        (Anchor.START, False, 1, (1, False, None)),
        (Position("epoch0", 3), False, 0, (3, True, None)),
        (Position("epoch0", 3), True, 1, (3, True, None)),
        (Position("epoch0", 2), False, 1, (2, True, None)),
        (Position("epoch0", 1), False, 1, (1, True, None)),
        (Position("epoch0", 0), False, 1, (1, False, ResetReason.HISTORY_TRIMMED)),
        (Position("epoch0", 4), False, 1, (1, False, ResetReason.UNKNOWN_POSITION)),
        (Position("epoch9", 3), False, 1, (1, False, ResetReason.EPOCH_CHANGED)),
    ],
)
async def test_the_log_is_asked_only_where_what_is_known_is_not_enough(
    wish: Position | Anchor, ask: bool, asked: int, expected: tuple[int, bool, ResetReason | None]
) -> None:
    log = told()
    log.store.trim(2)
    async with channel_over(log) as channel:
        start = await channel.resolve(wish, ask=ask)
        assert (start.after, start.resumed, start.reset) == expected
        assert start.requested == ("" if start.reset is None else str(wish))
        assert start.state == log.store.state if asked else start.state == channel.state
        assert log.states == asked


async def test_a_reader_that_begins_now_begins_at_the_head_that_was_asked_for() -> None:
    log = told()
    async with channel_over(log) as channel:
        log.store.commit([Record.of(4, draft())])  # by another process
        assert (await channel.resolve(Anchor.NOW)).after == 3
        assert (await channel.resolve(Anchor.NOW, ask=True)).after == 4
        assert channel.state.head == 3  # that moves with the tails only


async def test_those_who_ask_during_a_question_share_the_next() -> None:
    log = told()
    async with asyncio.timeout(SECONDS), channel_over(log) as channel:
        log.gate.clear()
        first = asyncio.create_task(channel.ask())
        await turns()
        later = [asyncio.create_task(channel.ask()) for _ in range(5)]
        await turns()
        assert log.states == 1
        later[0].cancel()  # the others go on
        log.gate.set()
        assert {await each for each in [first, *later[1:]]} == {log.store.state}
        assert log.states == 2


# ── reading ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_page_is_bounded_as_is_said_or_as_is_usual() -> None:
    log, limits = told(), ChannelLimits(page_events=2, page_bytes=777)
    async with channel_over(log, limits) as channel:
        assert [record.seq for record in (await channel.read(MINE, 0)).records] == [1, 2]
        assert [record.seq for record in (await channel.read(MINE, 1, limit=1)).records] == [2]
        assert log.reads == [(MINE, 0, 2, 777), (MINE, 1, 1, 777)]


async def test_a_page_for_readers_comes_in_batches_and_is_read_anew_once_it_was_given() -> None:
    log = told()
    async with channel_over(log, ChannelLimits(batch_bytes=2 * (OVERHEAD_BYTES + 100))) as channel:
        for reads in (1, 2):
            both = await asyncio.gather(channel.read_shared(MINE, 0), channel.read_shared(MINE, 0))
            assert both[0] is both[1]
            assert [seqs(batch) for batch in both[0]] == [[1, 2], [3]]
            await turns()
            assert (len(log.reads), channel._pages) == (reads, {})
        other = await asyncio.gather(channel.read_shared(MINE, 0), channel.read_shared(MINE, 1))
        assert [seqs(batches[0]) for batches in other] == [[1, 2], [2, 3]]


async def test_what_is_trimmed_is_known_from_any_answer_and_never_comes_back() -> None:
    log = told(9)
    async with channel_over(log) as channel:
        log.store.trim(4)
        await channel.read(MINE, 5)
        assert channel.state == LogState("epoch0", 9, 4)
        assert channel._learn(LogState("epoch0", 9, 2), channel._epochs)
        assert channel.state.oldest == 4


# ── news ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_news_are_read_only_where_there_is_a_tail_for_them() -> None:
    log = told()
    async with asyncio.timeout(SECONDS), channel_over(log) as channel:
        log.store.commit([Record.of(4, draft())])
        log.news.put_nowait(log.store.state)
        await until(lambda: channel.state.head == 4)
        assert log.reads == []
        async with channel.reader(MINE, await channel.resolve(Anchor.NOW)) as reader:
            assert reader.take() is None
            log.store.commit([Record.of(seq, draft()) for seq in (5, 6)])
            log.news.put_nowait(LogState("epoch0", 5, 1))  # older than what is there by now
            assert seqs(await reader.next()) == [5, 6]
            log.news.put_nowait(LogState("epoch0", 5, 1))
            await turns()
            assert log.reads == [(Filter(tenant=None), 4, FEED_PAGE_EVENTS, channel.limits.page_bytes)]
            assert channel.state.head == 6


async def test_many_news_are_read_page_by_page() -> None:
    log = told(0)
    async with at_the_head(log) as (channel, reader):
        assert reader.take() is None
        log.store.commit([Record.of(seq, draft()) for seq in range(1, 4_502)])
        log.news.put_nowait(log.store.state)
        await until(lambda: channel.state.head == 4_501)
        assert [after for _, after, _, _ in log.reads] == [0, 2_000, 4_000]


async def test_a_log_that_is_away_is_asked_at_the_next_news(caplog: pytest.LogCaptureFixture) -> None:
    log = told()
    away = False
    log.store.away = lambda: away
    async with at_the_head(log) as (channel, reader):
        assert reader.take() is None
        log.store.commit([Record.of(4, draft())])
        away = True
        log.news.put_nowait(log.store.state)
        await turns()
        (entry,) = caplog.records
        assert (entry.levelno, entry.__dict__["error"]) == (logging.WARNING, "the store is away")
        assert (channel.state.head, channel.failures()) == (3, [])
        away = False
        log.news.put_nowait(log.store.state)
        assert seqs(await reader.next()) == [4]


async def test_a_process_that_was_away_for_longer_than_history_is_kept_starts_over() -> None:
    log = told()
    async with at_the_head(log) as (channel, reader):
        assert reader.take() is None
        edge = Listening(reader)
        reader.park(edge)
        log.store.commit([Record.of(seq, draft()) for seq in range(4, 9)])
        log.store.trim(7)
        log.news.put_nowait(log.store.state)
        await edge.woken.wait()
        assert channel.state == LogState("epoch0", 8, 7)
        assert (len(channel.tails), reader.behind, reader.stale) == (0, True, False)


async def test_what_is_published_here_reaches_the_tails_at_once_unless_something_of_others_lies_before_it() -> None:
    log = told()
    async with at_the_head(log) as (channel, reader):
        assert reader.take() is None
        await channel.publish([draft()] * 2)
        assert (channel.state.head, log.reads) == (5, [])
        log.store.commit([Record.of(6, draft())])  # by another process
        await channel.publish([draft()])
        assert channel.state.head == 5
        log.news.put_nowait(log.store.state)
        await until(lambda: channel.state.head == 7)
        assert seqs(reader.take()) == [4, 5, 6, 7]


@pytest.mark.parametrize(("epoch", "head"), [("epoch", 3), ("epoch0", 4), ("epoch00", 3)])
async def test_what_was_committed_in_another_epoch_does_not_reach_the_tails(epoch: str, head: int) -> None:
    async with at_the_head(told()) as (channel, reader):
        assert reader.take() is None
        channel._committed("".join(list(epoch)), [Record.of(4, draft())], 0.0)
        assert channel.state == LogState("epoch0", head, 1)


@pytest.mark.parametrize("epoch", ["before", "later"])
async def test_an_answer_from_before_a_new_epoch_is_worth_nothing_however_they_sort(epoch: str) -> None:
    log = told()
    async with asyncio.timeout(SECONDS), channel_over(log) as channel:
        before, epochs = channel.state, channel._epochs
        log.store.state = LogState(epoch, 2, 1)
        log.news.put_nowait(log.store.state)
        await until(lambda: channel.state == log.store.state)
        assert not channel._learn(before, epochs)
        assert channel._learn(LogState("".join(list(epoch)), 2, 2), epochs)  # unless it is of the epoch that is now
        assert channel.state == LogState(epoch, 2, 2)


@pytest.mark.parametrize("epoch", ["before", "zulu"])
async def test_an_epoch_that_was_over_before_the_log_answered_moves_no_head(epoch: str) -> None:
    log = told()
    async with asyncio.timeout(SECONDS), channel_over(log) as channel:
        log.gate.clear()
        log.store.state = LogState("middle", 9, 1)
        log.news.put_nowait(log.store.state)
        await until(lambda: log.states == 1)
        log.store.state = LogState(epoch, 3, 1)
        assert channel._learn(log.store.state, channel._epochs)
        log.gate.set()
        await turns()
        assert channel.state == log.store.state


async def test_news_of_an_epoch_that_is_called_the_same_are_news() -> None:
    log = told()
    async with at_the_head(log) as (channel, reader):
        assert reader.take() is None
        log.store.commit([Record.of(4, draft())])
        log.news.put_nowait(LogState("".join(["epoch", "0"]), 4, 1))  # equal, and another object
        assert seqs(await reader.next()) == [4]
        assert (channel._epochs, log.states) == (0, 0)
        log.store.state = LogState("".join(["epo", "ch0"]), 4, 1)
        await channel.ask()
        assert (channel._epochs, len(channel.tails)) == (0, 1)


@pytest.mark.parametrize(("ends", "over"), [(DELETED, True), ("".join(["del", "eted"]), True), ("failed", False)])
async def test_when_a_subject_is_deleted_all_look_anew(ends: str, over: bool) -> None:
    log = told()
    async with asyncio.timeout(SECONDS), channel_over(log) as channel:
        start = await channel.resolve(Anchor.NOW)
        async with channel.reader(MINE, start) as reader, channel.reader(Filter(tenant="other"), start) as parked:
            assert reader.take() is None
            assert parked.take() is None
            edge = Listening(parked)
            parked.park(edge)
            await channel.publish([draft(), draft(ends=ends), draft()])
            assert (channel.state.head, reader.behind, edge.woken.is_set()) == (6, over, over)
            if over:
                assert seqs(await reader.read()) == [4, 5, 6]


async def test_a_new_epoch_is_logged_and_its_head_taken_over(caplog: pytest.LogCaptureFixture) -> None:
    log = told()
    async with asyncio.timeout(SECONDS), channel_over(log) as channel:
        log.store.begin_epoch(lost=2)
        log.news.put_nowait(log.store.state)
        await until(lambda: channel.state == LogState("epoch1", 1, 1))
        (entry,) = caplog.records
        assert (entry.levelno, entry.__dict__["old"], entry.__dict__["new"]) == (logging.WARNING, "epoch0", "epoch1")


# ── changes ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_change_waits_with_the_bytes_that_are_said() -> None:
    class Sizes(Told):
        async def append(self, commands: Any) -> list[Committed[Any] | Exception]:
            sizes.extend((command.size, len(command.drafts)) for command in commands)
            return await super().append(commands)

    async def change(transaction: Transaction) -> Outcome[int]:
        return Outcome(transaction.next_seq, [draft()])

    sizes: list[tuple[int, int]] = []
    async with channel_over(Sizes(Store())) as channel:
        assert (await channel.execute(change)).value == 1
        assert (await channel.execute(change, size=77)).value == 2
        assert (await channel.publish([draft()])).last == Position("epoch0", 3)
        assert sizes == [(1_024, 0), (77, 0), (0, 1)]


# ── life ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_does_not_work_is_told() -> None:
    log = told()
    async with asyncio.timeout(SECONDS), channel_over(log) as channel:
        assert channel.failures() == []
        log.news.put_nowait(OSError("no news"))
        await until(lambda: channel.failures() == ["news"])
        assert channel._appender._task is not None
        channel._appender._task.cancel()
        await until(lambda: channel.failures() == ["news", "appender"])


async def test_a_channel_that_is_closed_has_ended_what_it_began_and_closed_its_log() -> None:
    log = told()
    async with asyncio.timeout(SECONDS):
        async with channel_over(log) as channel:
            names = {task.get_name() for task in asyncio.all_tasks()}
            assert names >= {"appender", "fan-out", "news"}
            log.gate.clear()
            waiting = [
                asyncio.ensure_future(ask) for ask in (channel.read_shared(MINE, 0), channel.ask(), channel.ask())
            ]
            await turns()
            assert {task.get_name() for task in asyncio.all_tasks()} - names >= {"page", "state"}
            closed = [log.closed]
        assert [*closed, log.closed] == [False, True]
        await asyncio.wait(waiting)
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_log_that_cannot_be_reached_at_the_start_is_told() -> None:
    channel = Channel(MemoryLog(Store(away=lambda: True)), SCHEMA)
    with pytest.raises(LogUnavailable):
        await channel.start()


async def test_following_loses_nothing_however_far_it_is_behind_and_ends_what_it_began() -> None:
    async with asyncio.timeout(SECONDS), channel_over(told(), ChannelLimits(lag_budget_bytes=1)) as channel:
        following = channel.follow(MINE, await channel.resolve(Anchor.START))
        assert [(await anext(following)).seq for _ in range(3)] == [1, 2, 3]
        (reader,) = channel.readers
        await channel.publish([draft()] * 5)
        assert (reader.is_history, reader.lag_bytes > 1, reader.over_budget) == (False, True, False)
        assert [(await anext(following)).seq for _ in range(5)] == [4, 5, 6, 7, 8]
        await following.aclose()
        assert channel.readers == set()
