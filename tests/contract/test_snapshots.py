"""Streams of snapshots under seeded schedules: two processes, readers that stall, are cut off and come back, tasks that
end, go or are taken away, retention, epochs, a database that is away.

Each frame is held against those before it, and what a reader shows at the end against the tasks as they are then. Where
something fails, the seed in its name brings it back.
"""

import asyncio
import json
import random
import selectors
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from services.tasks.events import SCHEMA, TERMINAL, Progress
from services.tasks.lifecycle import draft_of
from shared.channel import reader as reader_module
from shared.channel.channel import Channel, ChannelLimits
from shared.channel.log import HistoryTrimmed, LogUnavailable
from shared.edge.admission import CurrentPage, Pace, Subscription
from shared.edge.delivery import Delivery
from shared.edge.settings import Settings
from shared.edge.sinks import SseSink
from shared.edge.snapshots import TIMER_SLACK_SECONDS, delivery_of
from shared.edge.streams import Streams
from shared.protocol.ends import EndReason
from shared.protocol.filter import Filter
from shared.protocol.position import Anchor, Position
from shared.protocol.record import DELETED, Draft, Record
from shared.protocol.sse import SseDecoder
from tests.support.memory_log import MemoryLog, Store
from tests.unit.tasks.sample import task

SEEDS = [*range(150), 234, 888, 1280]  # the last three found something
INTERVAL = 0.01
STEPS = 250
TASKS = 3
SECONDS = 200.0
LIMITS = ChannelLimits(tail_bytes=6_000, lag_budget_bytes=3_000, batch_bytes=2_500, page_events=20, page_bytes=20_000)

REACHED: Counter[str] = Counter()  # over all seeds


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who finds the log away asks again at once."""
    monkeypatch.setattr(reader_module, "RETRY_SECONDS", (0.0, 0.0))


class TimelessLoop(asyncio.SelectorEventLoop):
    """Where others would wait, its clock moves on at once: a seed is the same schedule on any machine."""

    def __init__(self) -> None:
        super().__init__(_Hurry(self))
        self.now = 0.0

    def time(self) -> float:
        return self.now


class _Hurry(selectors.SelectSelector):
    def __init__(self, loop: TimelessLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "everybody waits for somebody else"
        self._loop.now += max(0.0, timeout)
        return super().select(0)


class Wire:
    """A connection whose socket takes bytes when it is told to."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self.on_lost: Callable[[], object] | None = None
        self.on_full: Callable[[], object] | None = None
        self.is_open = True
        self.stalled = False
        self._take = take
        self._changed = asyncio.Event()

    @property
    def is_writable(self) -> bool:
        return self.is_open and not self.stalled

    @property
    def pending_bytes(self) -> int:
        return 0

    def write(self, wire: bytes) -> None:
        if self.is_open:
            self._take(wire)

    def send_now(self, wire: bytes) -> int:
        self.write(wire)
        return len(wire)

    async def drain(self) -> None:
        while self.stalled and self.is_open:
            self._changed.clear()
            await self._changed.wait()

    def close(self) -> None:
        raise AssertionError("a stream closes nothing by itself")

    def stall(self, *, stalled: bool) -> None:
        self.stalled = stalled
        self._changed.set()

    def abort(self) -> None:
        self.is_open = False
        self._changed.set()


class World:
    """The database, and what is true of the tasks in it."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.away = False
        self.store = Store(pause=self._pause, away=lambda: self.away, scan_rows=50)
        self.taken: set[str] = set()  # past the service
        self.watching: dict[str, dict[Callable[[], object], None]] = {}
        self.rev = 0

    async def _pause(self) -> None:
        for _ in range(self.dice.choice((0, 0, 0, 1, 2, 5))):
            await asyncio.sleep(0)

    def newest(self, subject: str) -> Record | None:
        """The task's newest snapshot, None when it is gone."""
        found = None
        for record in self.store.history[self.store.state.epoch]:
            if record.subject == subject:
                found = None if record.ends == DELETED else record
        return None if subject in self.taken else found

    async def current(self, subject: str, after: int, upto: int) -> CurrentPage:
        await self._pause()
        if self.away:
            raise LogUnavailable("away")
        record, state = self.newest(subject), self.store.state
        await self._pause()
        return CurrentPage((record,) if record is not None and after < record.seq <= upto else (), state)

    def watch(self, subject: str, gone: Callable[[], object]) -> Callable[[], object]:
        self.watching.setdefault(subject, {})[gone] = None
        return lambda: self.watching[subject].pop(gone)

    def take_away(self, subject: str) -> None:
        self.taken.add(subject)
        for gone in tuple(self.watching.get(subject, ())):
            gone()

    def draft(self, subject: str, status: str = "running") -> Draft:
        self.rev += 1
        return draft_of(
            task(id=subject.removeprefix("task/"), status=status, rev=self.rev, progress=Progress(done=self.rev))
        )


class Client:
    """A reader of one task, over as many connections as it takes."""

    def __init__(self, world: World, subject: str, channel: Channel, streams: Streams, *, lossless: bool) -> None:
        self.world = world
        self.subject = subject
        self.channel = channel
        self.streams = streams
        self.lossless = lossless
        self.position: Position | None = None
        self.shown: int | None = None  # the newest snapshot's rev
        self.status: str | None = None
        self.seen: list[int] = []
        self.over: str | None = None
        self.faults: list[AssertionError] = []
        self.trace: list[str] = []
        self.delivery: Delivery | None = None
        self.wire: Wire | None = None
        self.ended = asyncio.Event()
        self._decoder = SseDecoder()
        self._frames: list[str] = []
        self._resumed_at: Position | None = None
        self._last_sent: float | None = None  # when a change left on this connection
        self._reset = True

    async def connect(self) -> None:
        """Come as an EventSource does: without a position first, then with the last id."""
        arrived = self.channel.state
        row = self.world.newest(self.subject)
        if row is None:
            self.over = "404"
            return
        requested: Position | Anchor = Anchor.START if self.position is None else self.position
        subscription = Subscription(
            self.channel,
            Filter(tenant="default", subjects=(self.subject,), types=("snapshot",)),
            requested,
            arrived,
            "/events",
            lossless=self.lossless,
            primary="snapshot",
            ended=row.ends,
            current=partial(self.world.current, self.subject),
            jumps=self.position is None or not self.lossless,
            pace=Pace(INTERVAL, None),
            watch=partial(self.world.watch, self.subject),
        )
        try:
            if await subscription.has_nothing_more():
                self.over = "204"
                return
        except (LogUnavailable, HistoryTrimmed):
            return  # 503, 410: later
        self.ended = asyncio.Event()
        self.trace.append(f"-- {requested}")
        self._resumed_at = self.position
        self._decoder, self._frames, self._last_sent = SseDecoder(), [], None
        self.wire = Wire(self._take)
        self.delivery = delivery_of(
            subscription, SseSink("snapshot"), self.wire, self.streams, say=self._say, on_end=self.ended.set
        )
        self.delivery.open()

    async def _say(self, message: Any) -> None:
        REACHED["said goodbye"] += 1

    async def cut(self) -> None:
        if self.delivery is not None and self.wire is not None:
            self.wire.abort()
            await self.delivery.close()
            self.delivery = None

    @property
    def connected(self) -> bool:
        return self.delivery is not None and not self.ended.is_set()

    # ── frames ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _take(self, wire: bytes) -> None:
        _, _, payload = wire.partition(b"\r\n")
        for message in self._decoder.decode(payload[:-2]):
            event = json.loads(message.data)
            try:
                self._judge(event, Position.parse(message.id))
            except AssertionError as fault:  # the delivery would take it for its own
                fault.add_note(f"before it came {self.trace[-12:]}")
                self.faults.append(fault)
            self.trace.append(f"{event['type']} {message.id}")

    def _judge(self, event: dict[str, Any], position: Position) -> None:
        kind, first = event["type"], not self._frames
        assert "stream_end" not in self._frames, "a word after the last"
        assert first == (kind == "hello") or (first and kind == "stream_end")
        if kind == "reset":
            self._reset, self._last_sent = True, None
            REACHED["reset"] += 1
        elif self._frames == ["hello"]:
            assert self._resumed_at in (None, self.position), "hello is not where it resumed, and no reset follows"
        if self.position is not None and kind not in ("hello", "reset") and not self._reset:
            assert position.epoch == self.position.epoch
            assert position.seq >= self.position.seq, f"an id that goes back: {position} after {self.position}"
        if kind == "snapshot":
            self._snapshot(event, position)
        elif kind == "live":
            assert "live" not in self._frames
        elif kind == "stream_end":
            assert event["last_id"] == str(position)
            if event["final"]:
                self.over = event["reason"]
                assert self._may_end(event)
        else:
            assert kind in ("hello", "reset", "bookmark"), kind
        self._frames.append(kind)
        self.position = position

    def _may_end(self, event: dict[str, Any]) -> bool:
        if event["reason"] == "terminal":
            return event["status"] == self.status and self.status in TERMINAL
        everything = [record for records in self.world.store.history.values() for record in records]
        gone = {record.subject for record in everything if record.ends == DELETED} | self.world.taken
        is_gone = self.subject in gone or self.world.newest(self.subject) is None  # lost by a restore
        return event["reason"] == "access_revoked" and event["status"] is None and is_gone

    def _snapshot(self, event: dict[str, Any], position: Position) -> None:
        rev, now = event["rev"], asyncio.get_running_loop().time()
        assert self._reset or self.shown is None or rev > self.shown, f"{rev} after {self.shown}"
        assert self.subject not in self.world.taken, "shown after it was taken away"
        live = "live" in self._frames
        if live and not self.lossless and event["status"] not in TERMINAL:
            if self._last_sent is not None:
                assert now - self._last_sent >= INTERVAL - 2 * TIMER_SLACK_SECONDS, "too soon"
            self._last_sent = now
        if self.lossless and not self._reset and self.seen:
            missed = [r for r in self.world.store.history[position.epoch] if self.seen[-1] < r.seq < position.seq]
            assert self.subject not in {record.subject for record in missed}, "lossless, and one is missing"
        self.seen.append(position.seq)
        self.shown, self.status, self._reset = rev, event["status"], False
        REACHED["live" if live else "history"] += 1


class Schedule:
    """What happens, in an order that the seed decides."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.world = World(self.dice)
        self.subjects = [f"task/t{number}" for number in range(TASKS)]
        self.clients: list[Client] = []
        self.channels: list[Channel] = []
        self.streams = Streams(Settings())

    async def run(self) -> None:
        self.channels = [Channel(MemoryLog(self.world.store), SCHEMA, LIMITS) for _ in range(2)]
        for channel in self.channels:
            await channel.start()
        try:
            for subject in self.subjects:
                await self._publish(self.world.draft(subject, "queued"))
            for number in range(6):
                subject, channel = self.dice.choice(self.subjects), self.dice.choice(self.channels)
                self.clients.append(Client(self.world, subject, channel, self.streams, lossless=number == 5))
            for _ in range(STEPS):
                await self._step()
            await self._settle()
        finally:
            for client in self.clients:
                await client.cut()
            for channel in self.channels:
                await channel.close()
        for client in self.clients:
            for fault in client.faults:
                raise fault
        for subject, watchers in self.world.watching.items():
            assert not watchers, f"{subject} is watched for nobody"
        assert len(self.streams) == 0

    async def _publish(self, draft: Draft) -> None:
        with suppress(LogUnavailable):
            await self.dice.choice(self.channels).publish([draft])

    def _is_open(self, subject: str) -> bool:
        newest = self.world.newest(subject)
        return newest is not None and newest.ends is None

    async def _step(self) -> None:
        steps: list[tuple[int, Callable[[], Any]]] = [
            (30, self._change),
            (12, self._connect),
            (6, self._cut),
            (8, self._stall),
            (8, self._beat),
            (14, self._wait),
            (1, self._trim),
            (1, self._end_task),
            (1, self._away),
            (1, self._new_epoch),
            (1, self._go),
            (1, self._drain_one),
        ]
        weights, actions = zip(*steps, strict=True)
        await self.dice.choices(actions, weights)[0]()

    async def _change(self) -> None:
        subject = self.dice.choice(self.subjects)
        for _ in range(self.dice.choice((1, 1, 2, 5))):
            if self._is_open(subject):
                await self._publish(self.world.draft(subject))

    async def _connect(self) -> None:
        for client in self.clients:
            if not client.connected and client.over is None and self.dice.random() < 0.7:
                if self.dice.random() < 0.2:
                    client.channel = self.dice.choice(self.channels)
                await client.connect()

    async def _cut(self) -> None:
        await self.dice.choice(self.clients).cut()
        REACHED["cut"] += 1

    async def _stall(self) -> None:
        wire = self.dice.choice(self.clients).wire
        if wire is not None:
            wire.stall(stalled=not wire.stalled)

    async def _beat(self) -> None:
        for client in self.clients:
            if client.delivery is not None and client.connected:
                client.delivery.beat(asyncio.get_running_loop().time())

    async def _wait(self) -> None:
        await asyncio.sleep(self.dice.choice((0, 0, 0.001, INTERVAL / 2, INTERVAL, INTERVAL * 2)))

    async def _trim(self) -> None:
        self.world.store.trim(self.world.store.state.head - self.dice.randrange(10))

    async def _end_task(self) -> None:
        subject = self.dice.choice(self.subjects)
        if self._is_open(subject) and self.dice.random() < 0.5:
            await self._publish(self.world.draft(subject, self.dice.choice(sorted(TERMINAL))))

    async def _away(self) -> None:
        self.world.away = True
        for _ in range(self.dice.randrange(30)):
            await asyncio.sleep(0)
        self.world.away = False

    async def _new_epoch(self) -> None:
        if self.dice.random() < 0.3:
            self.world.store.begin_epoch(lost=self.dice.choice((0, 0, 1, 3)))

    async def _go(self) -> None:
        if self.dice.random() > 0.2:
            return
        subject = self.dice.choice(self.subjects)
        if self.dice.random() < 0.5:
            self.world.take_away(subject)
            REACHED["taken away"] += 1
        elif self.world.newest(subject) is not None:
            deleted = Draft(type="deleted", tenant="default", subject=subject, ends=DELETED, data=b'{"type":"deleted"}')
            await self._publish(deleted)
            REACHED["deleted"] += 1

    async def _drain_one(self) -> None:
        delivery = self.dice.choice(self.clients).delivery
        if delivery is not None:
            delivery.finish(EndReason.SERVER_SHUTDOWN)

    async def _settle(self) -> None:
        """Everybody comes back and reads on; then all show what is."""
        for client in self.clients:
            if client.wire is not None:
                client.wire.stall(stalled=False)
        async with asyncio.timeout(SECONDS):
            for client in self.clients:
                while not self._is_right(client):
                    self.world.store.notify()  # as a slow poll would
                    if client.faults:
                        break
                    if client.over is None and not client.connected:
                        await client.connect()
                    await asyncio.sleep(INTERVAL / 4)

    def _is_right(self, client: Client) -> bool:
        if client.over is not None:  # for good, though a restore may have brought its task back
            return client.over != "204" or client.status in TERMINAL
        newest = self.world.newest(client.subject)
        return newest is not None and newest.ends is None and client.shown == json.loads(newest.data)["rev"]


@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_reader_finally_shows_is_what_is(seed: int) -> None:
    with asyncio.Runner(loop_factory=TimelessLoop) as runner:
        runner.run(Schedule(seed).run())


def test_the_schedules_reach_what_they_are_for() -> None:
    for what in ("cut", "reset", "live", "history", "taken away", "deleted", "said goodbye"):
        assert REACHED[what] > 10, REACHED


def test_pages_of_two_epochs_are_not_taken_for_one_state() -> None:
    async def read() -> list[str]:
        store, seen = Store(), []
        channel = Channel(MemoryLog(store), SCHEMA)
        await channel.start()
        await channel.publish([draft_of(task(id=f"t{number}")) for number in range(3)])

        async def current(after: int, upto: int) -> CurrentPage:
            """One task a page; a restore comes after the first."""
            if after and store.state.epoch == "epoch0":
                store.begin_epoch()
            left = [record for record in store.history[store.state.epoch] if after < record.seq <= upto]
            return CurrentPage(tuple(left[:1]), store.state)

        board = Filter(tenant="default", endless=True)
        subscription = Subscription(channel, board, Anchor.START, channel.state, "/e", current=current, jumps=True)
        decoder, said = SseDecoder(), asyncio.Event()

        def take(wire: bytes) -> None:
            for message in decoder.decode(wire.partition(b"\r\n")[2][:-2]):
                seen.append(f"{message.event} {message.id}")
                if len(seen) == 7:
                    said.set()

        delivery = Delivery(subscription, SseSink("snapshot"), Wire(take), Streams(Settings()), say=_nothing)
        delivery.open()
        await said.wait()
        await delivery.close()
        await channel.close()
        return seen

    with asyncio.Runner(loop_factory=TimelessLoop) as runner:
        seen = runner.run(read())
    told = ["reset epoch1-0", "message epoch1-1", "message epoch1-2", "message epoch1-3"]
    assert [word for word in seen if not word.startswith("live")] == ["hello epoch0-0", "message epoch0-1", *told]


async def _nothing(message: Any) -> None:
    return None
