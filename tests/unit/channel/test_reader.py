"""A reader by itself: what it is offered at a time, how it waits for a log that is away, what it lags behind."""

import asyncio
import itertools
from typing import Any

import pytest

from shared.channel.channel import ChannelLimits
from shared.channel.log import LogUnavailable
from shared.channel.reader import FRAME_BYTES, Reader, patiently
from shared.channel.start import Start
from shared.protocol.filter import Filter
from shared.protocol.position import Anchor, LogState
from shared.protocol.record import Record
from tests.support.channels import MINE, SECONDS, Listening, channel_over, reading, seqs, until
from tests.support.memory_log import MemoryLog, Store
from tests.unit.protocol.sample import draft

SIZE = Record.of(1, draft()).size


def store_of(*types: str) -> Store:
    store = Store()
    store.commit([Record.of(seq, draft(type)) for seq, type in enumerate(types, start=1)])
    return store


# ── a log that is away ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_who_finds_the_log_away_asks_ever_less_often_but_every_second() -> None:
    asked: list[float] = []

    async def ask() -> str:
        asked.append(asyncio.get_running_loop().time())
        if len(asked) < 12:
            raise LogUnavailable
        return "there"

    assert await patiently(ask) == "there"
    pauses = [later - earlier for earlier, later in itertools.pairwise(asked)]
    longest = [0.1, 0.2, 0.4, 0.8] + [1.0] * 7
    for pause, most in zip(pauses, longest, strict=True):
        assert most / 2 <= pause <= most + 0.01
    assert len({round(pause, 3) for pause in pauses[4:]}) > 1, "all would come back together"


async def test_what_goes_wrong_otherwise_is_not_asked_again() -> None:
    asked = itertools.count()

    async def ask() -> None:
        next(asked)
        raise KeyError

    with pytest.raises(KeyError):
        await patiently(ask)
    assert next(asked) == 1


# ── batches ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_batch_of_the_tail_is_bounded_by_what_its_frames_take() -> None:
    limits = ChannelLimits(batch_bytes=3 * (10 + 64))
    async with reading(Store(), Anchor.NOW, limits) as (channel, reader):
        assert reader.take() is None
        await channel.publish([draft(data=b"x" * 10)] * 7)
        assert [seqs(reader.take()) for _ in range(3)] == [[1, 2, 3], [4, 5, 6], [7]]
        assert reader.take() is None
        assert FRAME_BYTES == 64


async def test_what_was_there_before_is_never_in_one_batch_with_what_came_after() -> None:
    async with reading(store_of("log", "log"), Anchor.START) as (channel, reader):
        assert (reader.live_from, reader.is_history, reader.behind) == (2, True, True)
        await channel.publish([draft()] * 3)
        assert seqs(await reader.read()) == [1, 2]  # though the page had all
        assert (reader.live_from, reader.is_history, reader.behind) == (2, False, False)
        assert seqs(reader.take()) == [3, 4, 5]


async def test_what_is_replayed_may_be_less_than_what_is_live() -> None:
    async with reading(Store()) as (channel, other):
        assert other.take() is None  # so there is a tail, which has all that comes
        await channel.publish([draft("log"), draft("status")] * 2)
        start, less = await channel.resolve(Anchor.START), Filter(tenant="t", types=("status",))
        async with channel.reader(MINE, start, history=less) as reader, channel.reader(MINE, start) as whole:
            told = [reader.behind, whole.behind]
            assert [seqs(await each.next()) for each in (reader, whole)] == [[2, 4], [1, 2, 3, 4]]
            await channel.publish([draft("log"), draft("status")])
            assert [*told, reader.behind] == [True, False, False]
            assert [seqs(await each.next()) for each in (reader, whole)] == [[5, 6]] * 2


async def test_what_this_process_has_not_heard_of_is_read_from_the_log() -> None:
    store = store_of("log")
    async with asyncio.timeout(SECONDS), channel_over(MemoryLog(store)) as channel:
        ahead = Start(LogState("epoch0", 3, 1), 1)
        async with channel.reader(MINE, ahead) as reader:
            assert (reader.live_from, reader.is_history, reader.behind) == (3, True, True)


# ── lag ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_lag_of_a_live_reader_is_what_its_filter_wants_and_it_has_not_got() -> None:
    limits = ChannelLimits(lag_budget_bytes=2 * SIZE)
    async with reading(Store(), Anchor.NOW, limits) as (channel, reader):
        assert (reader.lag_bytes, reader.over_budget) == (0, False)
        assert reader.take() is None
        told = []
        for _ in range(3):
            await channel.publish([draft(), draft(tenant="other")])
            told.append((reader.lag_bytes, reader.over_budget))
        assert told == [(SIZE, False), (2 * SIZE, False), (3 * SIZE, True)]
        assert seqs(reader.take()) == [1, 3, 5]
        assert reader.position == channel.state.head == 6
        assert (reader.lag_bytes, reader.over_budget) == (0, False)


async def test_what_a_reader_has_read_from_the_log_is_no_lag() -> None:
    limits = ChannelLimits(batch_bytes=1)
    async with reading(store_of("log", "log", "log"), Anchor.START, limits) as (channel, reader):
        assert reader.behind
        await channel.publish([draft()])
        told = []
        for _ in range(3):
            told.append(reader.lag_bytes)  # it is not live yet
            await reader.read()
        assert [*told, reader.lag_bytes] == [0, 0, 0, SIZE]
        assert seqs(reader.take()) == [4]
        assert reader.lag_bytes == 0


async def test_what_a_lagging_reader_is_not_sent_is_counted() -> None:
    async with reading(Store()) as (channel, reader):
        assert reader.take(lagging=True) is None
        await channel.publish([draft("snapshot")] * 4 + [draft("log")] * 2)
        batch = reader.take(lagging=True)
        assert batch is not None
        assert (batch.conflated, batch.after, batch.upto, batch.size) == (
            3,
            0,
            6,
            6 * SIZE + 4 * (len("snapshot") - len("log")),
        )


# ── news ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_news_are_what_the_filter_wants_or_an_end_that_it_hides() -> None:
    async with asyncio.timeout(SECONDS), channel_over(MemoryLog(Store())) as channel:
        start = await channel.resolve(Anchor.NOW)
        run = Filter(tenant="t", subjects=("run/1",), types=("log",))
        async with channel.reader(MINE, start) as all_of_it, channel.reader(run, start) as one:
            told = [(all_of_it.has_news, one.has_news)]
            for each in (draft(tenant="other"), draft("status"), draft("status", ends="done")):
                await channel.publish([each])
                told.append((all_of_it.has_news, one.has_news))
            assert told == [(False, False), (False, False), (True, False), (True, True)]
            assert (all_of_it.position, one.position) == (0, 0)


async def test_what_was_evicted_is_news_too() -> None:
    limits = ChannelLimits(tail_bytes=SIZE)
    async with reading(Store(), Anchor.NOW, limits) as (channel, reader):
        assert not reader.has_news
        await channel.publish([draft()] * 3)
        assert reader.behind
        assert reader.has_news


# ── life ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_reader_that_is_closed_leaves_nothing_behind() -> None:
    async with reading(Store()) as (channel, reader):
        assert reader.take() is None
        edge = Listening(reader)
        reader.park(edge)
        assert (reader.parked, channel.readers) == (True, {reader})
        reader.close()
        assert (reader.parked, len(channel.tails), channel.fanout.is_empty) == (False, 0, True)
        assert channel.readers == set()
        reader.close()  # once more does no harm
        reader.rouse()
        reader.disturb()
        assert not edge.woken.is_set()


async def test_a_parked_reader_is_woken_once_and_is_parked_no_more() -> None:
    async with reading(Store()) as (channel, reader):
        for end in (reader.rouse, reader.disturb, lambda: reader.fail(OSError())):
            assert reader.take() is None
            edge = Listening(reader)
            reader.park(edge)
            end()
            assert (reader.parked, channel.fanout.is_empty, edge.woken.is_set()) == (False, True, True)


async def test_a_restart_begins_with_all_that_is_kept() -> None:
    store = store_of(*["log"] * 9)
    async with asyncio.timeout(SECONDS), channel_over(MemoryLog(store)) as channel:
        reader = Reader(channel, MINE, Start(store.state, 5))
        store.trim(4)
        start = await reader.restart()
        assert (start.after, start.requested, str(start.reset)) == (3, "epoch0-5", "history_trimmed")
        assert (reader.position, reader.live_from, reader.epoch) == (3, 9, "epoch0")
        frame = start.reset_frame()
        assert (frame.reason, frame.requested, frame.oldest, frame.head) == ("history_trimmed", "epoch0-5", 4, 9)
        store.begin_epoch(lost=2)
        await until(lambda: reader.stale)
        start = await reader.restart()
        assert (start.after, start.requested, str(start.reset)) == (3, "epoch0-3", "epoch_changed")
        assert (reader.position, reader.live_from, reader.epoch) == (3, 7, "epoch1")
        assert seqs(await reader.next()) == [4, 5, 6, 7]
        reader.close()


@pytest.mark.parametrize("epoch", ["a", "z"])
async def test_a_reader_of_another_epoch_is_stale_however_they_sort(epoch: str) -> None:
    store = store_of("log", "log", "log")
    async with reading(store, Anchor.START) as (_, reader):
        stale = [reader.stale]
        store.state = LogState(epoch, 3, 1)
        batch = await reader.read()
        assert (batch.epoch, batch.after, batch.upto, batch.count) == ("epoch0", 0, 0, 0)
        assert [*stale, reader.stale] == [False, True]
        assert str((await reader.restart()).reset) == "epoch_changed"
        assert reader.epoch == epoch
        assert seqs(await reader.read()) == [1, 2, 3]


async def test_an_epoch_is_the_same_when_it_is_called_the_same() -> None:
    store = store_of("log", "log", "log")
    async with reading(store, Anchor.START) as (channel, reader):
        store.state = LogState("".join(["epo", "ch0"]), 3, 1)  # equal, and another object, as from a database
        channel.state = LogState("".join(["epoch", "0"]), 3, 1)
        assert not reader.stale
        assert seqs(await reader.read()) == [1, 2, 3]
        assert str((await reader.restart()).reset) == "history_trimmed"


async def test_what_fails_while_a_consumer_waits_is_raised_to_it() -> None:
    async with reading(Store()) as (_, reader):
        asking: asyncio.Future[Any] = asyncio.ensure_future(reader.next())
        await until(lambda: reader.parked)
        reader.fail(OSError("no room"))
        with pytest.raises(OSError, match="no room"):
            await asking
