"""The appender beside a log that takes its time: what goes into one transaction, what is refused, what closing does."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shared.channel.appender import (
    CLOSE_SECONDS,
    MAX_GROUP_COMMANDS,
    MAX_QUEUE_BYTES,
    MAX_QUEUE_COMMANDS,
    Appender,
    check_size,
)
from shared.channel.log import (
    MAX_COMMAND_BYTES,
    MAX_EVENT_BYTES,
    Command,
    Committed,
    EventTooLarge,
    LogUnavailable,
    Outcome,
    Transaction,
)
from shared.protocol.errors import InvalidEvent
from shared.protocol.record import Draft, Record
from tests.support.memory_log import MemoryLog, Store
from tests.unit.protocol.sample import draft

SMALL: Command[None] = Command([draft(data=b"x")])


def sized(size: int) -> Command[None]:
    """A command of so many bytes, in events that are taken."""
    whole, rest = divmod(size, MAX_EVENT_BYTES)
    return Command([*[draft(data=b"x" * MAX_EVENT_BYTES)] * whole, draft(data=b"x" * rest)])


class Slow(MemoryLog):
    """Begins a transaction when it is let; remembers what each holds, and takes at most `takes` of it."""

    def __init__(self) -> None:
        super().__init__(Store())
        self.gate = asyncio.Event()
        self.groups: list[int] = []
        self.takes = 10**9
        self.error: Exception | None = None

    async def append(self, commands: Sequence[Command[Any]]) -> list[Committed[Any] | Exception]:
        self.groups.append(len(commands))
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return await super().append(commands[: self.takes])


class Heard:
    """What those who follow are told."""

    def __init__(self) -> None:
        self.seqs: list[int] = []
        self.calls: list[tuple[str, int, float]] = []

    def __call__(self, epoch: str, records: Sequence[Record], since: float) -> None:
        self.seqs += [record.seq for record in records]
        self.calls.append((epoch, len(records), since))


class Here:
    def __init__(self) -> None:
        self.log = Slow()
        self.heard = Heard()
        self.appender = Appender(self.log, self.heard)
        self.publishing: list[asyncio.Task[Committed[Any]]] = []

    async def publish(self, command: Command[Any], times: int = 1) -> list[asyncio.Task[Committed[Any]]]:
        """Publishers, each of which waits by now."""
        tasks = [asyncio.create_task(self.appender.append(command)) for _ in range(times)]
        self.publishing += tasks
        await turns()
        return tasks


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@asynccontextmanager
async def appending() -> AsyncIterator[Here]:
    here = Here()
    here.appender.start()
    try:
        yield here
    finally:
        here.log.gate.set()
        await here.appender.close()
        await asyncio.gather(*here.publishing, return_exceptions=True)


async def kinds(tasks: Sequence[asyncio.Task[Committed[Any]]]) -> list[type]:
    return [type(each) for each in await asyncio.gather(*tasks, return_exceptions=True)]


# ── groups ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_comes_during_a_transaction_goes_into_the_next_in_order() -> None:
    async with appending() as here:
        first = await here.publish(SMALL)
        more = await here.publish(SMALL, 3)
        assert here.log.groups == [1]
        here.log.gate.set()
        assert [(await each).last.seq for each in [*first, *more]] == [1, 2, 3, 4]
        assert here.log.groups == [1, 3]
        assert here.heard.seqs == [1, 2, 3, 4]


async def test_a_group_is_bounded_in_commands() -> None:
    async with appending() as here:
        tasks = await here.publish(SMALL, 2 * 256 + 1)
        here.log.gate.set()
        await asyncio.wait(tasks)
        assert here.log.groups == [256, 256, 1]
        assert MAX_GROUP_COMMANDS == 256


async def test_a_group_is_bounded_in_bytes_and_takes_one_command_however_large() -> None:
    async with appending() as here:
        await here.publish(SMALL)
        half = MAX_COMMAND_BYTES // 2
        for size in (half, half, MAX_COMMAND_BYTES, half - 1, half, MAX_COMMAND_BYTES, 1):
            await here.publish(sized(size))
        here.log.gate.set()
        await asyncio.wait(here.publishing)
        # full at the bound; one byte below it there is room for another, and it may be of any size
        assert here.log.groups == [1, 2, 1, 3, 1]


async def test_a_command_whose_publisher_has_gone_is_left_out() -> None:
    async with appending() as here:
        await here.publish(SMALL)
        staying, leaving = await here.publish(SMALL), await here.publish(SMALL)
        leaving[0].cancel()
        here.log.gate.set()
        assert (await staying[0]).last.seq == 2
        await turns()
        assert here.log.groups == [1, 1]


async def test_a_publisher_that_goes_during_its_transaction_harms_nobody() -> None:
    async with appending() as here:
        await here.publish(SMALL)
        leaving, staying = await here.publish(SMALL), await here.publish(SMALL)
        here.log.gate.set()
        while len(here.log.groups) < 2:  # noqa: ASYNC110  what is waited for has no event of its own
            await asyncio.sleep(0)
        leaving[0].cancel()
        assert (await staying[0]).last.seq == 3
        assert here.heard.seqs == [1, 2, 3]


async def test_what_a_transaction_had_no_time_for_comes_first_in_the_next() -> None:
    async with appending() as here:
        await here.publish(SMALL)
        here.log.takes = 2
        tasks = await here.publish(SMALL, 5)
        here.log.gate.set()
        assert [(await each).last.seq for each in tasks] == [2, 3, 4, 5, 6]
        assert here.log.groups == [1, 5, 3, 1]


# ── answers ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_each_publisher_is_answered_for_itself() -> None:
    async def refuse(transaction: Transaction) -> Outcome[None]:
        raise KeyError("no such thing")

    async with appending() as here:
        await here.publish(SMALL)
        tasks = await here.publish(SMALL) + await here.publish(Command(change=refuse)) + await here.publish(SMALL)
        here.log.gate.set()
        assert await kinds(tasks) == [Committed, KeyError, Committed]


async def test_a_transaction_that_fails_fails_all_of_it_and_nobody_after_it() -> None:
    async with appending() as here:
        tasks = await here.publish(SMALL)
        here.log.error = LogUnavailable("gone")
        here.log.gate.set()
        assert await kinds(tasks) == [LogUnavailable]
        here.log.error = None
        (after,) = await here.publish(SMALL)
        assert (await after).last.seq == 1
        assert not here.appender.dead


async def test_those_who_follow_hear_of_each_command_with_events_and_when_it_was_handed_in() -> None:
    async def silent(transaction: Transaction) -> Outcome[int]:
        return Outcome(7)

    async with appending() as here:
        here.log.gate.set()
        (changed,) = await here.publish(Command(change=silent))
        await here.publish(Command([draft(), draft()]))
        assert (await changed).value == 7
        ((epoch, count, since),) = here.heard.calls
        assert (epoch, count) == ("epoch0", 2)
        assert since > 0


async def test_what_those_who_follow_cannot_take_is_logged_and_committed_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with appending() as here:

        def fail(epoch: str, records: Sequence[Record], since: float) -> None:
            raise OSError("a mistake of ours")

        here.appender._on_commit = fail
        here.log.gate.set()
        assert await kinds(await here.publish(SMALL, 2)) == [Committed] * 2
        assert {entry.levelno for entry in caplog.records} == {logging.ERROR}
        assert "a mistake of ours" in caplog.text


# ── bounds ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_queue_is_bounded_in_commands() -> None:
    async with appending() as here:
        await here.publish(SMALL)
        await here.publish(SMALL, 20_000)
        (refused,) = await here.publish(SMALL)
        with pytest.raises(LogUnavailable, match="too many events are waiting"):
            await refused
        assert len(here.appender._queue) == MAX_QUEUE_COMMANDS == 20_000


async def test_the_queue_is_bounded_in_bytes_which_are_given_back() -> None:
    largest = sized(MAX_COMMAND_BYTES)
    async with appending() as here:
        for _ in range(2):
            await here.publish(largest)  # under way, and in the queue no more
            await here.publish(largest, MAX_QUEUE_BYTES // MAX_COMMAND_BYTES)
            (refused,) = await here.publish(SMALL)
            with pytest.raises(LogUnavailable, match="try again in a moment"):
                await refused
            here.log.gate.set()
            await asyncio.wait(here.publishing)
            here.log.gate.clear()
        assert MAX_QUEUE_BYTES == 64 * 1024 * 1024


async def test_the_last_bytes_of_the_queue_are_given_to_who_fits() -> None:
    async with appending() as here:
        await here.publish(SMALL)
        await here.publish(sized(MAX_COMMAND_BYTES), MAX_QUEUE_BYTES // MAX_COMMAND_BYTES - 1)
        await here.publish(sized(MAX_COMMAND_BYTES - 3))
        (refused,) = await here.publish(sized(7))
        (taken,) = await here.publish(sized(3))
        here.log.gate.set()
        assert await kinds([refused, taken]) == [LogUnavailable, Committed]


async def test_what_goes_back_into_the_queue_counts_there_again() -> None:
    async with appending() as here:
        await here.publish(SMALL)
        half = sized(MAX_COMMAND_BYTES // 2)
        await here.publish(half, 3)
        here.log.takes = 1
        here.log.gate.set()
        await asyncio.wait(here.publishing)
        assert here.log.groups == [1, 2, 2, 1]
        here.log.gate.clear()
        await here.publish(SMALL)
        await here.publish(sized(MAX_COMMAND_BYTES), MAX_QUEUE_BYTES // MAX_COMMAND_BYTES)
        (refused,) = await here.publish(SMALL)
        with pytest.raises(LogUnavailable):
            await refused


@pytest.mark.parametrize(
    ("drafts", "size", "total"),
    [
        ([], 0, 0),
        ([], 1024, 1024),
        ([draft(data=b"12345"), draft(data=b"123")], 100, 108),
        ([draft(data=b"x" * 262_144)], 0, 262_144),
        ([draft(data=b"x" * 262_144)] * 16, 0, 4_194_304),
    ],
)
def test_a_commands_bytes_are_those_of_its_events_and_of_its_change(drafts: list[Draft], size: int, total: int) -> None:
    assert check_size(Command(drafts, size=size)) == total


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (Command([draft("log", data=b"x" * 262_145)]), "a log event has 262145 bytes; at most 262144 are taken"),
        (Command([draft(data=b"x" * 262_144)] * 16, size=1), "4194305 bytes of events at once; at most 4194304 are"),
    ],
)
async def test_what_is_too_large_is_refused_with_what_is_taken(command: Command[None], words: str) -> None:
    async with appending() as here:
        with pytest.raises(EventTooLarge, match=words):
            await here.appender.append(command)
        assert here.log.groups == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: draft("l\0g"),
        lambda: draft(subject="run/\0"),
        lambda: draft(tenant="\0"),
        lambda: draft(session="a\0b"),
        lambda: draft(worker="\0w"),
    ],
)
def test_no_name_may_hold_a_nul(make: Callable[[], Draft]) -> None:
    with pytest.raises(InvalidEvent, match="NUL"):
        check_size(Command([draft(), make()]))


# ── closing ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_before_it_starts_and_once_it_is_closing_nothing_is_taken() -> None:
    here = Here()
    assert not here.appender.dead
    with pytest.raises(LogUnavailable, match="shutting down"):
        await here.appender.append(SMALL)
    here.appender.start()
    assert "appender" in {task.get_name() for task in asyncio.all_tasks()}
    accepted = await here.publish(SMALL, 2)
    closing = asyncio.create_task(here.appender.close())
    await turns()
    with pytest.raises(LogUnavailable, match="shutting down"):
        await here.appender.append(SMALL)
    here.log.gate.set()
    await closing
    assert await kinds(accepted) == [Committed] * 2
    assert not here.appender.dead
    assert asyncio.get_running_loop().time() < 0.1


async def test_what_cannot_be_committed_in_time_is_told_so() -> None:
    here = Here()
    here.appender.start()
    accepted = await here.publish(SMALL, MAX_GROUP_COMMANDS + 5)
    await here.appender.close()
    assert round(asyncio.get_running_loop().time(), 1) == CLOSE_SECONDS == 1.5
    assert await kinds(accepted) == [LogUnavailable] * (MAX_GROUP_COMMANDS + 5)


async def test_one_that_never_started_can_be_closed() -> None:
    await Here().appender.close()


async def test_one_that_ended_though_nobody_closed_it_is_dead_and_takes_nothing() -> None:
    here = Here()
    here.appender.start()
    await here.publish(SMALL)
    task, dead = here.appender._task, [here.appender.dead]
    assert task is not None
    task.cancel()
    assert await kinds(here.publishing) == [LogUnavailable]
    await asyncio.wait([task])
    assert [*dead, here.appender.dead] == [False, True]
    with pytest.raises(LogUnavailable, match="shutting down"):
        await here.appender.append(SMALL)
