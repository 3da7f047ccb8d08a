"""The composition root of the tasks service."""

import logging
from collections.abc import Mapping

from services.tasks.api import HANDLERS
from services.tasks.backend import Backend
from services.tasks.events import SCHEMA
from services.tasks.feeds import Feeds
from services.tasks.housekeeping import Housekeeping
from services.tasks.lifecycle import Lifecycle
from services.tasks.owned_runs import OwnedRuns
from services.tasks.runs_feed import RunsFeed
from services.tasks.store import STEPS, TaskStore
from services.tasks.subscriptions import Subscriptions
from services.tasks.visibility import Visibility
from shared.channel.channel import Channel, ChannelLimits
from shared.channel.postgres import Database, PostgresEventLog, Turn
from shared.channel.retention import Retention
from shared.client import Client
from shared.edge import metrics
from shared.edge.app import build_app
from shared.edge.checks import log_checks
from shared.edge.idempotency import Answers
from shared.edge.settings import Settings
from shared.edge.streams import Streams

log = logging.getLogger("tailrace.tasks")


class TasksService:
    """The tasks service of one process."""

    name = "tasks"
    prefixes = ("/api/v1/tasks",)

    def __init__(self, settings: Settings, database: Database, streams: Streams) -> None:
        limits = ChannelLimits(tail_bytes=settings.tail_bytes, lag_budget_bytes=settings.lag_budget_bytes)
        self._log = PostgresEventLog(database, self.name, STEPS)
        self.channel = channel = Channel(self._log, SCHEMA, limits)
        store, owned = TaskStore(self.name, database), OwnedRuns(self.name)
        self._visibility = Visibility(store)
        self._client = Client(settings.runs_url) if settings.runs_url else None
        self._housekeeping = None
        if self._client is not None:
            feed, turn = RunsFeed(channel, store, owned, Feeds(self.name), self._client), f"{self.name} runs feed"
            self._housekeeping = Housekeeping(store, owned, self._client, feed, Turn(database, turn))
        self._retention = Retention(
            self._log, max_age_seconds=settings.retention_hours * 3600, max_events=settings.retention_events
        )
        self.asgi = build_app(self.name, HANDLERS, settings, SCHEMA)
        self.asgi.state.backend = Backend(
            channel=channel,
            store=store,
            lifecycle=Lifecycle(channel, store, owned, Answers(self.name)),
            subscriptions=Subscriptions(
                channel, store, self._visibility, interval_seconds=settings.tasks_stream_interval_seconds
            ),
            streams=streams,
        )
        metrics.HEAD.labels(self.name).set_function(lambda: channel.state.head)
        metrics.TAILS.labels(self.name).set_function(lambda: len(channel.tails))

    async def start(self) -> None:
        await self.channel.start()
        self._visibility.start()
        self._retention.start()
        if self._housekeeping is not None:
            self._housekeeping.start()
        else:
            log.warning("tasks do not follow their runs: TAILRACE_RUNS_URL does not say where the runs service is")

    async def stop(self) -> None:
        if self._housekeeping is not None:
            await self._housekeeping.close()
        if self._client is not None:
            await self._client.aclose()
        await self._visibility.close()
        await self._retention.close()
        await self.channel.close()

    async def checks(self) -> Mapping[str, str]:
        failing = [*self._visibility.failing(), *self._retention.failing()]
        if self._housekeeping is not None:
            failing += self._housekeeping.failing()
        return await log_checks(self.channel, self._log, failing)
