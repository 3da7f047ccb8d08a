"""PostgreSQL is failed over to what a backup had: another epoch, and everybody is told."""

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path

import httpx

from tests.faults.trial import Trial, trial
from tests.support.contract import Frame, head_of
from tests.support.postgres import OwnPostgres
from tests.support.readers import TRANSPORTS, Reader, Stored, Stream, Writer, eventually, log_of, patient_client, seeded
from tests.support.vitals import settled


class Resettable(Reader):
    """A reader that takes a reset for what it is: what came before it is forgotten."""

    resets: int = 0

    def _take(self, frame: Frame) -> None:
        if frame.type == "reset":
            assert frame.event["reason"] == "epoch_changed", frame
            self.resets += 1
            self.seen.clear()
            self.began = self.last_seq = frame.seq
            self.last_id = frame.id
            self._frames += 1
        elif frame.type == "hello" and self.last_id is not None and not frame.event["resumed"]:
            self._frames += 1  # a reset follows, and this id is still the old position
        else:
            super()._take(frame)


async def written(trial: Trial, client: httpx.AsyncClient, name: str, events: int) -> Writer:
    """A finished run; all of it is acknowledged."""
    writer = Writer(client, [trial.url], name, trial.chance)
    await writer.begin()
    await writer.write(lambda writer: writer.acknowledged >= events)
    return writer


async def back_up(trial: Trial, backup: Path) -> None:
    """A copy of the data directory, of a server that was stopped for it."""
    await trial.victim.postgres.stop()
    shutil.copytree((trial.victim.directory / "cluster").resolve(), backup, symlinks=True)
    own(backup, like=(trial.victim.directory / "cluster").resolve())
    assert await trial.victim.postgres.start() == trial.victim.database_url


def own(directory: Path, *, like: Path) -> None:
    """Give the copy to whom the original belongs: root's PostgreSQL runs as another user."""
    for path in [directory, *directory.rglob("*")]:
        status = (like / path.relative_to(directory)).lstat()
        shutil.chown(path, status.st_uid, status.st_gid)


async def fail_over(trial: Trial, backup: Path) -> None:
    """The copy takes the place of the server, at the same address, by recovery: on a timeline of its own."""
    await trial.victim.postgres.stop()
    (backup / "recovery.signal").touch()
    with (backup / "postgresql.auto.conf").open("a") as settings:
        settings.write("restore_command = 'false'\n")
    own(backup, like=backup)
    here = (trial.victim.directory / "cluster").resolve()
    shutil.chown(backup / "recovery.signal", here.stat().st_uid, here.stat().st_gid)
    for path in here.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for path in backup.iterdir():
        path.rename(here / path.name)
    backup.rmdir()
    assert await trial.victim.postgres.start() == trial.victim.database_url


async def test_after_a_failover_everybody_is_reset_and_has_what_the_backup_had(
    own_postgres: OwnPostgres, postgres_directory: Path
) -> None:
    chance = seeded("failover")
    name = f"{chance.randrange(2**32)}"
    async with (
        trial(own_postgres, postgres_directory / f"failover-{name}", chance) as tried,
        patient_client() as client,
    ):
        kept = [await written(tried, client, f"before-{n}", 40) for n in range(2)]
        await back_up(tried, postgres_directory / f"backup-{name}")
        await tried.is_ready()
        before = await settled(tried.vitals, await tried.vitals())
        readers = [
            Resettable(client, [tried.url], Stream(types=types), transport, chance, cut_every=cut_every)
            for types, cut_every in ((None, None), ("status,error", None), (None, 20))
            for transport in TRANSPORTS
        ]
        following, goal = await follow_all(readers)
        await written(tried, client, "lost-with-the-server", 30)
        lost = await log_of(tried.victim.database_url)
        await eventually(
            lambda: all(r.last_seq >= lost[-1].seq - 2 for r in readers), "all have seen what will be lost"
        )
        epoch, _ = await told_head(tried)
        await fail_over(tried, postgres_directory / f"backup-{name}")
        await tried.is_ready()
        kept += [await written(tried, client, f"after-{n}", 40) for n in range(2)]
        log = await log_of(tried.victim.database_url)
        goal.append(log[-1].seq)
        for task in following:
            await task
        check(log, kept, readers)
        assert (await told_head(tried))[0] != epoch
        await client.aclose()
        await settled(tried.vitals, before)


async def follow_all(readers: Sequence[Resettable]) -> "tuple[list[asyncio.Task[None]], list[int]]":
    """Each reads until it has been reset and has reached the goal that is put into the list."""
    goal: list[int] = []

    def is_done(reader: Reader) -> bool:
        return bool(goal) and getattr(reader, "resets", 0) > 0 and reader.last_seq >= goal[0]

    tasks = [asyncio.create_task(reader.follow(is_done)) for reader in readers]
    await eventually(lambda: all(reader.live for reader in readers), "all are live")
    return tasks, goal


async def told_head(trial: Trial) -> tuple[str, int]:
    async with httpx.AsyncClient(base_url=trial.victim.server.url, timeout=60) as client:
        return await head_of(client)


def check(log: Sequence[Stored], kept: Sequence[Writer], readers: Sequence[Resettable]) -> None:
    """What was acknowledged before the backup and after the failover is there, once; and so everybody has seen it."""
    for writer in kept:
        writer.check(log)
    assert {each.run_id for each in log} == {writer.run_id for writer in kept}
    for reader in readers:
        assert reader.resets >= 1, reader
        reader.check(log)
