"""The machine itself: a disk that is full, and a clock that jumps."""

import errno
import os
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.faults.trial import Trial, trial
from tests.support.postgres import OwnPostgres
from tests.support.readers import Load, eventually, log_of, seeded

DISK = "192m"
SMALL_WAL = {"min_wal_size": "32MB", "max_wal_size": "48MB"}


@pytest.fixture
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of its own, which is soon full. Only root can make one."""
    directory = tmp_path_factory.mktemp("disk")
    for parent in (directory, *directory.parents[:2]):
        parent.chmod(0o755)  # root's PostgreSQL runs as another user
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=755", "tailrace-test", directory],
        check=False,
        capture_output=True,
        text=True,
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small disk cannot be made here, which root may do with mount: {mounted.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


def fill(path: Path) -> None:
    """Write until there is no room left."""
    block = b"\0" * 65_536
    with path.open("wb", buffering=0) as file:
        while block:
            try:
                file.write(block)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                block = block[: len(block) // 2]


async def test_a_full_disk_refuses_what_is_published_and_nothing_else(
    small_disk: Path, own_postgres: OwnPostgres
) -> None:
    chance = seeded("full disk")

    async def fill_the_disk(tried: Trial, load: Load) -> None:
        ballast = small_disk / "ballast"
        refused = load.answers["503"]
        fill(ballast)
        await eventually(lambda: load.answers["503"] > refused + 3, "publishing is refused")
        os.remove(ballast)

    async with trial(own_postgres, small_disk / "postgres", chance, database=SMALL_WAL) as tried:
        load = await tried.withstand(fill_the_disk)
    assert load.answers.keys() == {"200", "503"}


async def test_a_clock_that_jumps_changes_what_events_say_of_the_time_and_nothing_else(
    own_postgres: OwnPostgres, postgres_directory: Path, faketime_path: Path, tmp_path: Path
) -> None:
    chance = seeded("clock")
    clock = tmp_path / "clock"
    clock.write_text("+0d")
    environment = {
        "LD_PRELOAD": str(faketime_path),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # which jumps on no machine
        "DONT_FAKE_MONOTONIC": "1",
    }

    async def jump(tried: Trial, load: Load) -> None:
        for jump in ("+3d", "-10d", "+0d"):
            clock.write_text(jump)
            await load.progress(20)

    directory = postgres_directory / f"fault-{chance.randrange(2**32)}"
    async with trial(own_postgres, directory, chance, environment=environment) as tried:
        load = await tried.withstand(jump)
        times = [datetime.fromisoformat(each.event["ts"]) for each in await log_of(tried.victim.database_url)]
    assert (max(times) - min(times)).days >= 12  # or the clock did not jump
    assert load.answers.keys() == {"200"}
    assert all(reader.faults.keys() <= {"ConnectionClosedError"} for reader in load.readers), load.readers
