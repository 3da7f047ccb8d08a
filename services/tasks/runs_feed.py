"""Consuming the runs service: its feed over HTTP, each batch with its effects and the position in one transaction."""

import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from msgspec import structs

from services.tasks.effects import Effects
from services.tasks.feeds import Feeds, Overtaken
from services.tasks.owned_runs import OwnedRuns
from services.tasks.rules import OwnedRun
from services.tasks.store import TaskStore
from shared.channel.channel import Channel
from shared.channel.log import MAX_EVENT_BYTES, EventTooLarge, LogUnavailable, Outcome, Transaction
from shared.client import Batch, Client, ClientError, Follow, Received, consume
from shared.edge import metrics
from shared.protocol.position import Position
from shared.protocol.schema import Event, Schema

log = logging.getLogger("tailrace.tasks")

FEED = "runs"
RUNS = "/api/v1/runs"
PAGE = 500
GOING_ON = ("queued", "running", "waiting_input")


class Status(Event, frozen=True, kw_only=True, tag="status"):
    """What this service reads of the runs service's `status` events."""

    run_id: str
    status: str
    task_id: str | None = None
    error: str | None = None


class Deleted(Event, frozen=True, kw_only=True, tag="deleted"):
    """The run is gone, and with it all that was told of it: also its end, if that was not read in time."""

    run_id: str


SCHEMA = Schema([Status, Deleted])
TYPES = ("status", "deleted")


class RunsFeed:
    """One process's consumer of the runs feed. Of all processes' only one should be at work; should two be, one of them
    is refused whatever it tries.
    """

    def __init__(self, channel: Channel, store: TaskStore, owned: OwnedRuns, feeds: Feeds, client: Client) -> None:
        self._channel = channel
        self._store = store
        self._owned = owned
        self._feeds = feeds
        self._client = client
        self._effects = Effects(store, owned, feeds, FEED)
        self._believed: str | None = None

    async def consume(self) -> None:
        """Follow the feed until cancelled."""
        await consume(self._follow, self, self._handle, on_trouble=_tell)

    async def load(self) -> str | None:
        """Where to go on; `consume` asks."""
        self._believed = await self._feeds.position(self._store.pool, FEED)
        return self._believed

    def _follow(self, after: str | None) -> Follow:
        return self._client.follow(f"{RUNS}/stream", schema=SCHEMA, after=after, types=TYPES, lossless=True)

    async def _handle(self, batch: Batch) -> None:
        if batch.reset is not None:
            await self._start_over()
        else:
            await self._go_on(batch.events, batch.position)

    async def _go_on(self, events: Sequence[Received], position: str) -> None:
        """The effects of these events, in one transaction unless their snapshots are too much for one."""
        try:
            await self._apply([[run] for run in await self._owned_runs(events)], position)
        except EventTooLarge:
            if len(events) < 2:
                raise
            half = len(events) // 2
            await self._go_on(events[:half], events[half - 1].position)
            await self._go_on(events[half:], position)

    async def _owned_runs(self, events: Iterable[Received]) -> list[OwnedRun]:
        """News of runs that name a task; of one that is gone, as far as it goes on here."""
        newest: dict[str, OwnedRun] = {}
        found = []
        for received in events:
            event, position = received.event, Position.parse(received.position)
            run = None
            if isinstance(event, Status) and event.task_id is not None:
                run = _run(event.run_id, structs.asdict(event), position)
            elif isinstance(event, Deleted):
                run = newest.get(event.run_id) or await self._owned.get(self._store.pool, event.run_id)
                run = None if run is None or run.is_over else run.gone(position)
            if run is not None:
                newest[run.run_id] = run
                found.append(run)
        return found

    async def _apply(
        self, groups: Sequence[Sequence[OwnedRun]], position: str | None, *, head: Position | None = None
    ) -> None:
        """The effects and the new position: all of it or nothing. `position` None: it stays. `head`: the log's, which
        may have been ahead of it.
        """
        believed = self._believed

        async def change(tx: Transaction) -> Outcome[list[str]]:
            await self._feeds.check(tx, FEED, believed)
            if head is not None:
                await self._owned.unhear(tx, head)
            outcome = await self._effects.apply(tx, groups)
            if position is not None:
                await self._feeds.move(tx, FEED, position)
            return outcome

        done = await self._channel.execute(change, size=min(1_000 * sum(map(len, groups)), MAX_EVENT_BYTES))
        if position is not None:
            self._believed = position
        for reason in done.value:
            metrics.REFUSED_MOVES.labels(FEED, reason).inc()

    # ── starting over ──────────────────────────────────────────────────────────────────────────────────────────

    async def _start_over(self) -> None:
        """Read the runs of all open tasks as they are now, then go on from the moment before that began."""
        as_of = Position.parse((await self._client.request("GET", RUNS, params={"limit": 1}))["as_of"])
        log.info("the runs feed starts over from the runs' present state", extra={"as_of": str(as_of)})
        await self._apply((), None, head=as_of)
        after = ""
        while task_ids := await self._store.open_tasks(self._store.pool, after, PAGE):
            for after in task_ids:
                await self._catch_up(after, as_of)
        await self._stop_unheard()
        await self._apply((), str(as_of))

    async def _catch_up(self, task_id: str, as_of: Position) -> None:
        known = await self._owned.of_task(self._store.pool, task_id)  # first: what is there now and not then, is gone
        listed = [run async for page in self._pages(task_id=task_id) for run in page]
        there = {run.run_id for run in listed}
        gone = [run.gone(as_of) for run in known if run.run_id not in there and not run.is_over]
        if listed or gone:
            await self._apply([[*reversed(listed), *gone]], None)

    async def _stop_unheard(self) -> None:
        """Runs that go on for tasks that were cancelled are to stop, also those of which no news came."""
        for status in GOING_ON:
            async for page in self._pages(status=status):
                stopping = await self._store.stopping(self._store.pool, {run.task_id for run in page})
                await self._apply([[run] for run in page if run.task_id in stopping], None)

    async def _pages(self, **filters: str) -> AsyncIterator[list[OwnedRun]]:
        """Runs that name a task, as they are now, newest first."""
        cursor: dict[str, str] = {}
        while True:
            page = await self._client.request("GET", RUNS, params={**filters, "limit": PAGE, **cursor})
            yield [
                _run(run["id"], run, Position.parse(run["last_position"]))
                for run in page["data"]
                if run["task_id"] is not None
            ]
            if page["next_cursor"] is None:
                return
            cursor = {"cursor": page["next_cursor"]}


def _tell(error: Exception) -> None:
    if isinstance(error, LogUnavailable | Overtaken | ClientError):
        log.warning("the runs feed is followed again from its stored position", extra={"error": str(error)})
    else:
        log.error("news of runs could not be dealt with, and will come again", exc_info=error)


def _run(run_id: str, told: dict[str, Any], position: Position) -> OwnedRun:
    return OwnedRun(
        run_id=run_id,
        tenant=told["tenant"],
        task_id=told["task_id"],
        status=told["status"],
        error=told["error"],
        epoch=position.epoch,
        seq=position.seq,
    )
