"""The fan-out: how many it serves before everybody else has a turn, and what it tells of that."""

import asyncio
import time

import pytest

from shared.channel.log import Command
from tests.support.channels import Crowd, Listening, Neighbour, crowd, seqs, until
from tests.support.memory_log import MemoryLog
from tests.unit.protocol.sample import draft


class Foreigner(Neighbour):
    format = "another"


async def steps(here: Crowd) -> list[int]:
    """How many got the next event in each turn of the loop."""
    before = sum(len(edge.taken) for edge in here.edges)
    served: list[int] = []
    publishing = asyncio.create_task(here.publish())
    while sum(served) < len(here.edges):
        await asyncio.sleep(0)
        taken = sum(len(edge.taken) for edge in here.edges) - before
        served.append(taken - sum(served))
    await publishing
    return [count for count in served if count]


async def test_readers_that_are_alone_are_served_128_in_a_step() -> None:
    async with crowd() as here:
        await here.come(300, kind=Listening)
        for _ in range(3):  # every time anew
            assert await steps(here) == [128, 128, 44]
        assert asyncio.get_running_loop().time() < 0.5  # others have a turn, and no more


@pytest.mark.parametrize(
    ("one", "other", "alone", "in_steps"),
    [
        (100, 100, 0, [100, 100]),  # a lane is served whole
        (64, 64, 1, [128, 1]),
        (128, 128, 128, [128, 128, 128]),
        (100, 27, 1, [128]),
        (127, 1, 0, [128]),
        (1, 128, 0, [1, 128]),
    ],
)
async def test_lanes_and_those_who_are_alone_share_a_step(
    one: int, other: int, alone: int, in_steps: list[int]
) -> None:
    async with crowd() as here:
        await here.come(one)
        await here.come(other, kind=Foreigner)
        await here.come(alone, kind=Listening)
        assert here.lanes == sorted([one, other], reverse=True)
        for _ in range(2):
            assert await steps(here) == in_steps


async def test_who_leaves_between_two_steps_is_given_nothing_and_what_comes_meanwhile_reaches_the_others() -> None:
    async with crowd() as here:
        await here.come(300, kind=Listening)
        publishing = asyncio.create_task(here.publish())
        await until(lambda: bool(here.edges[0].taken))
        here.readers[-1].unpark()
        await here.publish(count=2)
        await publishing
        await until(lambda: all(reader.position == 1_003 for reader in here.readers[:-1]))
        assert here.edges[-1].taken == []
        for edge in here.edges[:-1]:
            assert [seq for batch in edge.taken for seq in seqs(batch)] == [1_001, 1_002, 1_003]


async def test_it_is_told_once_for_all_how_long_what_was_published_here_took() -> None:
    async with crowd() as here:
        told: list[float] = []
        here.channel.fanout.on_served = told.append
        await here.publish()  # nobody is there
        await here.come(3)
        await here.come(3, kind=Listening)
        await here.publish(count=2)
        await here.everybody_has_all()
        await MemoryLog(here.store).append([Command([draft()])])  # by another process
        await here.everybody_has_all()
        await until(lambda: here.readers[0].position == 1_004)
        assert len(told) == 1
        assert 0 <= told[0] < 60


async def test_of_what_is_served_together_the_first_tells_how_long_it_took() -> None:
    async with crowd() as here:
        told: list[float] = []
        here.channel.fanout.on_served = told.append
        await here.come(kind=Listening)
        (tail,) = here.channel.tails._users
        now = time.monotonic()
        for since in (now / 4, now):
            here.channel.fanout.touch(tail, since)
        await until(lambda: bool(told))
        assert len(told) == 1
        assert now * 3 / 4 <= told[0] < now


async def test_when_all_have_left_nothing_is_kept_of_them() -> None:
    async with crowd() as here:
        await here.come(2)
        await here.come(2, kind=Listening)
        fanout = here.channel.fanout
        (tail,) = here.channel.tails._users
        for reader in here.readers:
            assert not fanout.is_empty
            reader.unpark()
        assert fanout.is_empty
        fanout.unpark(tail, here.readers[0])  # once more does no harm
        fanout.touch(tail)
        assert not fanout._touched
