"""What goes wrong: faults that are done to a service and its database, for the tests of faults and for the soak.

Each is a coroutine that returns when the fault is over, though not always when all have recovered from it.
"""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import psutil
from msgspec import Struct

from shared.channel.embedded import EmbeddedPostgres
from tests.support.contract import sql
from tests.support.cutting_proxy import CuttingProxy, endless, up_to
from tests.support.readers import SECONDS, eventually
from tests.support.server import Server


class Victim(Struct, frozen=True):
    """A service, the database that only it uses, and the proxy through which its clients come."""

    server: Server
    postgres: EmbeddedPostgres
    directory: Path  # the database's
    database_url: str
    proxy: CuttingProxy
    chance: random.Random

    @property
    def postmaster(self) -> int:
        """Its process. Raise OSError, IndexError while there is none."""
        return int((self.directory / "cluster" / "postmaster.pid").read_text().split()[0])


Fault = Callable[[Victim], Awaitable[None]]


# ── connections ────────────────────────────────────────────────────────────────────────────────────────────────


async def cut_mid_event(victim: Victim) -> None:
    """Every connection is cut, and those that come then after some bytes, wherever that is."""
    proxy = victim.proxy
    goal = proxy.cuts + 30
    proxy.answers = up_to(victim.chance, 6_000)
    proxy.cut_all()
    try:
        async with asyncio.timeout(SECONDS):
            await proxy.until(lambda: proxy.cuts >= goal)
    finally:
        proxy.answers = endless


async def vanish(victim: Victim) -> None:
    """The network passes nothing on for a while, and then all at once."""
    victim.proxy.freeze()
    await asyncio.sleep(victim.chance.uniform(0.5, 1.5))  # so long it lasts
    victim.proxy.thaw()


async def freeze_service(victim: Victim) -> None:
    """The service is stopped for a while (SIGSTOP)."""
    victim.server.freeze()
    try:
        await asyncio.sleep(victim.chance.uniform(0.5, 1.5))
    finally:
        victim.server.thaw()


# ── the database ───────────────────────────────────────────────────────────────────────────────────────────────


async def restart_database(victim: Victim) -> None:
    """PostgreSQL is shut down, and is back a little later."""
    await victim.postgres.stop()
    await asyncio.sleep(victim.chance.uniform(0, 0.5))
    assert await victim.postgres.start() == victim.database_url


async def kill_database(victim: Victim) -> None:
    """kill -9 of PostgreSQL; its supervisor starts it again."""
    killed = victim.postmaster
    os.kill(killed, signal.SIGKILL)

    async def is_back() -> bool:
        with contextlib.suppress(OSError, IndexError, ValueError, asyncpg.PostgresError):
            if victim.postmaster != killed:
                async with sql(victim.database_url) as database:
                    return bool(await database.fetchval("SELECT true"))
        return False

    await eventually(is_back, "PostgreSQL is back")


async def hang_database(victim: Victim) -> None:
    """No process of PostgreSQL goes on for longer than a query may take; it does not even refuse connections."""
    await _hang(victim, 7.0)


async def hang_database_briefly(victim: Victim) -> None:
    """The same for a moment: nothing is given up."""
    await _hang(victim, victim.chance.uniform(0.5, 1.5))


async def _hang(victim: Victim, seconds: float) -> None:
    main = psutil.Process(victim.postmaster)
    stopped: list[psutil.Process] = []
    try:
        for process in [main, *main.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
                stopped.append(process)
        await asyncio.sleep(seconds)
    finally:
        for process in reversed(stopped):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


async def lose_listen(victim: Victim) -> None:
    """The connection that hears of news is ended, again and again."""
    await _end_sessions(victim, "tailrace listener")


async def lose_sessions(victim: Victim) -> None:
    """All connections of the service to its database are ended."""
    await _end_sessions(victim, "tailrace %")


async def _end_sessions(victim: Victim, name: str, times: int = 5) -> None:
    ended = 0
    async with sql(victim.database_url) as database:

        async def are_ended() -> bool:
            nonlocal ended
            rows = await database.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE $1", name
            )
            ended += bool(rows)
            return ended >= times

        await eventually(are_ended, f"{name} is ended {times} times")


FAULTS: dict[str, Fault] = {
    "connections are cut in the middle of an event": cut_mid_event,
    "the network falls silent": vanish,
    "the service is frozen": freeze_service,
    "PostgreSQL is restarted": restart_database,
    "PostgreSQL is killed": kill_database,
    "PostgreSQL hangs": hang_database,
    "PostgreSQL hangs for a moment": hang_database_briefly,
    "LISTEN is lost": lose_listen,
    "all sessions of the database are ended": lose_sessions,
}
