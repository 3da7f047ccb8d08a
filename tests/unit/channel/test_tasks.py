"""Background tasks: what fails is told and begins again, and everything can be ended."""

import asyncio
import logging

import pytest

from shared.channel.tasks import Keeper, end


class Work:
    """Takes some seconds, then ends as it is told: raises, or returns."""

    def __init__(self, *takes: float, error: Exception | None = None) -> None:
        self.began: list[float] = []
        self._takes = takes
        self._error = error

    async def __call__(self) -> None:
        loop = asyncio.get_running_loop()
        turn = len(self.began)
        self.began.append(round(loop.time(), 1))
        await asyncio.sleep(self._takes[turn] if turn < len(self._takes) else 1e6)
        if self._error is not None:
            raise self._error


async def began_of(work: Work) -> list[float]:
    keeper = Keeper()
    keeper.keep("work", work)
    await asyncio.sleep(100)
    await keeper.close()
    return work.began


async def test_what_fails_begins_again_a_second_after_it_began() -> None:
    assert await began_of(Work(0, 0.4, 0.9, error=OSError())) == [0, 1, 2, 3]


async def test_what_has_gone_for_a_while_begins_again_at_once() -> None:
    assert await began_of(Work(1.5, 20, error=OSError())) == [0, 1.5, 21.5]


async def test_what_comes_to_its_end_begins_again_too() -> None:
    assert await began_of(Work(0, 5)) == [0, 1, 6]


async def test_what_fails_is_failing_until_it_has_gone_for_two_seconds() -> None:
    keeper, told = Keeper(), []
    keeper.keep("work", Work(0.5, 0.5, 0.5, error=OSError()))  # it fails at 0.5, 1.5 and 2.5, and begins for good at 3
    for _ in range(6):
        await asyncio.sleep(0.9)
        told.append((round(asyncio.get_running_loop().time(), 1), keeper.failing()))
    await keeper.close()
    assert told == [(time, ["work"] if time < 5 else []) for time in (0.9, 1.8, 2.7, 3.6, 4.5, 5.4)]


async def test_what_is_failing_is_told_by_name_in_order() -> None:
    keeper = Keeper()
    for name in ("b", "c", "a"):
        keeper.keep(name, Work(0, error=OSError()) if name != "c" else Work())
    await asyncio.sleep(0.5)
    assert keeper.failing() == ["a", "b"]
    await keeper.close()


async def test_a_keeper_that_is_closed_has_ended_its_tasks() -> None:
    keeper, work = Keeper(), Work()
    keeper.keep("work", work)
    await asyncio.sleep(0.5)
    assert "work" in {task.get_name() for task in asyncio.all_tasks()}
    await keeper.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert keeper.failing() == []


async def test_what_failed_is_logged_with_its_name(caplog: pytest.LogCaptureFixture) -> None:
    keeper = Keeper()
    keeper.keep("work", Work(0, error=OSError("no room")))
    await asyncio.sleep(0.5)
    await keeper.close()
    (entry,) = caplog.records
    assert (entry.levelno, entry.__dict__["task"]) == (logging.ERROR, "work")
    assert "no room" in caplog.text


async def test_a_task_that_will_not_end_is_left_behind_after_a_second(caplog: pytest.LogCaptureFixture) -> None:
    async def stubborn() -> None:
        while asyncio.get_running_loop().time() < 10:
            try:
                await asyncio.sleep(20)
            except asyncio.CancelledError:
                await asyncio.sleep(5)

    tasks = [asyncio.create_task(stubborn(), name="stubborn"), asyncio.create_task(asyncio.sleep(20))]
    await asyncio.sleep(0)
    await end(*tasks)
    assert round(asyncio.get_running_loop().time(), 1) == 1
    assert [task.done() for task in tasks] == [False, True]
    (entry,) = caplog.records
    assert (entry.levelno, entry.__dict__["task"]) == (logging.ERROR, "stubborn")
    await asyncio.wait(tasks[:1])


async def test_ending_nothing_or_what_has_ended_waits_for_nothing() -> None:
    done = asyncio.create_task(asyncio.sleep(0))
    await done
    await end(None, done)
    await end()
    assert asyncio.get_running_loop().time() < 0.1
    assert not done.cancelled()
