"""The composition root of the runs service."""

from collections.abc import Mapping

from services.runs.api import HANDLERS
from services.runs.backend import Backend
from services.runs.events import SCHEMA
from services.runs.executor import Executor
from services.runs.housekeeping import Housekeeping, QueueBell
from services.runs.lifecycle import Lifecycle
from services.runs.runners import make_runners, missing_settings
from services.runs.sessions import Sessions
from services.runs.store import STEPS, RunStore
from services.runs.subscriptions import Subscriptions
from shared.channel.channel import Channel, ChannelLimits
from shared.channel.postgres import Database, PostgresEventLog
from shared.channel.retention import Retention
from shared.edge import metrics
from shared.edge.app import build_app
from shared.edge.checks import log_checks
from shared.edge.idempotency import Answers
from shared.edge.settings import Settings
from shared.edge.streams import Streams
from shared.edge.visibility import Visibility


class RunsService:
    """The runs service of one process."""

    name = "runs"
    prefixes = ("/api/v1/runs", "/api/v1/sessions")
    host_pattern = passage_pattern = None

    def __init__(self, settings: Settings, database: Database, streams: Streams) -> None:
        limits = ChannelLimits(tail_bytes=settings.tail_bytes, lag_budget_bytes=settings.lag_budget_bytes)
        self._log = PostgresEventLog(database, self.name, STEPS)
        self.channel = channel = Channel(self._log, SCHEMA, limits)
        store, bell = RunStore(self.name, database), QueueBell()
        lifecycle = Lifecycle(channel, store, Answers(self.name), lease_seconds=settings.lease_seconds)
        self._executor = Executor(lifecycle, make_runners(settings), settings.runs_inline_capacity, bell.ring)
        self._housekeeping = Housekeeping(channel, store, lifecycle, self._executor, bell)
        self._retention = Retention(
            self._log, max_age_seconds=settings.retention_hours * 3600, max_events=settings.retention_events
        )
        self._visibility = Visibility(self.name, "runs", database)
        self.asgi = build_app(self.name, HANDLERS, settings, SCHEMA)
        self.asgi.state.backend = Backend(
            channel=channel,
            store=store,
            lifecycle=lifecycle,
            executor=self._executor,
            subscriptions=Subscriptions(channel, store, self._visibility),
            streams=streams,
            bell=bell,
            sessions=Sessions(channel, store),
            missing_settings=missing_settings(settings),
        )
        metrics.watch(self.name, channel)

    async def start(self) -> None:
        await self.channel.start()
        self._housekeeping.start()
        self._visibility.start()
        self._retention.start()

    async def stop(self) -> None:
        await self._housekeeping.close()
        await self._executor.close()
        await self._visibility.close()
        await self._retention.close()
        await self.channel.close()

    async def checks(self) -> Mapping[str, str]:
        failing = [*self._housekeeping.failing(), *self._visibility.failing(), *self._retention.failing()]
        return await log_checks(self.channel, self._log, failing)
