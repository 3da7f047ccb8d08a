"""The life of PostgreSQL's processes: starting, ending, and finding those that an earlier owner left behind."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil

from shared.channel.embedded.places import INSTEAD, SOCKET, EmbeddedPostgresError, Place

# Nothing of ours: PGPORT and PGDATA would change what postgres does, and our secrets do not belong there.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}

ORPHAN_SECONDS = 1.0  # backends of a killed postmaster end by themselves, unless they are busy


def spawn(program: Path, options: list[str], user: tuple[int, int] | None, log: Path) -> subprocess.Popen[bytes]:
    uid, gid = user or (None, None)
    with log.open("ab") as file:
        return subprocess.Popen(
            [str(program), *options],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd="/",
            env=ENVIRONMENT,
            user=uid,
            group=gid,
            extra_groups=None if user is None else [],
            umask=0o077,
            start_new_session=True,
        )


def end_of(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join([f"Mend what its log says, or {INSTEAD}. The end of {log}:", *lines[-8:]])


def end(process: subprocess.Popen[bytes] | psutil.Process) -> None:
    """End a postmaster: fast shutdown, then the immediate one, which loses nothing either, then by force."""
    for number, patience in ((signal.SIGINT, 3), (signal.SIGQUIT, 6), (signal.SIGKILL, 6)):
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if has_ended(process):
                return
            time.sleep(0.02)


def has_ended(process: subprocess.Popen[bytes] | psutil.Process) -> bool:
    """Whether it runs no more. A zombie does not, but keeps its number where nobody reaps (containers)."""
    if isinstance(process, subprocess.Popen):
        return process.poll() is not None
    try:
        return not process.is_running() or not process.cmdline()
    except psutil.NoSuchProcess:  # so says psutil of a zombie too
        return True


def end_leftovers(place: Place) -> None:
    """End the server that a killed process of ours has left, or wait for the backends of a killed server.

    PostgreSQL does not start beside either, and rightly so.
    """
    postmaster = recorded(place)[:1]
    for process in processes(place):
        if [str(process.pid)] == postmaster:
            end(process)
    patience = time.monotonic() + ORPHAN_SECONDS
    while orphans := processes(place):
        if time.monotonic() > patience + ORPHAN_SECONDS:
            numbers = ", ".join(str(process.pid) for process in orphans)
            raise EmbeddedPostgresError(f"Processes of a killed PostgreSQL do not end: {numbers}. End them.")
        if time.monotonic() > patience:
            for process in orphans:
                with suppress(psutil.NoSuchProcess):
                    process.kill()  # what it has not committed was lost with its postmaster
        time.sleep(0.02)


def processes(place: Place) -> list[psutil.Process]:
    """The living processes that are verifiably a postgres of this cluster.

    Each has the `cluster_name` in its title. (Its working directory would tell too, but in a container even
    root may not look at that of another user's process.)
    """
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name() == "postgres" and any(place.tag in word for word in process.cmdline()):
                found.append(process)
    return found


def recorded(place: Place) -> list[str]:
    """The lines of postmaster.pid: number, directory, start, port, socket, host, memory, state."""
    with suppress(FileNotFoundError):
        return (place.data / "postmaster.pid").read_text(errors="replace").splitlines()
    return []


def is_ready(place: Place, pid: int) -> bool:
    lines = recorded(place)
    return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"


def remove_stale_files(place: Place) -> None:
    """Remove what claims that a server runs: once its number is another's, PostgreSQL would believe it."""
    for number in recorded(place)[:1]:
        with suppress(psutil.NoSuchProcess, ValueError):  # after a power failure it may hold anything
            process = psutil.Process(int(number))
            if process.name() == "postgres" and not has_ended(process):
                return  # one we know nothing of: PostgreSQL itself must judge
    (place.data / "postmaster.pid").unlink(missing_ok=True)
    for name in (SOCKET, f"{SOCKET}.lock"):
        (place.sockets / name).unlink(missing_ok=True)
