"""Readers that are frozen, and more of them than there is room for."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.trial import Trial, trial
from tests.support.contract import RUNS, finish, metric
from tests.support.postgres import OwnPostgres
from tests.support.readers import Load, Stored, log_of, seeded
from tests.support.server import ROOT, lease

FAT = "x" * 20_000
FAT_EVENTS = 600


class FrozenReader:
    """One that runs apart, and can be stopped and continued."""

    def __init__(self, process: asyncio.subprocess.Process, lossless: bool) -> None:
        self.lossless = lossless
        self._process = process

    async def line(self) -> str:
        assert self._process.stdout is not None
        return (await self._process.stdout.readline()).decode().strip()

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    async def end(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    def check(self, seen: list[Any], log: list[Stored]) -> None:
        """Each event was seen once, in order, or lies in one gap."""
        place = 0
        for item in seen:
            if isinstance(item, list):
                first, last, dropped = item
                inside = [each for each in log[place:] if each.seq <= last]
                assert not self.lossless
                assert (inside[0].seq, len(inside)) == (first, dropped)
                assert {each.type for each in inside} == {"node_update"}
                place += len(inside)
            else:
                assert item == log[place].seq
                place += 1
        assert place == len(log)


@asynccontextmanager
async def frozen_readers(url: str, path: str) -> AsyncIterator[list[FrozenReader]]:
    """Four, live: over each transport, lossless and not."""
    readers = []
    try:
        for transport in ("sse", "websocket"):
            for lossless in (False, True):
                arguments = [url, path, transport, "lossless" if lossless else ""]
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *("-m", "tests.faults.reading", *arguments),
                    cwd=ROOT,
                    stdout=asyncio.subprocess.PIPE,
                    limit=1024 * 1024,
                )
                readers.append(FrozenReader(process, lossless))
        for reader in readers:
            assert await reader.line() == "live"
        yield readers
    finally:
        for reader in readers:
            await reader.end()


async def freeze_readers(tried: Trial, load: Load) -> None:
    """They are stopped until the service has sent them away, then go on."""
    server = tried.victim.server
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        run_id, token = await lease(client, runner=f"fat-{tried.chance.random()}")
        already = await metric(client, "tailrace_stream_ends_total", reason="slow_reader")
        async with frozen_readers(server.url, f"{RUNS}/{run_id}/stream") as readers:
            for reader in readers:
                reader.freeze()
            for _ in range(FAT_EVENTS // 50):
                body = {"events": [{"type": "node_update", "node": "n", "model": FAT}] * 50}
                url, headers = f"{RUNS}/{run_id}/events", {"tailrace-lease": token}
                (await client.post(url, json=body, headers=headers)).raise_for_status()
            async with asyncio.timeout(60):
                while await metric(client, "tailrace_stream_ends_total", reason="slow_reader") < already + len(readers):
                    await load.progress(5)  # the others do not notice
            for reader in readers:
                reader.thaw()
            (await finish(client, run_id, token)).raise_for_status()
            told = [json.loads(await reader.line()) for reader in readers]
        log = [each for each in await log_of(tried.victim.database_url) if each.run_id == run_id]
        for reader, seen in zip(readers, told, strict=True):
            reader.check(seen, log)


async def test_readers_that_are_frozen_lose_nothing_unsaid_and_cost_nothing(
    own_postgres: OwnPostgres, postgres_directory: Path
) -> None:
    chance = seeded("frozen readers")
    directory = postgres_directory / f"fault-{chance.randrange(2**32)}"
    settings: dict[str, Any] = {"slow_reader_seconds": 1.0, "lag_budget_bytes": 100_000}
    async with trial(own_postgres, directory, chance, **settings) as tried:
        await tried.withstand(freeze_readers, spoil_first=True, cut_every=None)


@pytest.mark.parametrize(("bound", "status"), [("streams_per_process", "503"), ("streams_per_tenant", "429")])
async def test_where_there_is_no_room_for_all_everybody_gets_a_turn(
    own_postgres: OwnPostgres, postgres_directory: Path, bound: str, status: str
) -> None:
    chance = seeded(f"full {bound}")
    directory = postgres_directory / f"fault-{chance.randrange(2**32)}"

    async def crowd(tried: Trial, load: Load) -> None:
        await load.progress(60)

    settings: dict[str, Any] = {bound: 8}
    async with trial(own_postgres, directory, chance, **settings) as tried:
        load = await tried.withstand(crowd, cut_every=12)
    assert sum(reader.faults[status] for reader in load.readers) > 0
    assert load.answers.keys() == {"200"}
