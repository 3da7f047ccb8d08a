"""A real PostgreSQL for tests: one server a session, a database of its own for each test that asks.

- `database_url`: the URI of a fresh database, dropped afterwards.
- `postgres_url`: the session's server; for `fresh_database`, where a test wants more than one, or a template.
- `own_postgres`: makes servers for one test alone, durable like the service's, for tests that kill them.

The session's server does not survive a crash of the machine, for speed: nothing may kill it either.
"""

import asyncio
import itertools
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio

from shared.channel.embedded import EmbeddedPostgres

FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "autovacuum": "off"}

# Ends the servers and removes the files when the session is over, however it ends: the pipe closes with us.
CLEANER = """
cat
find "$0" -name postmaster.pid | while read -r file; do kill -QUIT "$(head -n 1 "$file")"; done
while [ -e "$0" ] && [ "${tries:=0}" -lt 50 ]; do
    rm -rf "$0" && break
    tries=$((tries + 1)); sleep 0.1
done
"""

T = TypeVar("T")
OwnPostgres = Callable[..., EmbeddedPostgres]

_numbers = itertools.count(1)


def run_apart(work: Coroutine[Any, Any, T]) -> T:
    """Run it in a loop of its own in a thread of its own, from anywhere."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


@pytest.fixture(scope="session")
def postgres_directory() -> Iterator[Path]:
    """The data of the session's servers. Every user may enter: root's PostgreSQL runs as another."""
    directory = Path(tempfile.mkdtemp(prefix="tailrace-"))
    directory.chmod(0o755)
    with subprocess.Popen(
        ["/bin/sh", "-c", CLEANER, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ):
        yield directory


@pytest.fixture(scope="session")
def postgres_url(postgres_directory: Path) -> Iterator[str]:
    """The URI of the session's server, in which tests make their databases."""
    # Not supervised: the loop in which the supervisor would run ends with the start.
    server = EmbeddedPostgres(postgres_directory / "session", settings=FAST)
    url = run_apart(server.start())
    try:
        yield url
    finally:
        run_apart(server.stop())


@asynccontextmanager
async def fresh_database(postgres_url: str, *, template: str = "template1") -> AsyncIterator[str]:
    """A database of its own, a copy of `template`; dropped with whoever is still connected."""
    url = await _create(postgres_url, template)
    try:
        yield url
    finally:
        await _drop(postgres_url, url)


@pytest.fixture
def database_url(postgres_url: str) -> Iterator[str]:
    """The URI of a database that only this test has."""
    url = run_apart(_create(postgres_url))
    try:
        yield url
    finally:
        run_apart(_drop(postgres_url, url))


async def _create(postgres_url: str, template: str = "template1") -> str:
    name = f"test_{next(_numbers)}"
    await _execute(postgres_url, f"CREATE DATABASE {name} TEMPLATE {template}")
    return urlsplit(postgres_url)._replace(path=f"/{name}").geturl()


async def _drop(postgres_url: str, url: str) -> None:
    await _execute(postgres_url, f"DROP DATABASE {urlsplit(url).path[1:]} WITH (FORCE)")


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest_asyncio.fixture
async def own_postgres(postgres_directory: Path) -> AsyncIterator[OwnPostgres]:
    """`own_postgres(settings={…})` is an EmbeddedPostgres, not yet started.

    Each call has a new data directory, unless told `directory=`. All are stopped after the test.
    """
    made: list[EmbeddedPostgres] = []

    def make(*, settings: Mapping[str, str] | None = None, directory: Path | None = None) -> EmbeddedPostgres:
        directory = directory or postgres_directory / f"own-{next(_numbers)}"
        made.append(EmbeddedPostgres(directory, settings=settings, elsewhere=postgres_directory / "elsewhere"))
        return made[-1]

    yield make
    for server in made:
        await server.stop()
