"""What a service holds on to: memory, descriptors, tasks, readers, sessions of the database. For seeing leaks."""

import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import httpx
import psutil
from msgspec import Struct

from tests.support.contract import sql
from tests.support.readers import eventually
from tests.support.server import Server

MEGABYTE = 1024 * 1024
# The allocator keeps some of what it was given, and how much is chance. A leak comes back with every fault.
RSS_SLACK = 40 * MEGABYTE
POOL = 8  # connections that a Database keeps for reads


class Vitals(Struct, frozen=True):
    """At one moment. `sessions`: how many of the database's, by purpose."""

    rss: int
    descriptors: int  # but those of the database's sessions
    readers: int
    loop_tasks: int
    sessions: dict[str, int]

    def __str__(self) -> str:
        return (
            f"{self.rss / MEGABYTE:.1f} MB, {self.descriptors} descriptors, {self.readers} readers, "
            f"{self.loop_tasks} tasks, sessions {self.sessions}"
        )


async def vitals(server: Server, database_url: str) -> Vitals:
    """Now, of a service that answers."""
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        text = (await client.get("/metrics")).text
    async with sql(database_url) as database:
        rows = await database.fetch(
            """SELECT application_name, count(*) FROM pg_stat_activity
               WHERE datname = current_database() AND application_name LIKE 'tailrace %' GROUP BY 1"""
        )
    sessions = {row["application_name"].removeprefix("tailrace "): row["count"] for row in rows}
    return Vitals(
        rss=psutil.Process(server.pid).memory_info().rss,
        descriptors=len(os.listdir(Path("/proc") / str(server.pid) / "fd")) - sum(sessions.values()),
        readers=int(_sum(text, "tailrace_readers")),
        loop_tasks=int(_sum(text, "tailrace_loop_tasks")),
        sessions=sessions,
    )


def _sum(text: str, name: str) -> float:
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))


def leaks(before: Vitals, after: Vitals) -> list[str]:
    """What has not come back to what it was, in words."""
    found = []
    if after.readers > before.readers:
        found.append(f"{after.readers} readers, {before.readers} before")
    if after.loop_tasks > before.loop_tasks:
        found.append(f"{after.loop_tasks} tasks of the event loop, {before.loop_tasks} before")
    if after.descriptors > before.descriptors:
        found.append(f"{after.descriptors} descriptors, {before.descriptors} before")
    for purpose, count in after.sessions.items():
        if count > (POOL if purpose == "reader" else max(1, before.sessions.get(purpose, 0))):
            found.append(f"{count} sessions {purpose!r} of the database, {before.sessions} before")
    if after.rss > before.rss + RSS_SLACK:
        found.append(f"{(after.rss - before.rss) / MEGABYTE:.1f} MB more")
    return found


async def settled(look: Callable[[], Awaitable[Vitals]], before: Vitals) -> Vitals:
    """The vitals once nothing is left of what was; raise AssertionError when something stays."""
    last: list[str] = []
    seen = before

    async def is_well() -> bool:
        nonlocal last, seen
        try:
            seen = await look()
        except (OSError, httpx.TransportError, asyncpg.PostgresError) as error:
            last = [f"it does not answer: {error!r}"]
            return False
        last = leaks(before, seen)
        return not last

    try:
        await eventually(is_well, "all is as it was")
    except AssertionError:
        raise AssertionError(f"it leaks: {'; '.join(last)}") from None
    return seen
