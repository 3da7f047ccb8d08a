"""A log in memory with the same promises as the one in PostgreSQL, for seeded schedules of the channel.

A `Store` is the database; each `MemoryLog` over it is one process's. Where the real thing would wait, it awaits
`store.pause`, before and after the fact, so that answers arrive late and out of order. `store.away` says when the
database does not answer.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shared.channel.appender import check_size
from shared.channel.log import Command, Committed, HistoryTrimmed, LogUnavailable, Outcome, Page
from shared.protocol.filter import Filter
from shared.protocol.position import LogState, Position
from shared.protocol.record import Draft, Record

SCAN_ROWS = 2_000


async def _no_pause() -> None:
    return None


@dataclass(slots=True)
class _Stored:
    record: Record
    age: float = 0.0


class Store:
    """What the database holds. `history` has every event of every epoch, trimmed or not: what a test compares with."""

    def __init__(
        self,
        *,
        pause: Callable[[], Awaitable[None]] = _no_pause,
        away: Callable[[], bool] = lambda: False,
        scan_rows: int = SCAN_ROWS,
    ) -> None:
        self.pause = pause
        self.away = away
        self.scan_rows = scan_rows
        self.state = LogState("epoch0", head=0, oldest=1)
        self.history: dict[str, list[Record]] = {"epoch0": []}
        self.lock = asyncio.Lock()
        self._kept: list[_Stored] = []
        self._listeners: set[asyncio.Event] = set()

    def notify(self) -> None:
        """News for every process; also what a slow poll would find."""
        for listener in self._listeners:
            listener.set()

    def listen(self) -> asyncio.Event:
        listener = asyncio.Event()
        self._listeners.add(listener)
        return listener

    def unlisten(self, listener: asyncio.Event) -> None:
        self._listeners.discard(listener)

    def commit(self, records: Sequence[Record]) -> None:
        """Add events at the head, all at once."""
        if records:
            assert [r.seq for r in records] == [self.state.head + n for n in range(1, len(records) + 1)]
            self._kept.extend(_Stored(record) for record in records)
            self.history[self.state.epoch].extend(records)
            self.state = LogState(self.state.epoch, records[-1].seq, self.state.oldest)
            self.notify()

    def trim(self, oldest: int) -> None:
        """Forget what lies before `oldest`."""
        oldest = max(self.state.oldest, min(oldest, self.state.head + 1))
        self._kept = [each for each in self._kept if each.record.seq >= oldest]
        self.state = LogState(self.state.epoch, self.state.head, oldest)

    def begin_epoch(self, *, lost: int = 0) -> None:
        """A new epoch; the newest `lost` events are gone, as after a restore."""
        epoch, head = f"epoch{len(self.history)}", max(self.state.start, self.state.head - lost)
        self.history[epoch] = [r for r in self.history[self.state.epoch] if r.seq <= head]
        self._kept = [each for each in self._kept if each.record.seq <= head]
        self.state = LogState(epoch, head, self.state.oldest)
        self.notify()

    def grow_old(self, upto: int, seconds: float) -> None:
        for each in self._kept:
            if each.record.seq <= upto:
                each.age += seconds

    def newest_older_than(self, seconds: float) -> int:
        return max((each.record.seq for each in self._kept if each.age > seconds), default=0)

    def page(self, filter: Filter, after: int, limit: int, max_bytes: int) -> Page:
        state = self.state
        if after < state.start:
            raise HistoryTrimmed(f"events up to {state.start} are no longer kept")
        found: list[Record] = []
        size, scanned_to = 0, after
        for scanned, record in enumerate(each.record for each in self._kept if each.record.seq > after):
            if scanned == max(self.scan_rows, limit):
                return Page(tuple(found), scanned_to, state)
            if filter.wants(record):
                if found and (len(found) == limit or size >= max_bytes):
                    return Page(tuple(found), scanned_to, state)
                found.append(record)
                size += len(record.data)
            scanned_to = record.seq
        return Page(tuple(found), max(state.head, after), state)


class MemoryLog:
    """One process's log."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def start(self) -> LogState:
        return await self.state()

    async def close(self) -> None:
        return None

    # ── append ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def append(self, commands: Sequence[Command[Any]]) -> list[Committed[Any] | Exception]:
        await self._reach()
        try:
            async with self.store.lock:
                results, records = await self._apply(commands)
                self.store.commit(records)
        except BadRowError as error:
            if len(commands) == 1:
                return [error]
            # as in PostgreSQL, each is a transaction of its own then, and others' events may come between them
            return [result for command in commands for result in await self.append([command])]
        await self._reach()  # when this fails, the fate of the group is unknown to its publishers
        return results

    async def _apply(self, commands: Sequence[Command[Any]]) -> tuple[list[Committed[Any] | Exception], list[Record]]:
        epoch, seq = self.store.state.epoch, self.store.state.head
        results: list[Committed[Any] | Exception] = []
        records: list[Record] = []
        for command in commands:
            try:
                value, drafts = await _run(command, epoch, seq + 1)
            except Exception as error:  # noqa: BLE001  a refusal is the command's result
                results.append(error)
                continue
            own = tuple(Record.of(seq + place, draft) for place, draft in enumerate(drafts, start=1))
            seq += len(own)
            records.extend(own)
            results.append(Committed(value, Position(epoch, seq), own))
        for record in records:
            _check_row(record)
        return results, records

    # ── read ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def read(self, filter: Filter, after: int, *, limit: int, max_bytes: int) -> Page:
        await self._reach()
        page = self.store.page(filter, after, limit, max_bytes)
        await self._reach()  # the answer is old by the time it arrives
        return page

    async def state(self) -> LogState:
        await self._reach()
        state = self.store.state
        await self._reach()
        return state

    async def heads(self) -> AsyncIterator[LogState]:
        listener = self.store.listen()
        try:
            while True:
                listener.clear()
                state = self.store.state
                await self.store.pause()
                yield state
                await listener.wait()
        finally:
            self.store.unlisten(listener)

    # ── what PostgresEventLog has besides ──────────────────────────────────────────────────────────────────────

    async def trim(self, *, max_age_seconds: float | None, max_events: int | None) -> LogState:
        oldest = 1
        if max_events is not None:
            oldest = self.store.state.head - max_events + 1
        if max_age_seconds is not None:
            oldest = max(oldest, self.store.newest_older_than(max_age_seconds) + 1)
        self.store.trim(oldest)
        return self.store.state

    async def new_epoch(self) -> LogState:
        self.store.begin_epoch()
        return self.store.state

    async def _reach(self) -> None:
        await self.store.pause()
        if self.store.away():
            raise LogUnavailable("the store is away")


class BadRowError(ValueError):
    """A text that PostgreSQL would refuse."""


class MemoryTransaction:
    """There are no rows here: a change may refuse, or return drafts."""

    def __init__(self, epoch: str, next_seq: int) -> None:
        self.epoch = epoch
        self.next_seq = next_seq

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        raise NotImplementedError

    async def fetchrow(self, sql: str, *args: Any) -> Any:
        raise NotImplementedError

    async def execute(self, sql: str, *args: Any) -> object:
        raise NotImplementedError


async def _run(command: Command[Any], epoch: str, next_seq: int) -> tuple[Any, tuple[Draft, ...]]:
    drafts = tuple(command.drafts)
    if command.change is None:
        return None, drafts
    outcome: Outcome[Any] = await command.change(MemoryTransaction(epoch, next_seq + len(drafts)))
    whole = replace(command, drafts=(*drafts, *outcome.drafts), change=None)
    check_size(whole)
    return outcome.value, tuple(whole.drafts)


def _check_row(draft: Draft) -> None:
    for text in (draft.type, draft.tenant, draft.subject, draft.session, draft.worker, draft.ends):
        if text is None:
            continue
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadRowError(f"{text!r} is no text") from error
        if "\0" in text:
            raise BadRowError(f"{text!r} has a NUL")
