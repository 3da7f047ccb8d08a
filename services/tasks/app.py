"""The composition root of the tasks service."""

import logging
from collections.abc import Mapping

from services.tasks.api import HANDLERS
from services.tasks.backend import Backend
from services.tasks.events import SCHEMA
from services.tasks.feed import FeedConsumer
from services.tasks.feeds import Feeds
from services.tasks.housekeeping import Housekeeping
from services.tasks.lifecycle import Lifecycle
from services.tasks.owned_runs import OwnedRuns
from services.tasks.previews_feed import PreviewsFeed
from services.tasks.runs_feed import RunsFeed
from services.tasks.store import STEPS, TaskStore
from services.tasks.subscriptions import Subscriptions
from shared.channel.channel import Channel, ChannelLimits
from shared.channel.postgres import Database, PostgresEventLog, Turn
from shared.channel.retention import Retention
from shared.client import Client
from shared.edge import metrics
from shared.edge.app import build_app
from shared.edge.auth.service_token import service_token
from shared.edge.checks import log_checks
from shared.edge.idempotency import Answers
from shared.edge.settings import Settings
from shared.edge.streams import Streams
from shared.edge.visibility import Visibility

log = logging.getLogger("tailrace.tasks")


class TasksService:
    """The tasks service of one process."""

    name = "tasks"
    prefixes = ("/api/v1/tasks",)
    host_pattern = passage_pattern = None

    def __init__(self, settings: Settings, database: Database, streams: Streams) -> None:
        limits = ChannelLimits(tail_bytes=settings.tail_bytes, lag_budget_bytes=settings.lag_budget_bytes)
        self._log = PostgresEventLog(database, self.name, STEPS)
        self.channel = channel = Channel(self._log, SCHEMA, limits)
        store, owned = TaskStore(self.name, database), OwnedRuns(self.name)
        self._visibility = Visibility(self.name, "tasks", database)
        self._housekeeping = Housekeeping(store, owned)
        self._feeds: list[tuple[FeedConsumer, Turn]] = []
        self._clients: dict[str, Client] = {}
        feeds = Feeds(self.name)
        token = service_token(settings, self.name)
        self._is_stranger = settings.auth != "off" and token is None
        if settings.runs_url:
            self._clients["runs"] = runs = Client(settings.runs_url, token=token)
            self._feeds.append((RunsFeed(channel, store, owned, feeds, runs), Turn(database, "tasks: runs feed")))
        if settings.previews_url:
            self._clients["previews"] = previews = Client(settings.previews_url, token=token)
            self._feeds.append((PreviewsFeed(channel, store, feeds, previews), Turn(database, "tasks: previews feed")))
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
        metrics.watch(self.name, channel)

    async def start(self) -> None:
        await self.channel.start()
        self._visibility.start()
        self._retention.start()
        for feed, turn in self._feeds:
            self._housekeeping.consume(feed, turn)
        if "runs" in self._clients:
            self._housekeeping.stop_runs(self._clients["runs"])
        else:
            log.warning("tasks do not follow their runs: TAILRACE_RUNS_URL does not say where the runs service is")
        if self._is_stranger:
            log.warning("tasks cannot follow the other services: TAILRACE_SERVICE_TOKEN gives them no token")

    async def stop(self) -> None:
        await self._housekeeping.close()
        for client in self._clients.values():
            await client.aclose()
        await self._visibility.close()
        await self._retention.close()
        await self.channel.close()

    async def checks(self) -> Mapping[str, str]:
        failing = [*self._visibility.failing(), *self._retention.failing()]
        if self._housekeeping is not None:
            failing += self._housekeeping.failing()
        return await log_checks(self.channel, self._log, failing)
