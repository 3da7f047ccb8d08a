"""What the streams of the tasks service carry: requests turned into subscriptions."""

from functools import partial

from services.tasks.events import SCHEMA
from services.tasks.lifecycle import NO_TASK, draft_of
from services.tasks.model import Task
from services.tasks.store import TaskStore
from shared.channel.channel import Channel
from shared.edge.admission import (
    Ask,
    Connection,
    Current,
    CurrentPage,
    Follow,
    Pace,
    Subscription,
    number,
    whole_number,
)
from shared.edge.ids import is_id
from shared.edge.principal import principal_of
from shared.edge.problems import BadInput, Missing
from shared.edge.visibility import Seen, Visibility
from shared.protocol.filter import Filter
from shared.protocol.position import Anchor
from shared.protocol.record import Record

INTERVALS = (0.1, 10.0)  # seconds; the setting's bounds too
MAX_TICKS = 1_000_000
PRIMARY = "snapshot"


class Subscriptions:
    """Looks the subject up, in the caller's tenant only, and says what is to be sent."""

    def __init__(self, channel: Channel, store: TaskStore, visibility: Visibility, *, interval_seconds: float) -> None:
        self._channel = channel
        self._store = store
        self._visibility = visibility
        self._interval_seconds = interval_seconds

    async def require(self, tenant: str | None, task_id: str) -> Task:
        """The task. Raise Missing in the same words whether it is another tenant's, unknown or impossible."""
        task = await self._store.get(self._store.pool, tenant, task_id) if is_id("task", task_id) else None
        if task is None:
            raise Missing(NO_TASK)
        return task

    async def task(
        self, connection: Connection, task_id: str, *, follow: Follow | None = None, polling: bool = False
    ) -> Subscription:
        """One task: its present snapshot unless a position is given, then the newest at a pace, until it ends."""
        ask = Ask.of(connection, SCHEMA, Anchor.START, follow=follow, on_reset="error" if polling else "reset")
        pace = self._pace(connection, follow)
        arrived = self._channel.state
        task = await self.require(principal_of(connection).reach, task_id)
        conflates = not polling and not ask.lossless and ask.requested is not Anchor.NOW
        return ask.subscribe(
            self._channel,
            Filter(tenant=task.tenant, subjects=(task.subject,), types=ask.types or (PRIMARY,)),
            arrived,
            f"/api/v1/tasks/{task.id}/events",
            primary=PRIMARY,
            ended=task.status if task.is_over else None,
            current=self._current(task.tenant, task.id),
            jumps=ask.is_default or conflates,
            pace=None if polling else pace,
            watch=partial(self._visibility.watch, Seen(task.tenant, task.id), pace.interval_seconds),
        )

    def board(self, connection: Connection, *, follow: Follow | None = None, polling: bool = False) -> Subscription:
        """All of the tenant's tasks: from now unless told."""
        ask = Ask.of(connection, SCHEMA, Anchor.NOW, follow=follow, on_reset="error" if polling else "reset")
        tenant = principal_of(connection).reach
        return ask.subscribe(
            self._channel,
            Filter(tenant=tenant, types=ask.types),
            self._channel.state,
            "/api/v1/tasks/events",
            primary=PRIMARY,
            endless=True,
            current=self._current(tenant),
        )

    async def channel(self, connection: Connection, follow: Follow) -> Subscription:
        """The subscription that a `follow` message names. Raise BadInput, Missing."""
        match follow.channel.split("/"):
            case ["tasks"]:
                return self.board(connection, follow=follow)
            case ["task", task_id] if task_id:
                return await self.task(connection, task_id, follow=follow)
        raise BadInput(f"there is no channel {follow.channel[:80]!r}; give tasks or task/<id>")

    def _pace(self, connection: Connection, follow: Follow | None) -> Pace:
        interval, max_ticks = self._interval_seconds, None
        if follow is None:
            interval = number(connection, "interval", interval, *INTERVALS)
            if "max_ticks" in connection.query_params:
                max_ticks = whole_number(connection, "max_ticks", 1, 1, MAX_TICKS)
        return Pace(interval, max_ticks)

    def _current(self, tenant: str | None, task_id: str | None = None) -> Current:
        limits = self._channel.limits

        async def current(after: int, upto: int) -> CurrentPage:
            tasks, state = await self._store.changed(
                self._store.pool,
                tenant,
                after,
                upto,
                limit=limits.page_events,
                max_bytes=limits.page_bytes,
                task_id=task_id,
            )
            return CurrentPage(tuple(Record.of(task.last_seq, draft_of(task)) for task in tasks), state)

        return current
