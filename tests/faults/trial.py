"""A service at work while something goes wrong, and what is looked at afterwards."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support.cutting_proxy import cutting_proxy
from tests.support.faults import Victim
from tests.support.postgres import OwnPostgres
from tests.support.readers import TRANSPORTS, Load, Reader, Stream, Writer, eventually, patient_client
from tests.support.server import Server
from tests.support.vitals import Vitals, settled, vitals

SETTINGS: dict[str, Any] = {"heartbeat_seconds": 0.1, "lease_seconds": 300}
Spoil = Callable[["Trial", Load], Awaitable[None]]


class Trial:
    """One service with a database of its own; its clients come through a proxy."""

    def __init__(self, victim: Victim) -> None:
        self.victim = victim
        self.chance = victim.chance
        self._rounds = 0

    @property
    def url(self) -> str:
        return self.victim.proxy.url

    async def vitals(self) -> Vitals:
        return await vitals(self.victim.server, self.victim.database_url)

    async def is_ready(self) -> None:
        """Wait until the service says so."""

        async def ready() -> bool:
            async with httpx.AsyncClient(base_url=self.victim.server.url, timeout=60) as client:
                return (await client.get("/ready")).status_code == 200

        await eventually(ready, "the service is ready")

    @asynccontextmanager
    async def load(self, *, cut_every: int | None = 60, writer: type[Writer] = Writer) -> AsyncIterator[Load]:
        """Three writers and twelve readers. At the end all they were told is held against the log: what was
        acknowledged is in it once, and each reader has seen what its stream shows of it, once and in order.
        """
        self._rounds += 1
        async with patient_client() as client:
            names = [f"round-{self._rounds}-writer-{n}" for n in range(3)]
            writers = [writer(client, [self.url], name, self.chance, pause_seconds=0.03) for name in names]
            for each in writers:
                await each.begin()
            streams = [
                Stream(lossless=True),  # or a busy machine makes it lag
                Stream(types="status,error"),
                Stream((writers[0].run_id, writers[1].run_id), lossless=True),
                Stream((writers[2].run_id,), alone=True, lossless=True),
            ]
            readers = [
                Reader(
                    client, [self.url], streams[(n + n // 4) % 4], TRANSPORTS[n % 4], self.chance, cut_every=cut_every
                )
                for n in range(12)
            ]
            async with Load(writers, readers).running(self.victim.database_url) as load:
                await load.progress()
                yield load

    async def withstand(self, spoil: Spoil, *, spoil_first: bool = False, **load: Any) -> Load:
        """Work; spoil it; work on. All is as it must be, and the service holds on to nothing.

        `spoil_first`: the fault itself takes memory that the allocator keeps; a second one must not take more.
        """
        async with self.load(**load) as first:  # what is needed once is there after it: modules, connections, memory
            if spoil_first:
                await spoil(self, first)
        await self.is_ready()
        before = await settled(self.vitals, await self.vitals())
        async with self.load(**load) as spoilt:
            await spoil(self, spoilt)
            await self.is_ready()
            await spoilt.progress()
        after = await settled(self.vitals, before)
        print(f"before: {before}\nafter:  {after}")
        return spoilt


@asynccontextmanager
async def trial(
    own_postgres: OwnPostgres,
    directory: Path,
    chance: random.Random,
    *,
    environment: Mapping[str, str] | None = None,
    database: Mapping[str, str] | None = None,
    **settings: Any,
) -> AsyncIterator[Trial]:
    """A runs service with what is its own. `environment` is for its process, `database` has settings of PostgreSQL."""
    postgres = own_postgres(directory=directory, settings=database)
    url = await postgres.start()
    server = Server(url, service="runs", **{**SETTINGS, **settings})
    server.environment.update(environment or {})
    try:
        await server.start()
        async with cutting_proxy(server.url) as proxy:
            yield Trial(Victim(server, postgres, directory, url, proxy, chance))
    finally:
        await asyncio.shield(server.kill())
