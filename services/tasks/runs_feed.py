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
from shared.channel.log import LogUnavailable, Outcome, Transaction
from shared.client import Batch, Client, ClientError, Follow, Received, consume
from shared.edge import metrics
from shared.protocol.position import Position
from shared.protocol.schema import Event, Schema

log = logging.getLogger("tailrace.tasks")

FEED = "runs"
RUNS = "/api/v1/runs"
PAGE = 500


class Status(Event, frozen=True, kw_only=True, tag="status"):
    """What this service reads of the runs service's `status` events."""

    run_id: str
    status: str
    task_id: str | None = None
    error: str | None = None


SCHEMA = Schema([Status])


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
        return self._client.follow(f"{RUNS}/stream", schema=SCHEMA, after=after, types=("status",), lossless=True)

    async def _handle(self, batch: Batch) -> None:
        if batch.reset is not None:
            await self._start_over()
        else:
            await self._apply([[run] for run in _owned(batch.events)], batch.position)

    async def _apply(self, groups: Sequence[Sequence[OwnedRun]], position: str | None) -> None:
        """The effects and the new position: all of it or nothing. `position` None: it stays."""
        believed = self._believed

        async def change(tx: Transaction) -> Outcome[list[str]]:
            await self._feeds.check(tx, FEED, believed)
            outcome = await self._effects.apply(tx, groups)
            if position is not None:
                await self._feeds.move(tx, FEED, position)
            return outcome

        done = await self._channel.execute(change, size=1_000 * sum(map(len, groups)))
        if position is not None:
            self._believed = position
        for reason in done.value:
            metrics.REFUSED_MOVES.labels(FEED, reason).inc()

    # ── starting over ──────────────────────────────────────────────────────────────────────────────────────────

    async def _start_over(self) -> None:
        """Read the runs of all open tasks as they are now, then go on from the moment before that began."""
        as_of = (await self._client.request("GET", RUNS, params={"limit": 1}))["as_of"]
        log.info("the runs feed starts over from the runs' present state", extra={"as_of": as_of})
        after = ""
        while task_ids := await self._store.open_tasks(self._store.pool, after, PAGE):
            for after in task_ids:
                await self._catch_up(after, Position.parse(as_of))
        await self._apply((), as_of)

    async def _catch_up(self, task_id: str, as_of: Position) -> None:
        listed = [run async for run in self._listed(task_id)]
        there = {run.run_id for run in listed}
        gone = [
            structs.replace(
                run, status="failed", error=f"run {run.run_id} is not known any more", epoch=as_of.epoch, seq=as_of.seq
            )
            for run in await self._owned.of_task(self._store.pool, task_id)
            if run.run_id not in there and not run.is_over
        ]
        if listed or gone:
            await self._apply([[*reversed(listed), *gone]], None)

    async def _listed(self, task_id: str) -> AsyncIterator[OwnedRun]:
        """The task's runs, newest first."""
        cursor: dict[str, str] = {}
        while True:
            page = await self._client.request("GET", RUNS, params={"task_id": task_id, "limit": PAGE, **cursor})
            for run in page["data"]:
                position = Position.parse(run["last_position"])
                yield _run(run["id"], run, position)
            if page["next_cursor"] is None:
                return
            cursor = {"cursor": page["next_cursor"]}


def _tell(error: Exception) -> None:
    if isinstance(error, LogUnavailable | Overtaken | ClientError):
        log.warning("the runs feed is followed again from its stored position", extra={"error": str(error)})
    else:
        log.error("news of runs could not be dealt with, and will come again", exc_info=error)


def _owned(events: Iterable[Received]) -> list[OwnedRun]:
    """News of runs that name a task."""
    found = []
    for received in events:
        event = received.event
        if isinstance(event, Status) and event.task_id is not None:
            found.append(_run(event.run_id, structs.asdict(event), Position.parse(received.position)))
    return found


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
