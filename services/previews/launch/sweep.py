"""Ending what a killed service, or a killed supervisor, has left: processes, sockets, directories."""

import asyncio
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path

from services.previews.launch.records import Record, Records, Who, processes_of
from services.previews.supervisor import ending, proc
from services.previews.supervisor.files import remove, strays

log = logging.getLogger("tailrace.previews")

SUPERVISOR_SECONDS = 5.0  # a supervisor whose service is dead does this work itself
PAUSE_SECONDS = 0.02


def python_with_supervisor(code: str) -> list[str]:
    """The command for a Python that has the standard library and the supervisor's modules, and no more."""
    root = str(Path(__file__).resolve().parents[3])
    return [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({root!r}); {code}"]


async def sweep(data_directory: Path) -> list[str]:
    """End everything of launches whose service is dead, and remove their files. The ids of their previews.

    To be called before the first launch. Launches of a service that lives are left alone, one's own as well.
    """
    return await asyncio.to_thread(_sweep, Records(data_directory))


def _sweep(records: Records) -> list[str]:
    swept = []
    for record in records.all():
        if record.boot == proc.boot() and record.owner.is_running():
            continue
        if end_launch(record, SUPERVISOR_SECONDS):
            remove(record.directory)
            records.remove(record.preview_id)
        swept.append(record.preview_id)
    return swept


def end_launch(record: Record, supervisor_seconds: float) -> bool:
    """End all processes of a launch, its supervisor too, and remove its socket and scratch. Whether none is left."""
    if record.boot == proc.boot() and record.supervisor is not None:
        _end_supervisor(record.supervisor, supervisor_seconds)
    found = processes_of(record)
    if found:
        log.warning("a program had lost its supervisor", extra={"preview": record.preview_id, "left": len(found)})
    if record.uid is not None and found:
        _end_user(record.uid)
    nothing_left = ending.end_tree(lambda: processes_of(record), lambda: not processes_of(record))
    if nothing_left:
        for path in [*record.files(), *strays(record.uid)]:
            remove(path)
    else:
        log.error("processes of a preview do not end", extra={"preview": record.preview_id})
    return nothing_left


def _end_user(uid: int) -> None:
    """It forks, which a process with threads should not: let another do it."""
    call = f"from services.previews.supervisor.ending import end_user; end_user({uid})"
    subprocess.run(python_with_supervisor(call), check=False, cwd="/", env={}, timeout=2 * ending.PATIENCE_SECONDS)


def _end_supervisor(supervisor: Who, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while supervisor.is_running() and time.monotonic() < deadline:
        time.sleep(PAUSE_SECONDS)
    process = proc.read(supervisor.pid)
    if process is not None and process.start == supervisor.start:
        ending.send(process, signal.SIGKILL)
        while supervisor.is_running() and time.monotonic() < deadline + 1:
            time.sleep(PAUSE_SECONDS)
