"""The round itself: everything at work, faults by chance, samples, and what was found."""

import asyncio
import contextlib
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil
from msgspec import Struct

from shared.channel.embedded import EmbeddedPostgres
from tests.soak.crowding import Crowding, crowd
from tests.soak.samples import Flatness, Sample, flatness
from tests.soak.work import Printing, Runs, Tasks
from tests.support.contract import ended_run
from tests.support.cutting_proxy import cutting_proxy
from tests.support.faults import FAULTS, Victim
from tests.support.previews import ended, launch
from tests.support.readers import TRANSPORTS, Reader, Stored, Stream, eventually, log_of, patient_client, patiently
from tests.support.server import Server
from tests.support.vitals import Vitals, leaks, vitals

FEEDS = 2  # that the tasks service follows


class Plan(Struct, frozen=True, kw_only=True):
    """How long, with how much, and what goes wrong."""

    seconds: float = 600.0
    readers: int = 2_000
    seed: str = ""
    faults: tuple[str, ...] = tuple(FAULTS)
    fault_every_seconds: float = 15.0
    runs_at_once: int = 12
    pause_seconds: float = 4.0  # between two batches of a run, at most
    sample_every_seconds: float = 2.0


class Outcome(Struct, frozen=True, kw_only=True):
    """What was seen."""

    plan: Plan
    seconds: float
    samples: list[Sample]
    faults: dict[str, int]
    counts: dict[str, int]
    answers: dict[str, int]
    violations: list[str]
    flat: Flatness
    events: int
    before: str
    after: str

    @property
    def passed(self) -> bool:
        return not self.violations and self.flat.is_flat


class Soak:
    """One round over a server that runs."""

    def __init__(self, plan: Plan, victim: Victim) -> None:
        self.plan = plan
        self.victim = victim
        self.samples: list[Sample] = []
        self.faults: Counter[str] = Counter()
        self.violations: list[str] = []
        self._began = time.monotonic()
        self._process = psutil.Process(victim.server.pid)

    # ── what is looked at ──────────────────────────────────────────────────────────────────────────────────────

    async def _look(self, crowding: Crowding) -> None:
        while True:
            seen: Vitals | None = None
            with contextlib.suppress(OSError, httpx.HTTPError, asyncpg.PostgresError, TimeoutError):
                async with asyncio.timeout(2):
                    seen = await vitals(self.victim.server, self.victim.database_url)
            used = self._process.cpu_times()
            self.samples.append(
                Sample(
                    at=time.monotonic() - self._began,
                    rss=self._process.memory_info().rss,
                    descriptors=self._process.num_fds(),
                    cpu_seconds=used.user + used.system,
                    readers=None if seen is None else seen.readers,
                    loop_tasks=None if seen is None else seen.loop_tasks,
                    head=None,
                    crowd=crowding.open,
                )
            )
            await asyncio.sleep(self.plan.sample_every_seconds)

    # ── what goes wrong ────────────────────────────────────────────────────────────────────────────────────────

    async def _spoil(self) -> None:
        """One fault after the other; each must have been recovered from before the next."""
        chance = self.victim.chance
        while True:
            await asyncio.sleep(chance.uniform(0.5, 1.5) * self.plan.fault_every_seconds)
            name = chance.choice(self.plan.faults)
            self.faults[name] += 1
            print(f"{time.monotonic() - self._began:6.0f} s  {name}", flush=True)
            await FAULTS[name](self.victim)
            await self._until_ready(name)

    async def _until_ready(self, since: str) -> None:
        """Wait until the service says that it is well."""
        told = ""

        async def is_ready() -> bool:
            nonlocal told
            try:
                async with httpx.AsyncClient(base_url=self.victim.server.url, timeout=30) as client:
                    answer = await client.get("/ready")
            except httpx.HTTPError as error:
                told = repr(error)
                return False
            told = answer.text
            return answer.status_code == 200

        try:
            await eventually(is_ready, "ready")
        except AssertionError:
            raise AssertionError(f"not ready long after: {since}; it says {told}") from None

    # ── the round ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _before(self) -> Vitals:
        """When each service has been used once, and the tasks service follows the feeds of the two others."""
        async with httpx.AsyncClient(base_url=self.victim.server.url, timeout=60) as client:
            await ended_run(client, 1)
            made = await client.post("/api/v1/tasks", json={"title": "warm up"})
            (await client.delete(f"/api/v1/tasks/{made.raise_for_status().json()['id']}")).raise_for_status()
            generation = f"warm-up-{self.plan.seed}"
            await launch(client, generation, "", kind="command")
            await ended(client, generation)
        seen: Vitals | None = None

        async def follows() -> bool:
            nonlocal seen
            seen = await vitals(self.victim.server, self.victim.database_url)
            return seen.readers == FEEDS

        await eventually(follows, "the tasks service follows both feeds, and nobody else anything")
        assert seen is not None
        return seen

    async def run(self) -> Outcome:
        before = await self._before()
        async with (
            patient_client() as client,
            crowd(self.victim.server.port, self.plan.readers, self.plan.seed) as members,
        ):
            url, chance = self.victim.proxy.url, self.victim.chance
            runs = Runs(client, url, chance, at_once=self.plan.runs_at_once, pause=self.plan.pause_seconds)
            tasks, printing = Tasks(url, chance), Printing(self.victim.server.url)
            await printing.launch()
            readers = self._readers(client)
            goal: list[int] = []
            async with asyncio.TaskGroup() as group:
                ending = [
                    *(group.create_task(reader.follow(partial(_has_reached, goal))) for reader in readers),
                    group.create_task(runs.work(members.follow)),
                    group.create_task(tasks.work()),
                ]
                lasting = [group.create_task(work) for work in (self._look(members), printing.work())]
                await self._for_its_time()
                runs.stop()
                tasks.stop()
                await asyncio.wait(ending[len(readers) :])
                log = await patiently(lambda: log_of(self.victim.database_url))
                goal.append(log[-1].seq)
                await asyncio.wait(ending)
                await members.leave()
                for task in lasting:
                    task.cancel()
            await printing.stop()
        self._judge(log, runs, readers, [*tasks.wrong, *printing.wrong, *members.told["violations"]])
        return await self._outcome(before, log, runs, members, {"tasks": tasks.done, "lines": printing.lines})

    async def _for_its_time(self) -> None:
        spoiling = asyncio.create_task(self._spoil())
        await asyncio.wait([spoiling], timeout=self.plan.seconds)
        spoiling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await spoiling
        await self._until_ready("the end")

    def _readers(self, client: httpx.AsyncClient) -> list[Reader]:
        """A few of which every frame is held against the log: over each transport, the feed and what types hide."""
        streams = [Stream(lossless=True), Stream(types="status,error")]
        return [
            Reader(client, [self.victim.proxy.url], stream, transport, self.victim.chance, cut_every=cut_every)
            for stream, cut_every in zip(streams, (400, None), strict=True)
            for transport in TRANSPORTS
        ]

    def _judge(self, log: list[Stored], runs: Runs, readers: list[Reader], wrong: list[str]) -> None:
        self.violations += [*wrong, *runs.check(log)]
        for reader in readers:
            try:
                reader.check(log)
            except AssertionError as error:
                self.violations.append(str(error)[:300])

    async def _outcome(
        self, before: Vitals, log: list[Stored], runs: Runs, members: Crowding, counts: dict[str, int]
    ) -> Outcome:
        after = await self._afterwards(before)
        return Outcome(
            plan=self.plan,
            seconds=time.monotonic() - self._began,
            samples=self.samples,
            faults=dict(self.faults),
            counts={**members.told["counts"], **counts, "runs": len(runs.ended)},
            answers=runs.answers,
            violations=self.violations,
            flat=flatness(self.samples),
            events=len(log),
            before=str(before),
            after=str(after),
        )

    async def _afterwards(self, before: Vitals) -> Vitals:
        """What is left when all have gone. Memory has its own judge."""
        last: list[str] = []
        after = before

        async def is_well() -> bool:
            nonlocal last, after
            after = await vitals(self.victim.server, self.victim.database_url)
            last = [leak for leak in leaks(before, after) if not leak.endswith("MB more")]
            return not last

        try:
            await eventually(is_well, "nothing is left", seconds=30)
        except AssertionError:
            self.violations += last
        return after


def _has_reached(goal: list[int], reader: Reader) -> bool:
    return bool(goal) and reader.last_seq >= goal[0]


@asynccontextmanager
async def victim(plan: Plan, **settings: Any) -> AsyncIterator[Victim]:
    """All three services in one process, over a PostgreSQL of their own."""
    directory = Path(tempfile.mkdtemp(prefix="tr-soak-"))
    directory.chmod(0o755)
    postgres = EmbeddedPostgres(directory / "postgres", elsewhere=directory / "elsewhere")
    url = await postgres.start()
    server = Server(url, lease_seconds=300, heartbeat_seconds=2.0, preview_ttl_seconds=86_400, **settings)
    try:
        await server.start()
        async with cutting_proxy(server.url) as proxy:
            chance = random.Random(f"soak {plan.seed}")
            yield Victim(server, postgres, directory / "postgres", url, proxy, chance)
    finally:
        await server.end()
        await postgres.stop()
        shutil.rmtree(directory, ignore_errors=True)


async def soak(plan: Plan, **settings: Any) -> Outcome:
    """A whole round."""
    async with victim(plan, **settings) as made:
        return await Soak(plan, made).run()
