"""The composition root of the previews service."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from services.previews.api import HANDLERS
from services.previews.backend import Backend
from services.previews.capture import CaptureLimits
from services.previews.events import SCHEMA
from services.previews.filemap import FileLimits
from services.previews.host import host_of, sockets_of
from services.previews.launch import Limits
from services.previews.launching import Launching
from services.previews.lifecycle import Lifecycle
from services.previews.logs import Logs
from services.previews.model import Preview
from services.previews.passage.door import PASSAGE, Doors
from services.previews.program import Surroundings
from services.previews.programs import Programs
from services.previews.store import STEPS, PreviewStore
from services.previews.subscriptions import Subscriptions
from shared.channel.channel import Channel, ChannelLimits
from shared.channel.postgres import Database, PostgresEventLog
from shared.channel.retention import Retention
from shared.edge import metrics
from shared.edge.app import build_app
from shared.edge.checks import log_checks
from shared.edge.ids import ULID
from shared.edge.settings import LOOPBACK, Settings
from shared.edge.streams import Streams
from shared.edge.visibility import Visibility


class PreviewsService:
    """The previews service of one process. Programs run on this machine, so there is one a machine."""

    name = "previews"
    prefixes = ("/api/v1/previews", "/api/v1/generations")
    passage_pattern = PASSAGE

    def __init__(self, settings: Settings, database: Database, streams: Streams) -> None:
        limits = ChannelLimits(tail_bytes=settings.tail_bytes, lag_budget_bytes=settings.lag_budget_bytes)
        self._log = PostgresEventLog(database, self.name, STEPS)
        self.channel = channel = Channel(self._log, SCHEMA, limits)
        directory = Path(settings.data_directory).resolve() / "previews"
        # just the hosts that the doors take for a preview's: who comes by one of them has passed no gate
        self.host_pattern = re.compile(rf"prv-{ULID}\.{re.escape(settings.preview_domain.lower())}(:[0-9]+)?", re.ASCII)
        sockets = sockets_of(directory, host_of(directory))
        self._launching = Launching(
            directory,
            sockets,
            minimum=settings.preview_isolation,
            trusts_everybody=settings.host in LOOPBACK,
        )
        store = PreviewStore(self.name, database)
        lifecycle = Lifecycle(channel, store, host_of(directory), lambda: self._launching.isolation, _Address(settings))
        logs = Logs(self.name, database)
        around = Surroundings(
            lifecycle=lifecycle,
            launching=self._launching,
            file_limits=FileLimits(),
            directory=directory,
            sockets=sockets,
            limits=_limits(settings),
            check_seconds=settings.preview_check_seconds,
            files=lambda preview_id: store.files(database, preview_id),
        )
        self._programs = Programs(
            channel, store, logs=logs, around=around, limits=_capture_limits(settings), host=host_of(directory)
        )
        self._visibility = Visibility(self.name, "previews", database)
        subscriptions = Subscriptions(channel, store, lifecycle, self._visibility)
        self._doors = Doors(self._programs, store, subscriptions, settings.preview_domain.lower())
        self._retention = Retention(
            self._log, max_age_seconds=settings.retention_hours * 3600, max_events=settings.retention_events
        )
        self._api = build_app(self.name, HANDLERS, settings, SCHEMA)
        self._api.state.backend = Backend(
            channel=channel,
            store=store,
            lifecycle=lifecycle,
            programs=self._programs,
            logs=logs,
            subscriptions=subscriptions,
            streams=streams,
            file_limits=around.file_limits,
            quota=settings.previews_per_tenant,
            ttl_seconds=settings.preview_ttl_seconds,
            network=settings.preview_network,
        )
        metrics.watch(self.name, channel)

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        """A program's own origin, the passage to one, or the API."""
        host = next((str(value, "latin-1") for name, value in scope["headers"] if name == b"host"), "")
        preview_id = self._doors.preview_of_host(host)
        if preview_id is not None:
            await self._doors.origin(scope, receive, send, preview_id)
        elif PASSAGE.fullmatch(scope["path"]) is not None:
            await self._doors.passage(scope, receive, send)
        else:
            await self._api(scope, receive, send)

    async def start(self) -> None:
        await self._launching.start()
        await self.channel.start()
        await self._programs.start()
        self._visibility.start()
        self._retention.start()

    async def stop(self) -> None:
        await self._programs.close()
        await self._launching.close()
        await self._visibility.close()
        await self._retention.close()
        await self.channel.close()

    async def checks(self) -> Mapping[str, str]:
        checks = await log_checks(self.channel, self._log, [*self._visibility.failing(), *self._retention.failing()])
        return {**checks, "isolation": self._launching.state}


class _Address:
    """The URL at which people open a preview."""

    def __init__(self, settings: Settings) -> None:
        public = urlsplit(settings.public_url)
        port = f":{public.port}" if public.port else ""
        self._scheme, self._rest = public.scheme or "http", f"{settings.preview_domain}{port}/"

    def __call__(self, preview: Preview) -> str:
        return f"{self._scheme}://{preview.label}.{self._rest}"


def _limits(settings: Settings) -> Limits:
    return Limits(
        memory_bytes=settings.preview_memory_bytes,
        disk_bytes=settings.preview_disk_bytes,
        file_bytes=settings.preview_disk_bytes,
        processes=settings.preview_processes,
    )


def _capture_limits(settings: Settings) -> CaptureLimits:
    return CaptureLimits(
        lines_per_second=settings.preview_log_lines_per_second, stored_lines=settings.preview_log_lines
    )
