"""The channel under seeded schedules: writers, other processes, readers that lag and are cut off, epochs, retention.

What a reader is given is compared, batch by batch, with what the store holds: between the batch's `after` and `upto`
each shown event must be there once, in order. Where something fails, the seed in its name brings it back.
"""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import pytest
from msgspec import Struct

from shared.channel import appender as appender_module
from shared.channel import reader as reader_module
from shared.channel.batch import Batch
from shared.channel.channel import Channel, ChannelLimits
from shared.channel.lanes import READERS_PER_LANE
from shared.channel.log import Command, Committed, HistoryTrimmed, LogUnavailable, Outcome, Page, Transaction
from shared.channel.reader import Reader
from shared.channel.start import Start
from shared.channel.tasks import end
from shared.protocol.control import Gap
from shared.protocol.filter import Filter
from shared.protocol.position import Anchor, LogState, Position, ResetReason
from shared.protocol.record import OVERHEAD_BYTES, Draft, Record
from tests.contract.places import Place, PostgresPlace
from tests.support.channels import SECONDS, Listening, Neighbour, channel_over, park, seqs, until
from tests.support.memory_log import MemoryLog, Store
from tests.unit.protocol.sample import SCHEMA, draft

ALL = Filter(tenant=None)
MINE = Filter(tenant="t")
RUN = Filter(tenant="t", subjects=("run/1",))
SEEDS = [*range(57), 327, 827, 864]  # the last three found something
POSTGRES_SEEDS = range(3)

FILTERS = [
    ALL,
    Filter(tenant="a"),
    Filter(tenant="a", subjects=("run/1",)),
    Filter(tenant="a", subjects=("run/1", "run/2")),
    Filter(tenant="b", subjects=("run/3",), types=("log",)),
    Filter(tenant="b", subjects=("run/3",), types=("log",), endless=True),
    Filter(tenant="a", session="s1"),
    Filter(tenant="a", session="s1", worker="w1"),
    Filter(tenant="b", types=("status", "w*")),
    Filter(tenant="nobody"),
]


class RefusedError(Exception):
    pass


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who finds the log away asks again at once."""
    monkeypatch.setattr(reader_module, "RETRY_SECONDS", (0.0, 0.0))


@asynccontextmanager
async def at_the_head(
    log: Any, limits: ChannelLimits | None = None, filter: Filter = MINE
) -> AsyncIterator[tuple[Channel, Reader]]:
    """A channel, and a reader of it that begins now."""
    async with (
        asyncio.timeout(SECONDS),
        channel_over(log, limits) as channel,
        channel.reader(filter, Start(channel.state, channel.state.head)) as reader,
    ):
        yield channel, reader


def is_behind(reader: Reader) -> bool:
    return reader.behind


def is_over(reader: Reader) -> bool:
    return reader.over_budget


# ── schedules ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Check:
    """What one client has been shown, held against the history of the store."""

    def __init__(self, history: dict[str, list[Record]], filter: Filter) -> None:
        self._history = history
        self._filter = filter
        self.events = 0
        self.position: Position | None = None

    def begin(self, start: Start) -> None:
        position = Position(start.state.epoch, start.after)
        if self.position is not None and start.reset is None:
            assert position == self.position, "it resumed elsewhere, and nobody said so"
        self.position = position

    def take(self, batch: Batch) -> None:
        assert self.position is not None
        assert Position(batch.epoch, batch.after) == self.position, "a batch lies right after the one before"
        assert batch.upto >= batch.after
        between = [r for r in self._history[batch.epoch] if batch.after < r.seq <= batch.upto]
        assert list(batch.items) == [r for r in between if self._filter.shows(r)], (batch.after, batch.upto)
        if self._filter.ends_with_subject:
            ends = [r.ends for r in between if r.ends is not None and self._filter.covers(r)]
            assert batch.ends == (ends[0] if ends else None)
        self.position = Position(batch.epoch, batch.upto)
        self.events += len(batch.items)


class Simulation:
    """Some processes over one store, and readers at the first of them."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        rng = self.rng
        self.started = self.finished = False
        self.outages = rng.choice([0.0, 0.0, 0.02])
        self.store = Store(
            pause=self.pause,
            away=lambda: self.started and not self.finished and rng.random() < self.outages,
            scan_rows=rng.choice([1, 5, 2_000]),
        )
        self.limits = ChannelLimits(
            tail_bytes=rng.choice([1, 1_500, 5_000, 10**7]),
            lag_budget_bytes=10**9,
            batch_bytes=rng.choice([1, 1_000, 10**6]),
            page_events=rng.choice([1, 4, 500]),
            page_bytes=rng.choice([1, 2_000, 10**6]),
        )
        self.resets = 0
        self.checks: list[Check] = []

    async def pause(self) -> None:
        for _ in range(self.rng.choice([0, 0, 1, 2, 5])):
            await asyncio.sleep(0)

    async def run(self) -> None:
        async with channel_over(MemoryLog(self.store), self.limits) as channel:
            self.started = True
            try:
                async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as tasks:
                    for pick in (self.by_next, self.by_parking) * 4:
                        tasks.create_task(self.client(channel, self.rng.choice(FILTERS), pick))
                    await asyncio.gather(
                        self.write_here(channel), self.write_here(channel), self.write_elsewhere(), self.operate()
                    )
                    self.finished = True
                    self.store.notify()
            except TimeoutError:
                stuck = [str(check.position) for check in self.checks if not self.caught_up(check)]
                pytest.fail(f"of the log at {self.store.state}, the channel at {channel.state}, some saw only {stuck}")
            except BaseExceptionGroup as group:
                raise group.exceptions[0] from None
            assert channel.failures() == []
            await until(lambda: channel.state.head == self.store.state.head)
            assert len(channel.tails) == 0
            assert channel.fanout.is_empty

    # ── writers ────────────────────────────────────────────────────────────────────────────────────────────────

    def draft(self) -> Draft:
        rng = self.rng
        return draft(
            rng.choice(SCHEMA.names),
            rng.choice(["run/1", "run/2", "run/3"]),
            tenant=rng.choice("ab"),
            session=rng.choice([None, "s1", "s2"]),
            worker=rng.choice([None, "w1", "w2"]),
            ends=rng.choice([None] * 9 + ["done"]),
            data=b"x" * rng.choice([0, 100, 3_000]),
        )

    def drafts(self) -> list[Draft]:
        return [self.draft() for _ in range(self.rng.choice([1, 1, 2, 5, 20]))]

    async def write_here(self, channel: Channel) -> None:
        for _ in range(25):
            await self.pause()
            drafts, kind = self.drafts(), self.rng.random()
            try:
                if kind < 0.6:
                    result: Committed[Any] = await channel.publish(drafts)
                elif kind < 0.8:
                    result = await channel.execute(self.telling(drafts))
                elif kind < 0.9:
                    result = await channel.execute(self.refusing)
                else:
                    result = await channel.publish([*drafts, draft(tenant="a\0")])
            except LogUnavailable:
                continue
            except (RefusedError, ValueError):
                assert kind >= 0.8
                continue
            assert kind < 0.8
            assert [Draft(**{f: getattr(r, f) for f in Draft.__struct_fields__}) for r in result.records] == drafts

    @staticmethod
    def telling(drafts: Sequence[Draft]) -> Callable[[Transaction], Any]:
        async def change(transaction: Transaction) -> Outcome[None]:
            return Outcome(None, drafts)

        return change

    @staticmethod
    async def refusing(transaction: Transaction) -> Outcome[None]:
        raise RefusedError

    async def write_elsewhere(self) -> None:
        log = MemoryLog(self.store)
        for _ in range(25):
            for _ in range(self.rng.choice([1, 3, 30])):
                await self.pause()
            try:
                await log.append([Command(self.drafts())])
            except LogUnavailable:
                continue

    async def operate(self) -> None:
        """Retention, restores, and the slow poll."""
        trims, epochs = self.rng.choice([0, 3]), self.rng.choice([0, 0, 2])
        for _ in range(30):
            for _ in range(10):
                await self.pause()
            what = self.rng.random()
            if what < 0.1 and trims:
                self.store.trim(self.store.state.head - self.rng.choice([0, 5, 50]))
            elif what < 0.2 and epochs:
                epochs -= 1
                async with self.store.lock:
                    self.store.begin_epoch(lost=self.rng.choice([0, 0, 10]))
            else:
                self.store.notify()

    # ── readers ────────────────────────────────────────────────────────────────────────────────────────────────

    async def client(
        self, channel: Channel, filter: Filter, pick: Callable[[Channel, Filter, Start, Check], Any]
    ) -> None:
        """Connect, follow, be cut off, come back; until everything was seen."""
        check = Check(self.store.history, filter)
        self.checks.append(check)
        wish: Position | Anchor = self.rng.choice([Anchor.START, Anchor.NOW])
        while not (self.finished and self.caught_up(check)):
            await self.pause()
            try:
                start = await channel.resolve(check.position or wish)
            except LogUnavailable:
                continue
            if start.reset is not None:
                self.resets += 1
                assert self.may_reset(check.position, start)
            check.begin(start)
            await pick(channel, filter, start, check)

    def may_reset(self, position: Position | None, start: Start) -> bool:
        assert position is not None
        assert start.requested == str(position)
        if start.reset is ResetReason.HISTORY_TRIMMED:
            return position.seq < start.state.start
        return start.reset is ResetReason.EPOCH_CHANGED and position.epoch != start.state.epoch

    def caught_up(self, check: Check) -> bool:
        return check.position == Position(self.store.state.epoch, self.store.state.head) or (
            # what lies between is hidden, and no batch says so
            check.position is not None
            and check.position.epoch == self.store.state.epoch
            and not any(
                check._filter.wants(r) for r in self.store.history[self.store.state.epoch] if r.seq > check.position.seq
            )
        )

    async def by_next(self, channel: Channel, filter: Filter, start: Start, check: Check) -> None:
        """A consumer inside the process: a task that asks for the next batch, and is cut off at any moment."""
        async with channel.reader(filter, start, lossless=True) as reader:
            for _ in range(self.rng.randint(1, 15)):
                if self.finished and self.caught_up(check):
                    return
                asking = asyncio.ensure_future(reader.next())
                for _ in range(self.rng.choice([1, 10, 300])):
                    if asking.done():
                        break
                    await asyncio.sleep(0)
                if not asking.done():
                    asking.cancel()  # a deadline; the same reader may be asked again
                    await asyncio.wait([asking])
                if asking.cancelled():
                    continue
                try:
                    batch = asking.result()
                except HistoryTrimmed:
                    self.restarted(check, await reader.restart(), reader)
                    continue
                # a batch that was empty in itself leaves a hole between the last `upto` and this `after`
                self.take_over_holes(check, batch)
                check.take(batch)
                if self.rng.random() < 0.2:
                    await self.pause()

    def take_over_holes(self, check: Check, batch: Batch) -> None:
        assert check.position is not None
        between = [r for r in self.store.history[batch.epoch] if check.position.seq < r.seq <= batch.after]
        assert batch.epoch == check.position.epoch
        assert not any(check._filter.wants(r) for r in between), (
            f"passed over between {check.position} and {batch.after}"
        )
        check.position = Position(batch.epoch, max(batch.after, check.position.seq))

    async def by_parking(self, channel: Channel, filter: Filter, start: Start, check: Check) -> None:
        """The edge's way: take what there is, park at the head, and be offered what comes."""
        async with channel.reader(filter, start) as reader:
            for _ in range(self.rng.randint(1, 15)):
                if reader.stale:
                    self.restarted(check, await reader.restart(), reader)
                    continue
                was_history, live_from = reader.is_history, reader.live_from
                try:
                    batch = await reader.read() if reader.behind else reader.take()
                except HistoryTrimmed:
                    self.restarted(check, await reader.restart(), reader)
                    continue
                if batch is not None:
                    assert not was_history or batch.upto <= live_from, "history and what is live came in one batch"
                    self.take_from(check, batch)
                    await self.pause()
                    continue
                assert not was_history, "parked before it could be told that it is live"
                listener = self.rng.choice([Listening, Neighbour])(reader, ready=lambda: self.rng.random() < 0.8)
                park(reader, listener)
                taken = 0
                for _ in range(self.rng.choice([5, 100, 1_000])):
                    if listener.woken.is_set() or (self.finished and self.caught_up(check)):
                        break
                    await asyncio.sleep(0)
                    while taken < len(listener.taken):
                        self.take_from(check, listener.taken[taken])
                        taken += 1
                reader.unpark()
                for late in listener.taken[taken:]:
                    self.take_from(check, late)
                if isinstance(listener, Neighbour):
                    assert listener.events == sum(batch.count for batch in listener.taken)

    def take_from(self, check: Check, batch: Batch) -> None:
        """A lane moves to the head when somebody joins it there; what lies between is not wanted by any in it."""
        self.take_over_holes(check, batch)
        check.take(batch)

    def restarted(self, check: Check, start: Start, reader: Reader) -> None:
        assert check.position is not None
        self.resets += 1
        assert start.reset is not None
        assert start.reset is not ResetReason.HISTORY_TRIMMED or check.position.seq < start.state.start
        check.begin(start)


@pytest.mark.parametrize("seed", SEEDS)
async def test_every_reader_sees_each_shown_event_once_and_in_order(seed: int) -> None:
    simulation = Simulation(seed)
    await simulation.run()
    assert sum(check.events for check in simulation.checks) > 0


def test_the_schedules_reach_what_they_are_for() -> None:
    """Resets, outages, tiny tails and small pages do occur among the seeds."""
    simulations = [Simulation(seed) for seed in SEEDS]
    assert {simulation.limits.tail_bytes for simulation in simulations} == {1, 1_500, 5_000, 10**7}
    assert {simulation.limits.page_events for simulation in simulations} == {1, 4, 500}
    assert any(simulation.outages for simulation in simulations)


@pytest.mark.parametrize("seed", POSTGRES_SEEDS)
async def test_over_postgresql_too_every_reader_sees_each_shown_event_once(postgres: PostgresPlace, seed: int) -> None:
    rng = random.Random(seed)
    limits = ChannelLimits(
        tail_bytes=rng.choice([1, 5_000, 10**7]), page_events=rng.choice([3, 500]), batch_bytes=2_000
    )
    helper = Simulation(seed)  # for its drafts only
    seen: dict[int, list[int]] = {}

    async def follow(number: int, channel: Channel, filter: Filter, last: int) -> None:
        position: Position | Anchor = Anchor.START
        got = seen.setdefault(number, [])
        while not got or got[-1] < last:
            start = await channel.resolve(position)
            assert start.reset is None
            async with channel.reader(filter, start, lossless=True) as reader:
                for _ in range(rng.randint(1, 20)):
                    if got and got[-1] >= last:
                        break
                    got += seqs(await reader.next())
                position = Position(reader.epoch, got[-1])

    async def write(channel: Channel) -> None:
        for _ in range(30):
            await channel.publish(helper.drafts())

    async with (
        asyncio.timeout(SECONDS),
        channel_over(await postgres.open(), limits) as here,
        channel_over(await postgres.open()) as there,
    ):
        filters = [ALL, Filter(tenant="a"), Filter(tenant="a", session="s1")]
        await asyncio.gather(write(here), write(here), write(there))
        log = await postgres.open()
        everything = (await log.read(ALL, 0, limit=100_000, max_bytes=10**9)).records
        wanted = [[r.seq for r in everything if filter.shows(r)] for filter in filters]
        head = everything[-1].seq + 4
        async with asyncio.TaskGroup() as reading:
            for number, channel in enumerate([here, here, here, there, there, there]):
                reading.create_task(follow(number, channel, filters[number % 3], head))
            for _ in range(4):  # read while they come, from here and from there
                await rng.choice([here, there]).publish([draft(tenant="a", session="s1")])
    new = list(range(head - 3, head + 1))
    assert [got for _, got in sorted(seen.items())] == [part + new for part in wanted * 2]


# ── single moments ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_is_published_is_followed_history_and_live_alike(place: Place) -> None:
    async with channel_over(await place.open()) as channel:
        await channel.publish([draft(), draft()])
        start = await channel.resolve(Anchor.START)
        async with asyncio.timeout(SECONDS), aclosing(channel.follow(MINE, start)) as following:
            assert [(await anext(following)).seq for _ in range(2)] == [1, 2]
            third = asyncio.ensure_future(anext(following))
            committed = await channel.publish([draft()])
            assert await third == committed.records[0]


async def test_events_of_another_process_arrive(place: Place) -> None:
    here, there = await place.open(), await place.open()
    async with at_the_head(here) as (channel, reader):
        for turn in range(3):
            asking = asyncio.ensure_future(reader.next())
            await asyncio.sleep(0)
            await there.append([Command([draft()])])
            assert seqs(await asking) == [2 * turn + 1]
            await channel.publish([draft()])
            assert seqs(await reader.next()) == [2 * turn + 2]


async def test_what_a_group_that_fell_apart_left_to_others_is_not_passed_over() -> None:
    # a bad row makes each command of a group a transaction of its own, and another process commits between them
    store = Store()
    async with asyncio.timeout(SECONDS), channel_over(MemoryLog(store)) as channel:
        other = MemoryLog(store)
        async with channel.reader(MINE, await channel.resolve(Anchor.NOW)) as reader:
            assert reader.take() is None
            committed = [Committed(None, Position("epoch0", seq), (Record.of(seq, draft()),)) for seq in (1, 3)]

            async def append(commands: Sequence[Command[Any]]) -> list[Committed[Any] | Exception]:
                store.commit(committed[0].records)
                await other.append([Command([draft()])])
                store.commit(committed[1].records)
                return [committed[0], ValueError("a bad row"), committed[1]]

            channel._log.append = append  # type: ignore[method-assign]
            results = await asyncio.gather(*(channel.publish([draft()]) for _ in range(3)), return_exceptions=True)
            assert [type(result) for result in results] == [Committed, ValueError, Committed]
            got: list[int] = []
            while len(got) < 3:
                got += seqs(await reader.next())
            assert got == [1, 2, 3]


async def test_a_reader_behind_the_tail_reads_the_log(place: Place) -> None:
    limits = ChannelLimits(tail_bytes=2 * OVERHEAD_BYTES + 200)
    async with at_the_head(await place.open(), limits) as (channel, reader):
        assert reader.take() is None
        await channel.publish([draft() for _ in range(10)])
        assert is_behind(reader)
        got: list[int] = []
        while is_behind(reader):
            got += seqs(await reader.read())
        batch = reader.take()
        assert got + ([] if batch is None else seqs(batch)) == list(range(1, 11))


@pytest.mark.parametrize("manner", ["next", "parked", "in a lane"])
async def test_a_tail_that_was_evicted_under_a_waiting_reader_is_not_a_hole(manner: str) -> None:
    limits = ChannelLimits(tail_bytes=2 * OVERHEAD_BYTES + 200)
    async with at_the_head(MemoryLog(Store()), limits) as (channel, reader):
        if manner == "next":
            asking = asyncio.ensure_future(reader.next())
            await until(lambda: reader.parked)
            await channel.publish([draft() for _ in range(10)])
            assert seqs(await asking)[0] == 1
            return
        listener = Listening(reader) if manner == "parked" else Neighbour(reader)
        assert reader.take() is None
        park(reader, listener)
        await channel.publish([draft() for _ in range(10)])
        await until(lambda: bool(listener.taken) or listener.woken.is_set())
        assert not listener.taken or seqs(listener.taken[0])[0] == 1
        assert reader.position == 0 or seqs(listener.taken[0])[0] == 1


@pytest.mark.parametrize("kind", [Listening, Neighbour])
async def test_a_parked_reader_for_whom_too_much_came_at_once_is_given_it_in_pieces(
    kind: type[Listening],
) -> None:
    limits = ChannelLimits(batch_bytes=3 * (OVERHEAD_BYTES + 100))
    async with at_the_head(MemoryLog(Store()), limits) as (channel, reader):
        assert reader.take() is None
        listener = kind(reader)
        park(reader, listener)
        await channel.publish([draft() for _ in range(60)])
        await until(lambda: reader.position == 60)
        assert reader.parked
        assert len(listener.taken) > 1
        assert [seq for batch in listener.taken for seq in seqs(batch)] == list(range(1, 61))


@pytest.mark.parametrize("kind", [Listening, Neighbour])
async def test_a_parked_reader_that_cannot_take_the_next_piece_asks_for_it_itself(
    kind: type[Listening],
) -> None:
    limits = ChannelLimits(batch_bytes=3 * (OVERHEAD_BYTES + 100))
    async with at_the_head(MemoryLog(Store()), limits) as (channel, reader):
        assert reader.take() is None
        listener = kind(reader, ready=lambda: False)
        park(reader, listener)
        await channel.publish([draft() for _ in range(30)])
        await listener.woken.wait()
        assert not reader.parked
        got = [seq for batch in listener.taken for seq in seqs(batch)]
        assert got
        while (batch := reader.take()) is not None:
            got += seqs(batch)
        assert got == list(range(1, 31))


async def test_a_position_ahead_of_the_head_waits(place: Place) -> None:
    """A process that has not yet heard of what another has committed, and told to a client that comes here."""
    here, there = await place.open(), await place.open()
    async with asyncio.timeout(SECONDS), channel_over(here) as channel:
        state = channel.state
        await end(*(task for task in channel._keeper._tasks if task.get_name() == "news"))  # it hears nothing now
        (committed,) = await there.append([Command([draft() for _ in range(3)])])
        assert isinstance(committed, Committed)
        start = await channel.resolve(committed.last)
        assert (start.reset, start.after, start.resumed) == (None, 3, True)
        async with channel.reader(MINE, start) as reader:
            assert channel.state == state
            assert reader.take() is None
            assert not reader.is_history
            asking = asyncio.ensure_future(reader.next())
            await until(lambda: reader.parked)
            await channel._catch_up(await here.state())
            assert not asking.done()
            (committed,) = await there.append([Command([draft()])])
            await channel._catch_up(await here.state())
            assert seqs(await asking) == [4]


async def test_a_reader_never_parks_before_it_is_live(place: Place) -> None:
    """Else nobody would say `live` until the next event of its filter."""
    here, there = await place.open(), await place.open()
    async with asyncio.timeout(SECONDS), channel_over(here) as channel:
        await channel.publish([draft()])
        await end(*(task for task in channel._keeper._tasks if task.get_name() == "news"))  # it hears nothing now
        await there.append([Command([draft() for _ in range(3)])])
        for wish in (Anchor.START, Position(channel.state.epoch, 0), Position(channel.state.epoch, 2)):
            async with channel.reader(MINE, await channel.resolve(wish)) as reader:
                while True:
                    batch = await reader.read() if reader.behind else reader.take()
                    if batch is None:
                        break
                assert not reader.is_history, wish


async def test_a_position_beyond_the_head_of_the_database_is_unknown(place: Place) -> None:
    async with channel_over(await place.open()) as channel:
        committed = await channel.publish([draft()])
        start = await channel.resolve(Position(committed.last.epoch, 2))
        assert (start.reset, start.after) == (ResetReason.UNKNOWN_POSITION, 0)
        frame = start.reset_frame()
        assert (frame.reason, frame.requested) == ("unknown_position", f"{committed.last.epoch}-2")
        assert (await channel.resolve(Position("other", 1))).reset is ResetReason.EPOCH_CHANGED


async def test_an_answer_that_was_asked_for_earlier_does_not_make_a_position_unknown() -> None:
    """Readers share the question for the state; one that comes later may know more than the answer under way."""
    store, gate = Store(), asyncio.Event()
    async with asyncio.timeout(SECONDS), channel_over(MemoryLog(store)) as channel:
        await end(*(task for task in channel._keeper._tasks if task.get_name() == "news"))  # it hears nothing now
        answers = itertools.count()

        async def state() -> LogState:
            answer = store.state
            if next(answers) == 0:
                await gate.wait()
            return answer

        channel._log.state = state  # type: ignore[method-assign]
        first = asyncio.create_task(channel.resolve(Anchor.START))
        await until(lambda: next(answers) > 0 or first.done())
        store.commit([Record.of(1, draft())])
        second = asyncio.create_task(channel.resolve(Position("epoch0", 1)))
        await asyncio.sleep(0)
        gate.set()
        assert (await first).reset is None
        assert (await second).reset is None


async def test_a_reader_whose_history_was_trimmed_is_told(place: Place) -> None:
    log = await place.open()
    async with asyncio.timeout(SECONDS), channel_over(log) as channel:
        await channel.publish([draft() for _ in range(10)])
        start = await channel.resolve(Anchor.START)
        await log.trim(max_age_seconds=None, max_events=3)
        async with channel.reader(MINE, start) as reader:
            with pytest.raises(HistoryTrimmed):
                await reader.next()
            again = await reader.restart()
            assert (again.reset, again.after, again.requested) == (
                ResetReason.HISTORY_TRIMMED,
                7,
                f"{start.state.epoch}-0",
            )
            assert seqs(await reader.next()) == [8, 9, 10]
        assert (await channel.resolve(Anchor.START)).after == 7
        assert (await channel.resolve(Position(start.state.epoch, 6))).reset is ResetReason.HISTORY_TRIMMED
        assert (await channel.resolve(Position(start.state.epoch, 7))).reset is None


async def test_a_new_epoch_reaches_readers_wherever_they_are(place: Place) -> None:
    log, other = await place.open(), await place.open()
    async with asyncio.timeout(SECONDS), channel_over(log) as channel:
        await channel.publish([draft()])
        start = await channel.resolve(Anchor.NOW)
        async with channel.reader(MINE, start) as asking, channel.reader(MINE, start) as parked:
            waiting = asyncio.ensure_future(asking.next())
            listener = Listening(parked)
            assert parked.take() is None
            parked.park(listener)
            await until(lambda: asking.parked)
            state = await other.new_epoch()
            with pytest.raises(HistoryTrimmed):
                await waiting
            await listener.woken.wait()
            assert parked.stale
            again = await parked.restart()
            assert (again.reset, again.state.epoch) == (ResetReason.EPOCH_CHANGED, state.epoch)
            assert channel.fanout.is_empty, "it waits at a tail that is gone"
            await channel.publish([draft()])
            got: list[int] = []
            while len(got) < 2:
                got += seqs(await parked.next())
            assert got == [1, 2]


class Late(MemoryLog):
    """Holds back the first answer of one kind; its news are what a test says."""

    def __init__(self, store: Store, held: str) -> None:
        super().__init__(store)
        self.release = asyncio.Event()
        self.asked = asyncio.Event()
        self.news = asyncio.Queue[LogState]()
        self._held = held

    async def start(self) -> LogState:
        return self.store.state

    async def read(self, filter: Filter, after: int, *, limit: int, max_bytes: int) -> Any:
        page = await super().read(filter, after, limit=limit, max_bytes=max_bytes)
        await self._hold("page")
        return page

    async def state(self) -> LogState:
        state = await super().state()
        await self._hold("state")
        return state

    async def heads(self) -> AsyncIterator[LogState]:
        while True:
            yield await self.news.get()

    async def _hold(self, kind: str) -> None:
        if kind == self._held and not self.asked.is_set():
            self.asked.set()
            await self.release.wait()


@pytest.mark.parametrize("held", ["page", "state", "news"])
async def test_an_epoch_that_is_over_does_not_come_back_with_an_old_answer(held: str) -> None:
    """Else every reader of the new epoch is told to start over, for nothing."""
    store = Store()
    store.commit([Record.of(1, draft())])
    before, log = store.state, Late(store, held)
    async with asyncio.timeout(SECONDS), channel_over(log) as channel:
        late: asyncio.Future[Any] | None = None
        if held != "news":
            late = asyncio.ensure_future(channel.read(ALL, 0) if held == "page" else channel.ask())
            await log.asked.wait()
        store.begin_epoch()
        log.news.put_nowait(store.state)
        await until(lambda: channel.state.epoch == "epoch1")
        async with channel.reader(MINE, Start(store.state, 1)) as reader:
            assert reader.take() is None
            listener = Listening(reader)
            reader.park(listener)
            if late is None:
                log.news.put_nowait(before)
            else:
                log.release.set()
                answer = await late
                assert isinstance(answer, Page) or answer == store.state
            for _ in range(20):
                await asyncio.sleep(0)
            assert log.news.empty()
            assert (channel.state, listener.woken.is_set()) == (store.state, False)


async def test_catching_up_across_a_restore_does_not_begin_where_the_lost_epoch_was() -> None:
    """The new head may be lower than the place that was asked for: what lies between would be passed over."""
    store = Store()
    store.commit([Record.of(seq, draft()) for seq in range(1, 6)])
    log = Late(store, "page")
    async with at_the_head(log) as (channel, reader):
        assert reader.take() is None  # there is a tail, so that catching up reads
        store.commit([Record.of(seq, draft()) for seq in range(6, 9)])
        log.news.put_nowait(store.state)
        await log.asked.wait()
        store.begin_epoch(lost=6)
        await channel.ask()
        assert channel.state == store.state
        start = await reader.restart()
        reader.advance(Batch("epoch1", start.after, 2, (), size=0))
        assert reader.take() is None
        store.commit([Record.of(seq, draft()) for seq in range(3, 8)])
        log.release.set()
        log.news.put_nowait(store.state)
        got: list[int] = []
        while not got or got[-1] < 7:
            got += seqs(await reader.next())
        assert got == [3, 4, 5, 6, 7]


async def test_an_epoch_that_is_over_may_come_back_in_truth() -> None:
    """A dump of before is loaded into the same cluster, and nobody has called `tailrace epoch new` yet."""
    store = Store()
    store.commit([Record.of(1, draft())])
    before, log = store.state, Late(store, "nothing")
    async with asyncio.timeout(SECONDS), channel_over(log) as channel:
        store.begin_epoch()
        log.news.put_nowait(store.state)
        await until(lambda: channel.state.epoch == "epoch1")
        store.state = before
        log.news.put_nowait(store.state)
        await until(lambda: channel.state == before)
        async with channel.reader(MINE, await channel.resolve(Anchor.START)) as reader:
            assert seqs(await reader.next()) == [1]


async def test_a_reset_is_not_answered_out_of_the_epoch_that_is_over() -> None:
    store = Store()
    store.commit([Record.of(1, draft())])
    log = Late(store, "state")
    async with (
        asyncio.timeout(SECONDS),
        channel_over(log) as channel,
        channel.reader(MINE, Start(store.state, 1)) as reader,
    ):
        asking = asyncio.ensure_future(channel.ask())
        await log.asked.wait()
        store.begin_epoch()
        log.news.put_nowait(store.state)
        await until(lambda: reader.stale)
        restarting = asyncio.ensure_future(reader.restart())
        await asyncio.sleep(0)
        log.release.set()
        start = await restarting
        assert (start.reset, start.state.epoch) == (ResetReason.EPOCH_CHANGED, "epoch1")
        await asking


async def test_a_reader_that_was_served_from_a_dropped_tail_is_not_moved() -> None:
    """The tail was touched, and before the fan-out's turn everything started over."""
    store = Store()
    async with at_the_head(MemoryLog(store)) as (channel, reader):
        listener = Listening(reader)
        assert reader.take() is None
        reader.park(listener)
        await asyncio.sleep(0)
        record = Record.of(1, draft())
        store.commit([record])
        channel._committed("epoch0", [record], 0.0)
        channel._start_over()  # as after an absence longer than history is kept
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert listener.woken.is_set()
        assert (reader.position, listener.taken) == (0, [])


async def test_a_consumer_that_is_cancelled_while_it_is_served_harms_nobody() -> None:
    """At any distance between the commit and the cancellation."""
    for turns in range(12):
        async with asyncio.timeout(SECONDS), channel_over(MemoryLog(Store())) as channel:
            start = await channel.resolve(Anchor.NOW)
            async with channel.reader(MINE, start) as first, channel.reader(MINE, start) as second:
                leaving, staying = (asyncio.ensure_future(reader.next()) for reader in (first, second))
                await until(lambda: first.parked and second.parked)
                publishing = asyncio.ensure_future(channel.publish([draft()]))
                for _ in range(turns):
                    await asyncio.sleep(0)
                leaving.cancel()
                await asyncio.wait([leaving, publishing])
                assert seqs(await staying) == [1], f"cancelled after {turns} turns"
                assert channel.failures() == []
                if leaving.cancelled():  # what it did not take is still there for it
                    assert seqs(await first.next()) == [1], f"lost after {turns} turns"


async def test_a_listener_that_fails_harms_nobody_else() -> None:
    class Failing(Listening):
        def offer(self, batch: Batch) -> bool:
            raise OverflowError("such as an integer that MessagePack cannot hold")

    async with asyncio.timeout(SECONDS), channel_over(MemoryLog(Store())) as channel:
        start = await channel.resolve(Anchor.NOW)
        async with channel.reader(MINE, start) as first, channel.reader(MINE, start) as second:
            assert first.take() is None
            first.park(Failing(first))
            asking = asyncio.ensure_future(second.next())
            await until(lambda: second.parked)
            await channel.publish([draft()])
            await until(lambda: asking.done() or bool(channel.failures()))
            assert channel.failures() == []
            assert seqs(await asking) == [1]


async def test_a_failing_write_in_a_lane_harms_nobody_else() -> None:
    class Failing(Neighbour):
        def send(self, wire: bytes) -> int:
            raise BrokenPipeError

        def write(self, rest: bytes) -> None:
            raise RuntimeError("such as a transport that is closed")

    async with asyncio.timeout(SECONDS), channel_over(MemoryLog(Store())) as channel:
        start = await channel.resolve(Anchor.NOW)
        async with channel.reader(MINE, start) as first, channel.reader(MINE, start) as second:
            failing, well = Failing(first), Neighbour(second)
            for reader, listener in ((first, failing), (second, well)):
                assert reader.take() is None
                park(reader, listener)
            assert first.lane is second.lane is not None
            await channel.publish([draft()])
            await until(lambda: bool(well.taken))
            await failing.woken.wait()
            assert (first.parked, second.parked) == (False, True)
            assert channel.failures() == []


async def test_what_cannot_be_rendered_ends_those_who_share_it_and_no_others() -> None:
    class Unspeakable(Neighbour):
        format = "another"

        def render(self, batch: Batch) -> bytes:
            raise OverflowError("such as an integer that MessagePack cannot hold")

    async with asyncio.timeout(SECONDS), channel_over(MemoryLog(Store())) as channel:
        start = await channel.resolve(Anchor.NOW)
        async with channel.reader(MINE, start) as first, channel.reader(MINE, start) as second:
            unspeakable, well = Unspeakable(first), Neighbour(second)
            for reader, listener in ((first, unspeakable), (second, well)):
                assert reader.take() is None
                park(reader, listener)
            assert first.lane is not second.lane
            await channel.publish([draft()])
            await until(lambda: bool(well.taken))
            await unspeakable.woken.wait()
            assert not first.parked
            assert channel.failures() == []


async def test_lanes_of_readers_that_came_one_by_one_become_few() -> None:
    async with asyncio.timeout(SECONDS), channel_over(MemoryLog(Store())) as channel, AsyncExitStack() as stack:
        start, readers = await channel.resolve(Anchor.NOW), []
        for number in range(READERS_PER_LANE + 10):
            reader = await stack.enter_async_context(channel.reader(MINE, start))
            if number % 5 == 0:  # to the tails, and not yet to those who are parked: they take nobody in now
                await channel.publish([draft()])
            while reader.take() is not None:
                pass
            park(reader, Neighbour(reader))
            readers.append(reader)
        await channel.publish([draft()])
        await until(lambda: all(reader.position == channel.state.head for reader in readers))
        await until(lambda: len({id(reader.lane) for reader in readers}) == 2)
        lanes = {id(lane): lane for reader in readers if (lane := reader.lane) is not None}
        assert sum(len(lane.members) for lane in lanes.values()) == len(readers)
        assert all(len(lane.members) <= READERS_PER_LANE for lane in lanes.values())


async def test_a_reader_that_knows_more_than_its_process_joins_no_lane() -> None:
    store = Store()
    async with asyncio.timeout(SECONDS), channel_over(MemoryLog(store)) as channel:
        here = channel.state
        ahead = Start(LogState(here.epoch, 5, here.oldest), 5, resumed=True)
        async with (
            channel.reader(MINE, await channel.resolve(Anchor.NOW)) as first,
            channel.reader(MINE, ahead) as other,
        ):
            listeners = Neighbour(first), Neighbour(other)
            assert first.take() is None
            park(first, listeners[0])
            park(other, listeners[1])
            await channel.publish([draft() for _ in range(7)])
            await until(lambda: first.position == other.position == 7)
            assert [seq for batch in listeners[0].taken for seq in seqs(batch)] == [1, 2, 3, 4, 5, 6, 7]
            assert [seq for batch in listeners[1].taken for seq in seqs(batch)] == [6, 7]


async def test_an_appender_that_died_fails_its_callers_and_is_told() -> None:
    async with asyncio.timeout(SECONDS), channel_over(MemoryLog(Store())) as channel:

        def fail(epoch: str, records: Sequence[Record], since: float) -> None:
            raise RuntimeError("a mistake of ours")

        channel._appender._on_commit = fail
        publishing = [asyncio.ensure_future(channel.publish([draft()])) for _ in range(3)]
        _, waiting = await asyncio.wait(publishing, timeout=1)
        assert not waiting, "who publishes would wait for ever"
        results = await asyncio.gather(*publishing, return_exceptions=True)
        ok = all(isinstance(result, Committed) for result in results)  # they are durable, whatever came after
        assert ok or "appender" in channel.failures()
        channel._appender._on_commit = channel._committed


async def test_a_filter_with_a_subject_named_twice_can_be_left_again() -> None:
    async with channel_over(MemoryLog(Store())) as channel:
        filter = Filter(tenant="t", subjects=("run/1", "run/1"))
        async with channel.reader(filter, await channel.resolve(Anchor.NOW)) as reader:
            assert reader.take() is None
            await channel.publish([draft()])
            assert seqs(reader.take()) == [1]
        assert len(channel.tails) == 0


async def test_who_publishes_during_the_shutdown_is_answered_though_the_log_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(appender_module, "CLOSE_SECONDS", 0.01)
    monkeypatch.setattr(appender_module, "MAX_GROUP_COMMANDS", 2)
    never = asyncio.Event()

    async def append(commands: Sequence[Command[Any]]) -> list[Any]:
        await never.wait()
        raise AssertionError

    async with asyncio.timeout(SECONDS), channel_over(MemoryLog(Store())) as channel:
        channel._log.append = append  # type: ignore[method-assign]
        publishing = [asyncio.ensure_future(channel.publish([draft()])) for _ in range(5)]
        await asyncio.sleep(0)
        await channel._appender.close()
        _, waiting = await asyncio.wait(publishing, timeout=1)
        assert not waiting, "they would wait for ever"
        results = await asyncio.gather(*publishing, return_exceptions=True)
        assert [type(result) for result in results] == [LogUnavailable] * 5


async def test_what_was_kept_from_a_cancelled_next_is_not_given_after_a_reset() -> None:
    store = Store()
    async with at_the_head(MemoryLog(store)) as (_, reader):
        asking = asyncio.ensure_future(reader.next())
        await until(lambda: reader.parked)
        store.commit([Record.of(1, draft("status"))])
        await until(lambda: not reader.parked)
        asking.cancel()
        await asyncio.wait([asking])
        assert asking.cancelled()
        store.begin_epoch(lost=1)
        await until(lambda: reader.stale)
        store.commit([Record.of(1, draft("log"))])
        with pytest.raises(HistoryTrimmed):
            await reader.next()
        assert (await reader.restart()).reset is ResetReason.EPOCH_CHANGED
        batch = await reader.next()
        assert (batch.epoch, [item.type for item in batch.items if isinstance(item, Record)]) == ("epoch1", ["log"])


async def test_readers_at_one_place_of_one_filter_share_a_page_and_a_batch() -> None:
    store = Store()
    log = MemoryLog(store)
    reads = 0

    class Counting(MemoryLog):
        async def read(self, filter: Filter, after: int, *, limit: int, max_bytes: int) -> Any:
            nonlocal reads
            reads += 1
            return await super().read(filter, after, limit=limit, max_bytes=max_bytes)

    await log.append([Command([draft() for _ in range(5)])])
    async with asyncio.timeout(SECONDS), channel_over(Counting(store)) as channel:
        start = await channel.resolve(Anchor.START)
        readers = [Reader(channel, MINE, start) for _ in range(10)]
        batches = await asyncio.gather(*(reader.read() for reader in readers))
        assert [seqs(batch) for batch in batches] == [[1, 2, 3, 4, 5]] * 10
        assert reads == 1
        listeners = [Listening(reader) for reader in readers]
        for reader, listener in zip(readers, listeners, strict=True):
            assert reader.take() is None
            reader.park(listener)
        await channel.publish([draft()])
        await until(lambda: all(listener.taken for listener in listeners))
        assert len({id(listener.taken[0]) for listener in listeners}) == 1
        for reader in readers:
            reader.close()


async def test_a_page_that_was_read_already_is_not_given_again() -> None:
    """Between the end of a page's task and its callbacks. Who gets it then makes no progress, and would never yield."""
    store = Store()
    store.commit([Record.of(1, draft())])
    async with asyncio.timeout(SECONDS), channel_over(MemoryLog(store)) as channel:
        first = asyncio.ensure_future(channel.read_shared(MINE, 0))
        await asyncio.sleep(0)
        while not any(task.done() for task in channel._pages.values()):
            assert not first.done(), "the moment was missed"
            await asyncio.sleep(0)
        store.commit([Record.of(2, draft())])
        assert [seqs(batch) for batch in await channel.read_shared(MINE, 0)] == [[1, 2]]
        assert [seqs(batch) for batch in await first] == [[1]]
        await asyncio.sleep(0)
        assert not channel._pages


async def test_a_reset_is_not_answered_from_before_the_history_was_trimmed() -> None:
    """Else the reader starts where nothing is any more, and is reset a second time."""
    store = Store()
    store.commit([Record.of(seq, draft()) for seq in range(1, 11)])
    log = Late(store, "state")
    async with (
        asyncio.timeout(SECONDS),
        channel_over(log) as channel,
        channel.reader(MINE, Start(store.state, 0)) as reader,
    ):
        earlier = asyncio.ensure_future(channel.ask())
        await log.asked.wait()
        store.trim(8)
        with pytest.raises(HistoryTrimmed):
            await reader.next()
        restarting = asyncio.ensure_future(reader.restart())
        await asyncio.sleep(0)
        log.release.set()
        assert (await restarting).after == 7
        await earlier


async def test_a_reader_that_is_cut_off_does_not_cut_off_those_who_share_its_page() -> None:
    store = Store()
    gate = asyncio.Event()
    async with asyncio.timeout(SECONDS), channel_over(MemoryLog(store)) as channel:
        await channel.publish([draft()])
        start = await channel.resolve(Anchor.START)
        store.pause = gate.wait  # type: ignore[assignment]
        readers = [Reader(channel, MINE, start) for _ in range(2)]
        first, second = (asyncio.ensure_future(reader.read()) for reader in readers)
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        gate.set()
        assert seqs(await second) == [1]
        for reader in readers:
            reader.close()


async def test_closing_commits_what_was_accepted_and_refuses_what_comes_later() -> None:
    store = Store()
    async with asyncio.timeout(SECONDS), channel_over(MemoryLog(store)) as channel:
        publishing = [asyncio.ensure_future(channel.publish([draft()])) for _ in range(600)]
        await asyncio.sleep(0)
        await channel._appender.close()
        results = await asyncio.gather(*publishing)
        assert [result.last.seq for result in results] == list(range(1, 601))
        with pytest.raises(LogUnavailable):
            await channel.publish([draft()])


# ── lag ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Lagging(Struct, frozen=True):
    channel: Channel
    reader: Reader


BUDGET = 10_000


@asynccontextmanager
async def lagging(*, lossless: bool = False, filter: Filter = MINE) -> AsyncIterator[Lagging]:
    """A reader that is live, over a log with some history."""
    limits = ChannelLimits(lag_budget_bytes=BUDGET)
    async with channel_over(MemoryLog(Store()), limits) as channel:
        await channel.publish([draft("status"), draft("log")])
        start = await channel.resolve(Anchor.START)
        async with channel.reader(filter, start, lossless=lossless) as reader:
            while True:
                batch = await reader.read() if reader.behind else reader.take()
                if batch is None:
                    break
            yield Lagging(channel, reader)


def mixture(count: int, seed: int = 1) -> list[Draft]:
    rng = random.Random(seed)
    return [
        draft(rng.choice(["log", "log", "token", "status", "snapshot", "worker.state"]), worker=rng.choice("vw"))
        for _ in range(count)
    ]


async def test_a_live_reader_is_over_budget_once_more_than_the_budget_waits_for_it() -> None:
    async with lagging() as here:
        size = Record.of(1, draft()).size
        fits = BUDGET // size
        await here.channel.publish([draft() for _ in range(fits)])
        assert not is_over(here.reader)
        await here.channel.publish([draft()])
        assert is_over(here.reader)
        assert seqs(here.reader.take())[0] == 3  # no one has to shed
        assert not is_over(here.reader)


async def test_taking_while_lagging_sheds_exactly_and_keeps_the_rest() -> None:
    async with lagging() as here:
        records = (await here.channel.publish(mixture(60))).records
        assert is_over(here.reader)
        batch = here.reader.take(lagging=True)
        assert batch is not None
        gaps = [item for item in batch.items if isinstance(item, Gap)]
        shed = Counter(r.type for r in records if r.type in ("log", "token"))
        assert sum((Counter(gap.by_type) for gap in gaps), Counter()) == shed
        assert sum(gap.dropped for gap in gaps) == shed.total()
        kept = [item for item in batch.items if isinstance(item, Record)]
        assert [r for r in kept if r.type == "status"] == [r for r in records if r.type == "status"]
        newest = {(r.type, r.worker if r.type == "worker.state" else None): r for r in records}
        latest = [r for r in kept if r.type in ("snapshot", "worker.state")]
        assert latest == sorted(
            (r for (type, _), r in newest.items() if type in ("snapshot", "worker.state")), key=lambda r: r.seq
        )
        assert len(kept) == len(latest) + sum(r.type == "status" for r in records)
        assert (batch.upto, here.reader.position) == (records[-1].seq, records[-1].seq)
        assert not is_over(here.reader)
        assert here.reader.take() is None


async def test_reading_the_log_while_lagging_sheds_the_same_as_taking_from_the_tail() -> None:
    async with lagging() as here:
        records = (await here.channel.publish(mixture(60))).records
        taken = here.reader.take(lagging=True)
        behind = Reader(here.channel, MINE, Start(here.channel.state, records[0].seq - 1))
        read = await behind.read(lagging=True)
        assert taken is not None
        assert list(read.items) == list(taken.items)
        behind.close()


async def test_wherever_a_lagging_client_is_cut_off_it_resumes_without_a_silent_loss() -> None:
    async with lagging() as here:
        records = (await here.channel.publish(mixture(60))).records
        batch = here.reader.take(lagging=True)
        assert batch is not None
        for cut in range(len(batch.items) + 1):
            shown = batch.items[:cut]
            last = 2 if not shown else shown[-1].seq if isinstance(shown[-1], Record) else shown[-1].to_seq
            start = await here.channel.resolve(Position(batch.epoch, last))
            async with here.channel.reader(MINE, start) as again:
                got: list[Record] = []
                while again.position < records[-1].seq:
                    more = await again.read() if again.behind else again.take()
                    assert more is not None
                    got += [item for item in more.items if isinstance(item, Record)]  # history: nothing is shed
            told = Counter([*(item.seq for item in shown if isinstance(item, Record)), *(r.seq for r in got)])
            for gap in (item for item in shown if isinstance(item, Gap)):
                told.update(r.seq for r in records if gap.from_seq <= r.seq <= gap.to_seq and r.type in gap.by_type)
            assert max(told.values()) == 1
            untold = [r for r in records if r.seq not in told]
            assert all(r.type in ("snapshot", "worker.state") for r in untold)


async def test_history_is_never_shed_however_long_it_is() -> None:
    limits = ChannelLimits(lag_budget_bytes=1, batch_bytes=1_000)
    async with asyncio.timeout(SECONDS), channel_over(MemoryLog(Store()), limits) as channel:
        await channel.publish(mixture(50))
        start = await channel.resolve(Anchor.START)
        async with channel.reader(MINE, start) as reader:
            assert is_behind(reader)
            await channel.publish(mixture(50))
            seen = 0
            while reader.is_history:
                assert not is_over(reader)
                batch = await reader.read() if reader.behind else reader.take()
                assert batch is not None
                seen += len(seqs(batch))
            assert seen == 50
            while is_behind(reader):
                await reader.read()
            assert is_over(reader)


async def test_a_lossless_reader_is_never_over_budget() -> None:
    async with lagging(lossless=True) as here:
        await here.channel.publish(mixture(200))
        assert not is_over(here.reader)


async def test_what_the_filter_hides_is_no_lag() -> None:
    async with lagging(filter=Filter(tenant="t", types=("status",))) as here:
        await here.channel.publish([draft("log", data=b"x" * BUDGET) for _ in range(5)])
        assert not is_over(here.reader)
        batch = here.reader.take(lagging=True)
        assert batch is None or not batch.items


async def test_the_hidden_end_of_a_subject_is_told_also_while_lagging() -> None:
    async with lagging(filter=Filter(tenant="t", subjects=("run/1",), types=("log",))) as here:
        await here.channel.publish([*(draft() for _ in range(100)), draft("status", ends="failed")])
        batch = here.reader.take(lagging=True)
        assert batch is not None
        assert batch.ends == "failed"
        assert [item.dropped for item in batch.items if isinstance(item, Gap)] == [100]
        assert not seqs(batch)
