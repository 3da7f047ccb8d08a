"""Lanes: who shares one, how many, and what is counted for them."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from shared.channel.channel import Channel, ChannelLimits
from shared.channel.lanes import Lane
from shared.channel.reader import Reader
from shared.protocol.filter import Filter
from shared.protocol.position import Anchor
from shared.protocol.record import Record
from shared.protocol.tail import Tail
from tests.support.channels import SECONDS, Neighbour, channel_over, park, seqs, until
from tests.support.memory_log import MemoryLog, Store
from tests.unit.protocol.sample import draft

MINE = Filter(tenant="t")


class Crowd:
    """Readers of one filter at the head, parked side by side."""

    def __init__(self, store: Store, channel: Channel, stack: AsyncExitStack) -> None:
        self.store = store
        self.channel = channel
        self.readers: list[Reader] = []
        self.edges: list[Neighbour] = []
        self._stack = stack

    async def come(self, count: int = 1, *, behind_an_event: bool = False) -> None:
        """`behind_an_event`: just after one that those who are parked have not been given yet."""
        start = await self.channel.resolve(Anchor.NOW)
        coming = [await self._stack.enter_async_context(self.channel.reader(MINE, start)) for _ in range(count)]
        if behind_an_event:
            record = Record.of(self.channel.state.head + 1, draft())
            self.store.commit([record])
            self.channel._committed(self.channel.state.epoch, [record], 0.0)
        for reader in coming:
            while reader.take() is not None:
                pass
            self.edges.append(Neighbour(reader))
            park(reader, self.edges[-1])
        self.readers += coming

    async def publish(self, tenant: str = "t", count: int = 1) -> None:
        await self.channel.publish([draft(tenant=tenant)] * count)

    async def everybody_has_all(self) -> None:
        await until(lambda: all(reader.position == self.channel.state.head for reader in self.readers))

    @property
    def lanes(self) -> list[int]:
        """How many are in each, the largest first; those who are alone are not told."""
        return sorted(Counter(id(each.lane) for each in self.readers if each.lane is not None).values(), reverse=True)


@asynccontextmanager
async def crowd(*, head: int = 1_000, limits: ChannelLimits | None = None) -> AsyncIterator[Crowd]:
    store = Store()
    store.commit([Record.of(seq, draft()) for seq in range(1, head + 1)])
    async with (
        asyncio.timeout(SECONDS),
        channel_over(MemoryLog(store), limits) as channel,
        AsyncExitStack() as stack,
    ):
        yield Crowd(store, channel, stack)
        assert channel.failures() == []


async def test_a_lane_takes_128_readers_and_no_more() -> None:
    async with crowd() as here:
        await here.come(128)
        assert here.lanes == [128]
        await here.come()
        assert here.lanes == [128, 1]
        await here.publish()
        await here.everybody_has_all()
        assert here.lanes == [128, 1]


@pytest.mark.parametrize(("second", "lanes"), [(58, [128]), (59, [70, 59]), (70, [70, 70])])
async def test_lanes_become_one_where_one_will_do(second: int, lanes: list[int]) -> None:
    async with crowd() as here:
        await here.come(70)
        await here.come(second, behind_an_event=True)  # the first lane waits for its turn, and takes nobody in
        assert here.lanes == sorted([70, second], reverse=True)
        await here.publish()
        await here.everybody_has_all()
        assert here.lanes == lanes


async def test_a_lane_takes_readers_in_whatever_came_for_others_meanwhile() -> None:
    async with crowd() as here:
        for _ in range(3):
            await here.come()
            await here.publish("other")
        assert here.lanes == [3]
        await here.publish()
        await here.everybody_has_all()
        assert here.lanes == [3]
        assert [[seqs(batch) for batch in edge.taken] for edge in here.edges] == [[[1_004]]] * 3


def test_a_lane_that_nothing_was_sent_to_has_counted_nothing() -> None:
    tail = Tail(MINE, 7)
    tail.append(Record.of(9, draft()))
    lane = Lane(tail, "bytes", 7)
    assert (lane.position, lane.read_bytes, lane.events, lane.last_seq, lane.last_write) == (
        7,
        tail.total_bytes,
        0,
        0,
        0,
    )
    assert (lane.is_at_rest, Lane(tail, "bytes", 9).is_at_rest) == (False, True)


async def test_what_a_lane_counts_for_a_reader_is_what_was_written_to_it() -> None:
    async with crowd() as here:
        for _ in range(3):
            await here.come()
            await here.publish(count=2)
            await here.everybody_has_all()
        lane = here.readers[0].lane
        assert lane is not None
        assert (lane.events, lane.last_seq) == (6, 1_006)
        assert lane.last_write > 0
        await here.publish("other")
        await here.publish()
        await here.everybody_has_all()
        for reader in here.readers:
            assert reader.lag_bytes == 0
            reader.unpark()
            assert reader.lag_bytes == 0
        assert [edge.events for edge in here.edges] == [7, 5, 3]
        assert {edge.last_seq for edge in here.edges} == {1_008}
        assert here.channel.fanout.is_empty


async def test_a_reader_that_leaves_a_lane_goes_on_from_there() -> None:
    async with crowd() as here:
        await here.come(2)
        await here.publish()
        await here.everybody_has_all()
        leaving, staying = here.readers
        leaving.unpark()
        await here.publish()
        await until(lambda: staying.position == 1_002)
        assert (leaving.position, leaving.lag_bytes) == (1_001, Record.of(1, draft()).size)
        assert seqs(leaving.take()) == [1_002]
        assert (here.lanes, leaving.lag_bytes) == ([1], 0)


async def test_what_reaches_the_end_of_a_subject_is_not_written_but_offered_to_each() -> None:
    async with crowd() as here:
        run = Filter(tenant="t", subjects=("run/1",))
        start = await here.channel.resolve(Anchor.NOW)
        async with here.channel.reader(run, start) as first, here.channel.reader(run, start) as second:
            edges = [Neighbour(first), Neighbour(second)]
            for reader, edge in zip((first, second), edges, strict=True):
                assert reader.take() is None
                park(reader, edge)
            assert first.lane is second.lane is not None
            await here.channel.publish([draft(ends="done")])
            await until(lambda: first.position == second.position == 1_001)
            assert [[batch.ends for batch in edge.taken] for edge in edges] == [["done"]] * 2
            assert [edge.events for edge in edges] == [1, 1]  # each was offered it, and counts for itself
