"""A process: settings, the database, the services it was made for, and a server that runs until it is told to stop."""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

import uvloop
from msgspec import structs

from shared.channel.embedded import EmbeddedPostgres, EmbeddedPostgresError
from shared.channel.log import LogUnavailable
from shared.channel.postgres import Database, PostgresEventLog
from shared.edge import logs
from shared.edge.access import AccessService
from shared.edge.gate import Gate
from shared.edge.server import Server, address, allow_many_files, listen, quiet_libraries
from shared.edge.service import Asgi, Front, Service
from shared.edge.settings import Settings, SettingsError
from shared.edge.streams import Streams

Announce = Callable[[str], None]


class Maker(Protocol):
    """What makes a service of a process: its class."""

    name: str

    def __call__(self, settings: Settings, database: Database, streams: Streams) -> Service: ...


def main(makers: Sequence[Maker], announce: Announce, make_pages: Callable[[Settings], Asgi] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C; return the exit code. What is wrong is told in one sentence."""
    return _run(lambda settings: serve(settings, makers, announce, make_pages))


def renew_epoch(names: Sequence[str], tell: Announce) -> int:
    """Begin a new epoch of these services' logs, after a restore into the same cluster; return the exit code."""

    async def renew(settings: Settings) -> None:
        async with AsyncExitStack() as stack:
            database = await _database(settings, stack)
            for name in names:
                event_log = PostgresEventLog(database, name)
                await event_log.start()
                state = await event_log.new_epoch()
                tell(f"{name}: the log's epoch is {state.epoch} now; connected readers are told to start over")

    return _run(renew)


def _run(work: Callable[[Settings], Coroutine[None, None, None]]) -> int:
    try:
        settings = Settings.from_environment(os.environ)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work(settings))
    except (SettingsError, EmbeddedPostgresError, LogUnavailable) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before the server had taken over the signal
        return 130
    return 0


async def serve(
    settings: Settings,
    makers: Sequence[Maker],
    announce: Announce,
    make_pages: Callable[[Settings], Asgi] | None = None,
) -> None:
    """Serve until told to stop. `announce` gets the public URL as soon as everything answers.

    Raise SettingsError when the address cannot be had, EmbeddedPostgresError or LogUnavailable without a database.
    """
    logs.set_up(settings.log_level, settings.secrets(), form=settings.log_format)
    quiet_libraries()
    allow_many_files()
    gate = Gate(settings)
    async with AsyncExitStack() as stack:
        try:
            listener = stack.enter_context(listen(settings))
        except OSError as error:
            where = f"{settings.host}:{settings.port}"
            raise SettingsError(f"Cannot listen on {where}: {error.strerror}. Set TAILRACE_PORT to another.") from None
        database = await _database(settings, stack)
        settings = _with_neighbours(settings, makers, address(listener))
        streams = Streams(settings)
        services = [AccessService(settings, gate, database), *(make(settings, database, streams) for make in makers)]
        front = Front(services, streams, gate, None if make_pages is None else make_pages(settings))
        server = Server(front, settings, on_started=lambda: announce(settings.public_url))
        await server.serve(sockets=[listener])


def _with_neighbours(settings: Settings, makers: Sequence[Maker], own_url: str) -> Settings:
    """Services of one process find each other at its own address, unless told otherwise."""
    names = {make.name for make in makers}
    found = {f"{name}_url": own_url for name in ("runs", "previews") if name in names}
    found["public_url"] = own_url
    return structs.replace(settings, **{name: url for name, url in found.items() if not getattr(settings, name)})


async def _database(settings: Settings, stack: AsyncExitStack) -> Database:
    """The database that was named, else one of our own; closed with the stack."""
    url = settings.database_url
    if not url:
        embedded = EmbeddedPostgres(Path(settings.data_directory) / "postgres")
        url = await embedded.start()
        stack.push_async_callback(embedded.stop)
    database = Database(url)
    stack.push_async_callback(database.close)
    await database.start()
    return database
