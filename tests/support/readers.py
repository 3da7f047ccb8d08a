"""Readers that are cut off and come back, writers that do not give up, and the log to hold them against.

A `Reader` checks as it goes what can be checked of one frame; `check` compares all it has seen with the log. Each
follows one stream over as many connections as it takes, resuming from the last id it saw. A `Writer` is a worker of a
run of its own that repeats a batch until it is acknowledged.
"""

import asyncio
import os
import random
import re
import socket
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

import asyncpg
import httpx
import msgspec
from msgspec import Struct
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from shared.protocol.sse import SseDecoder
from tests.support.contract import RUNS, Frame, sql

Transport = Literal["sse", "websocket", "tailrace.v1", "tailrace.v1.msgpack"]
TRANSPORTS: tuple[Transport, ...] = ("sse", "websocket", "tailrace.v1", "tailrace.v1.msgpack")

AWAY = (502, 503, 504)  # by the service itself, and by a proxy whose service is away
LATER = (429, *AWAY)  # come back after Retry-After
SECONDS = 180.0  # nothing here takes that long, however busy the machine
BACK_OFF_SECONDS = 0.2
LINGER_NONE = struct.pack("ii", 1, 0)  # SO_LINGER: closing resets the connection


def seeded(name: str) -> random.Random:
    """A test's own chance. The seed is printed; TAILRACE_TEST_SEED gives it again."""
    seed = os.environ.get("TAILRACE_TEST_SEED") or str(random.randrange(2**32))
    print(f"TAILRACE_TEST_SEED={seed}")
    return random.Random(f"{name} {seed}")


async def eventually(condition: Callable[[], bool | Awaitable[bool]], what: str, seconds: float = SECONDS) -> None:
    """Ask until it is so. For what happens in other processes, which send us no event."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer if isinstance(answer, bool) else await answer:
            return
        assert time.monotonic() < deadline, f"never: {what}"
        await asyncio.sleep(0.005)


@asynccontextmanager
async def patient_client() -> AsyncIterator[httpx.AsyncClient]:
    """One client for any number of connections at once, to several servers."""
    async with httpx.AsyncClient(
        timeout=httpx.Timeout(SECONDS), limits=httpx.Limits(max_connections=None, max_keepalive_connections=40)
    ) as client:
        yield client


# ── the log ────────────────────────────────────────────────────────────────────────────────────────────────────


class Stored(Struct, frozen=True):
    """An event as the database has it."""

    seq: int
    run_id: str
    type: str
    event: dict[str, Any]


async def log_of(database_url: str) -> list[Stored]:
    """The whole log. It must have no hole."""
    async with sql(database_url) as database, database.transaction(isolation="repeatable_read"):
        rows = await database.fetch("SELECT seq, subject, type, data FROM runs.events ORDER BY seq")
        head = await database.fetchval("SELECT head FROM runs.log")
    assert [row["seq"] for row in rows] == list(range(1, head + 1))
    return [
        Stored(row["seq"], row["subject"].removeprefix("run/"), row["type"], msgspec.json.decode(row["data"]))
        for row in rows
    ]


# ── readers ────────────────────────────────────────────────────────────────────────────────────────────────────


class Stream(Struct, frozen=True):
    """What is read: some runs or, without any, all; `types` and `lossless` as in the URL. `alone`: by the stream of
    one run.
    """

    runs: tuple[str, ...] = ()
    types: str | None = None
    alone: bool = False
    lossless: bool = False

    @property
    def path(self) -> str:
        return f"{RUNS}/{self.runs[0]}/stream" if self.alone else f"{RUNS}/stream"

    @property
    def parameters(self) -> list[tuple[str, str]]:
        named = [] if self.alone else [("run", run_id) for run_id in self.runs]
        if self.lossless:
            named.append(("lossless", "1"))
        return named if self.types is None else [*named, ("types", self.types)]

    def shows(self, stored: Stored) -> bool:
        of_runs = not self.runs or stored.run_id in self.runs
        return of_runs and (self.types is None or any(_matches(stored.type, one) for one in self.types.split(",")))


def _matches(name: str, glob: str) -> bool:
    return re.fullmatch(glob.replace("*", ".*"), name) is not None


class Reader:
    """One client. `cut_every`: about how many frames a connection lives before it is cut off; None: for ever.

    `faults` has what the network and the service did to it beyond its own cuts.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        bases: Sequence[str],
        stream: Stream,
        transport: Transport,
        chance: random.Random,
        *,
        cut_every: int | None = None,
        start: str = "start",
    ) -> None:
        self.stream = stream
        self.transport = transport
        self.seen: list[tuple[int, dict[str, Any]]] = []
        self.last_id: str | None = None
        self.last_seq = 0
        self.began = 0
        self.ended = False
        self.live = False
        self.connections = 0
        self.cuts: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self._client = client
        self._bases = bases
        self._chance = random.Random(chance.random())
        self._cut_every = cut_every
        self._start = start
        self._budget: float = 0  # what this connection may still bring: bytes over SSE, else frames
        self._frames = 0  # of this connection
        self._done: Callable[[Reader], bool] = lambda _: False

    def __repr__(self) -> str:
        return f"<Reader {self.transport} {self.stream} cuts={self.cuts} faults={self.faults}>"

    # ── over any number of connections ─────────────────────────────────────────────────────────────────────────

    async def follow(self, done: Callable[["Reader"], bool]) -> None:
        """Read until the stream has ended for good, or `done`."""
        self._done = done
        while not self._over:
            reading = asyncio.create_task(self._connect())
            try:
                await asyncio.wait([reading])
            finally:
                reading.cancel()
                await asyncio.wait([reading])
            if not reading.cancelled():
                self._judge(reading.exception())
                if self._budget > 0:  # it was not our cut: come back as a client would
                    await asyncio.sleep(self._chance.uniform(0, BACK_OFF_SECONDS))

    def _judge(self, error: BaseException | None) -> None:
        if isinstance(error, InvalidStatus):
            assert error.response.status_code in LATER, (self, error)
            assert "retry-after" in error.response.headers
            self.faults[str(error.response.status_code)] += 1
        elif isinstance(error, OSError | EOFError | WebSocketException | httpx.TransportError):
            self.faults[type(error).__name__] += 1
        elif error is not None:
            raise error

    @property
    def _over(self) -> bool:
        return self.ended or (self.live and self._done(self))

    async def _connect(self) -> None:
        self._frames, self.live = 0, False
        mean = self._cut_every or 0
        unit = 220 if self.transport == "sse" else 1  # bytes of a frame, about: cuts fall anywhere, also into one
        self._budget = self._chance.randrange(1, 2 * mean * unit) if mean else float("inf")
        base = self._chance.choice(self._bases)
        parameters, headers = self.stream.parameters, {}
        if self.last_id is None:
            parameters = [*parameters, ("after", self._start)]
        elif self._chance.random() < 0.5:
            parameters = [*parameters, ("after", self.last_id)]
        else:
            headers["Last-Event-ID"] = self.last_id
        url = httpx.URL(f"{base}{self.stream.path}", params=parameters)
        if self.transport == "sse":
            await self._read_sse(url, headers)
        else:
            await self._read_socket(str(url).replace("http", "ws", 1), headers)

    # ── one connection ─────────────────────────────────────────────────────────────────────────────────────────

    async def _read_sse(self, url: httpx.URL, headers: dict[str, str]) -> None:
        async with self._client.stream("GET", url, headers=headers) as response:
            if response.status_code == 204:
                assert self.last_id is not None
                assert self.stream.alone
                self.ended = True
                return
            if response.status_code in LATER:
                assert "retry-after" in response.headers
                self.faults[str(response.status_code)] += 1
                return
            assert response.status_code == 200, (await response.aread(), self)
            self.connections += 1
            decoder = SseDecoder()
            async for chunk in response.aiter_raw():
                for message in decoder.decode(chunk[: max(0, int(min(self._budget, len(chunk))))]):
                    self._take(Frame.of_sse(message))
                self._budget -= len(chunk)
                if self._over:
                    return
                if self._budget <= 0 and self._cut(response) != "cancel":
                    return

    async def _read_socket(self, url: str, headers: dict[str, str]) -> None:
        offered = None if self.transport == "websocket" else [Subprotocol(self.transport)]
        async with connect(
            url, subprotocols=offered, additional_headers=headers, compression=None, max_size=None, close_timeout=5
        ) as connection:
            self.connections += 1
            async for message in connection:
                assert isinstance(message, bytes) == (self.transport == "tailrace.v1.msgpack")
                frames = msgspec.json.decode(message) if isinstance(message, str) else msgspec.msgpack.decode(message)
                for frame in frames:
                    if self._budget > 0:  # who dies in the middle of a message has taken only its beginning
                        self._take(Frame.of_json(frame))
                        self._budget -= 1
                if self._over:
                    return
                if self._budget <= 0 and self._cut(connection) != "cancel":
                    return

    def _cut(self, connection: httpx.Response | ClientConnection) -> str:
        """Cut the connection, or have it cut: in the first case its owner leaves it now."""
        task = asyncio.current_task()
        assert task is not None
        if task.cancelling():
            return "cancel"
        way = self._chance.choice(("abort", "leave", "cancel"))
        self.cuts[way] += 1
        if way == "cancel":
            task.cancel()  # it hears of it where it waits next
        elif way == "abort" and isinstance(connection, ClientConnection):
            connection.transport.abort()
        elif way == "abort" and isinstance(connection, httpx.Response):
            wire = connection.extensions["network_stream"].get_extra_info("socket")
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
        return way

    def _take(self, frame: Frame) -> None:
        """Check a frame against those before it, and keep it if it is an event."""
        if self._frames == 0:
            assert frame.type == "hello", (self, frame)
            if self.last_id is None:
                self.began = self.last_seq = frame.event["after"]
            assert frame.event["after"] == self.last_seq, (self, frame)
            assert frame.event["resumed"] == (self.last_id is not None)
        self._frames += 1
        if frame.is_stored:
            assert frame.seq > self.last_seq, f"{self}: repeated or out of order: {frame}"
            self.seen.append((frame.seq, frame.event))
        elif frame.type == "live":
            assert not self.live, f"{self}: live twice"
            self.live = True
        elif frame.type == "stream_end":
            self.ended = frame.event["final"]
        else:
            assert frame.type in ("hello", "bookmark"), f"{self}: not what a reader without a loss gets: {frame}"
        assert frame.seq >= self.last_seq, f"{self}: an id that goes back: {frame}"
        self.last_seq, self.last_id = frame.seq, frame.id

    # ── afterwards ─────────────────────────────────────────────────────────────────────────────────────────────

    def check(self, log: Iterable[Stored]) -> None:
        """Raise AssertionError unless it has seen what its stream shows of the log, exactly once and in order."""
        shown = [(each.seq, each.event) for each in log if each.seq > self.began and self.stream.shows(each)]
        missed = sorted({seq for seq, _ in shown} - {seq for seq, _ in self.seen})
        assert not missed, f"{self}: missed {missed[:10]} of {len(shown)}"
        assert self.seen == shown, self


def seen_up_to(head: Callable[[], int | None]) -> Callable[[Reader], bool]:
    """For `follow`: once `head` is known, until it has been reached."""

    def done(reader: Reader) -> bool:
        seq = head()
        return seq is not None and reader.last_seq >= seq

    return done


# ── writers ────────────────────────────────────────────────────────────────────────────────────────────────────


class Writer:
    """A worker of one run, which appends events numbered from 1 until it is told to stop, and then finishes the run.

    It also repeats what was acknowledged, wholly and in part, as a worker does whose answer was lost.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        bases: Sequence[str],
        name: str,
        chance: random.Random,
        *,
        pause_seconds: float = 0.0,
    ) -> None:
        self.name = name
        self.run_id = ""
        self.acknowledged = 0
        self.answers: Counter[str] = Counter()
        self._client = client
        self._bases = bases
        self._chance = random.Random(chance.random())
        self._pause = pause_seconds
        self._token = ""

    async def begin(self) -> None:
        """Make its run and lease it."""
        body = {"task": self.name, "mode": "queued", "runner": self.name}
        base = self._bases[0]
        (await self._client.post(f"{base}{RUNS}", json=body)).raise_for_status()
        lease = await self._client.post(f"{base}{RUNS}/lease", json={"runners": [self.name], "worker": self.name})
        given = lease.raise_for_status().json()
        self.run_id, self._token = given["run"]["id"], given["lease"]["token"]

    async def write(self, enough: Callable[["Writer"], bool]) -> None:
        """Append until `enough`, then finish."""
        while not enough(self):
            await self.append(self._chance.randint(1, 8))
            if self._pause:
                await asyncio.sleep(self._chance.choice((0, 0, self._chance.uniform(0, self._pause))))
        await self._post("finish", {"status": "completed"})

    async def append(self, count: int) -> None:
        """Append the next events; now and then with some before them that are stored already."""
        again = self._chance.choice((0, 0, 0, self._chance.randint(0, min(5, self.acknowledged))))
        first, next_seq = self.acknowledged + 1 - again, self.acknowledged + 1 + count
        events = [self._event(number) for number in range(first, next_seq)]
        answer = await self._post("events", {"producer": self.name, "producer_seq": first, "events": events})
        assert answer["next_producer_seq"] == next_seq
        assert answer["stored"] in (count, 0)  # nothing new when it is the repeat that was acknowledged
        self.acknowledged += count

    def _event(self, number: int) -> dict[str, Any]:
        if number % 7 == 0:
            return {"type": "error", "fatal": False, "code": str(number), "message": "an attempt failed"}
        # As long as its number says: a repeat must be the same event.
        return {"type": "node_update", "node": self.name, "iteration": number, "snippet": "ä" * (number * 37 % 150)}

    async def _post(self, what: str, body: dict[str, Any]) -> Any:
        """Post it until it is acknowledged."""
        deadline = time.monotonic() + SECONDS
        while True:
            assert time.monotonic() < deadline, f"{self.name} was never acknowledged: {self.answers}"
            try:
                url = f"{self._chance.choice(self._bases)}{RUNS}/{self.run_id}/{what}"
                answer = await self._client.post(url, json=body, headers={"tailrace-lease": self._token})
            except httpx.TransportError as error:
                self.answers[type(error).__name__] += 1
            else:
                self.answers[str(answer.status_code)] += 1
                if answer.status_code == 200:
                    return answer.json()
                assert answer.status_code in AWAY, answer.text
                assert int(answer.headers["retry-after"]) > 0
            await asyncio.sleep(self._chance.uniform(0, BACK_OFF_SECONDS))

    def check(self, log: Iterable[Stored]) -> None:
        """Raise AssertionError unless its run's events are in the log exactly once, and nothing else is."""
        own = [each.event for each in log if each.run_id == self.run_id]
        statuses = [event["status"] for event in own if event["type"] == "status"]
        assert statuses == ["queued", "running", "completed"]
        assert [event.get("status") for event in (own[0], own[1], own[-1])] == statuses
        numbers = [int(event.get("iteration") or event["code"]) for event in own[2:-1]]
        assert numbers == list(range(1, self.acknowledged + 1)), self.name
        for event, number in zip(own[2:-1], numbers, strict=True):
            assert self._event(number).items() <= event.items()


# ── all of them together ───────────────────────────────────────────────────────────────────────────────────────


class Load:
    """Writers and readers at work. Leave the block to have the writers finish and the readers read to the end."""

    def __init__(self, writers: Sequence[Writer], readers: Sequence[Reader]) -> None:
        self.writers = writers
        self.readers = readers
        self._stopping = False
        self._head: int | None = None

    @property
    def acknowledged(self) -> int:
        return sum(writer.acknowledged for writer in self.writers)

    @property
    def cuts(self) -> int:
        return sum(sum(reader.cuts.values()) for reader in self.readers)

    @property
    def answers(self) -> Counter[str]:
        """What the writers were answered."""
        return sum((writer.answers for writer in self.writers), Counter())

    async def progress(self, events: int = 40) -> None:
        """Until so many more events are acknowledged, and every reader has got something of the last of them."""
        goal = self.acknowledged + events
        await eventually(lambda: self.acknowledged >= goal, f"{events} more events")
        places = {reader: reader.last_seq for reader in self.readers}
        await eventually(
            lambda: all(reader.ended or reader.last_seq > place for reader, place in places.items()),
            "every reader goes on",
        )

    @asynccontextmanager
    async def running(self, database_url: str, *, events: int = 0) -> AsyncIterator["Load"]:
        """Each writer writes at least `events`, and on until the block is left; then all is compared with the log."""
        async with self.beside(lambda: log_of(database_url), events=events):
            yield self

    @asynccontextmanager
    async def beside(
        self, read_log: Callable[[], Awaitable[list[Stored]]], *, events: int = 0, seconds: float = SECONDS
    ) -> AsyncIterator["Load"]:
        """The same, with a log that is read in a way of its own."""
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as tasks:
            readers = [tasks.create_task(r.follow(seen_up_to(lambda: self._head))) for r in self.readers]
            writing = [
                tasks.create_task(w.write(lambda w: self._stopping and w.acknowledged >= events)) for w in self.writers
            ]
            yield self
            self._stopping = True
            await asyncio.wait(writing)
            log = await patiently(read_log)
            self._head = log[-1].seq
            await asyncio.wait(readers)
        for writer in self.writers:
            writer.check(log)
        for reader in self.readers:
            reader.check(log)
        print(f"{self.cuts} cuts, {len(log)} events, {len(self.readers)} readers, answers {dict(self.answers)}")


async def patiently(ask: Callable[[], Awaitable[list[Stored]]]) -> list[Stored]:
    """Ask the database until it answers."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return await ask()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
