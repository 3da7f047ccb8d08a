"""The runs feed: what becomes of the runs that belong to tasks."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from msgspec import structs

from services.tasks.effects import RunEffects
from services.tasks.feed import Effects, FeedConsumer, Source
from services.tasks.feeds import Feeds
from services.tasks.owned_runs import OwnedRuns
from services.tasks.rules import OwnedRun
from services.tasks.store import TaskStore
from shared.channel.channel import Channel
from shared.channel.log import Outcome, Transaction
from shared.client import Client, Received
from shared.protocol.position import Position
from shared.protocol.schema import Event, Schema

RUNS = "/api/v1/runs"
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


SOURCE = Source("runs", RUNS, Schema([Status, Deleted]), ("status", "deleted"))


class RunsFeed(FeedConsumer):
    """Moves the tasks that own runs."""

    def __init__(self, channel: Channel, store: TaskStore, owned: OwnedRuns, feeds: Feeds, client: Client) -> None:
        super().__init__(SOURCE, channel, store.pool, feeds, client)
        self._store = store
        self._owned = owned
        self._effects = RunEffects(store, owned, feeds, SOURCE.name)

    async def effects(self, events: Sequence[Received]) -> Effects:
        return self._of_groups([[run] for run in await self._owned_runs(events)])

    def _of_groups(self, groups: Sequence[Sequence[OwnedRun]]) -> Effects:
        return lambda tx: self._effects.apply(tx, groups)

    async def _owned_runs(self, events: Sequence[Received]) -> list[OwnedRun]:
        """News of runs that name a task; of one that is gone, as far as it goes on here."""
        newest: dict[str, OwnedRun] = {}
        found = []
        for received in events:
            event, position = received.event, Position.parse(received.position)
            run = None
            if isinstance(event, Status) and event.task_id is not None:
                run = _run(event.run_id, structs.asdict(event), position)
            elif isinstance(event, Deleted):
                run = newest.get(event.run_id) or await self._owned.get(self.rows, event.run_id)
                run = None if run is None or run.is_over else run.gone(position)
            if run is not None:
                newest[run.run_id] = run
                found.append(run)
        return found

    # ── starting over ──────────────────────────────────────────────────────────────────────────────────────────

    async def read_anew(self, as_of: Position) -> None:
        """Of all tasks that go on, the runs as they are now."""
        await self.commit(lambda tx: self._unhear(tx, as_of))
        after = ""
        while task_ids := await self._store.open_tasks(self.rows, after):
            for after in task_ids:
                await self._catch_up(after, as_of)
        await self._stop_unheard()

    async def _unhear(self, tx: Transaction, as_of: Position) -> Outcome[list[str]]:
        await self._owned.unhear(tx, as_of)
        return Outcome([])

    async def _catch_up(self, task_id: str, as_of: Position) -> None:
        known = await self._owned.of_task(self.rows, task_id)  # first: what is there now and not then, is gone
        listed = [run async for page in self._runs(task_id=task_id) for run in page]
        there = {run.run_id for run in listed}
        gone = [run.gone(as_of) for run in known if run.run_id not in there and not run.is_over]
        if listed or gone:
            await self.commit(self._of_groups([[*reversed(listed), *gone]]))

    async def _stop_unheard(self) -> None:
        """Runs that go on for tasks that were cancelled are to stop, also those of which no news came."""
        for status in GOING_ON:
            async for page in self._runs(status=status):
                stopping = await self._store.stopping(self.rows, {run.task_id for run in page})
                await self.commit(self._of_groups([[run] for run in page if run.task_id in stopping]))

    async def _runs(self, **filters: str) -> AsyncIterator[list[OwnedRun]]:
        """Runs that name a task, as they are now, newest first."""
        async for page in self.pages(**filters):
            yield [
                _run(run["id"], run, Position.parse(run["last_position"])) for run in page if run["task_id"] is not None
            ]


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
