"""Lanes: who shares one, how many, and what is counted for them."""

import pytest

from shared.channel.lanes import Lane
from shared.channel.reader import Reader
from shared.protocol.filter import Filter
from shared.protocol.position import Anchor
from shared.protocol.record import Record
from shared.protocol.tail import Tail
from tests.support.channels import MINE, Neighbour, crowd, park, seqs, until
from tests.unit.protocol.sample import draft


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
        assert [edge.events for edge in here.neighbours] == [7, 5, 3]
        assert {edge.last_seq for edge in here.neighbours} == {1_008}
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


async def test_equal_formats_share_a_lane_though_they_are_not_one_object() -> None:
    class Equal(Neighbour):
        def __init__(self, reader: Reader) -> None:
            super().__init__(reader)
            self.format = "".join(["by", "tes"])

    async with crowd() as here:
        await here.come(3, kind=Equal)
        assert here.lanes == [3]
