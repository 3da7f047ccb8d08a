"""Finding out at start-up which isolation can be had, by launching a program in it."""

import asyncio
import os
import secrets
import sys
from pathlib import Path

from services.previews.launch import bubblewrap
from services.previews.launch.isolation import NAMES, IsolationUnavailable, Tier, TierName, tier
from services.previews.launch.launcher import Launcher
from services.previews.launch.spec import LaunchFailed, LaunchSpec
from services.previews.supervisor.files import remove

TRIAL_SECONDS = 30.0
SECRET_WAS_READ = 3
SAID_CHARACTERS = 300

# It has what a generated program needs (the service's packages, a directory to write to), and tries what it must not.
TRIAL = f"""\
import sys
import msgspec, uvicorn
open("own", "w").close()
try:
    open(sys.argv[1])
except OSError:
    sys.exit(0)
sys.exit({SECRET_WAS_READ})
"""


async def detect(minimum: str | None, data_directory: Path, sockets: Path | None = None) -> Tier:
    """The strongest tier in which a trial program comes up and cannot read a file of the service. `sockets`: where
    those are, if not in the data directory.

    `process` cannot promise the latter. Raise IsolationUnavailable when what works is weaker than `minimum`.
    """
    if minimum is not None and minimum not in NAMES:
        raise IsolationUnavailable(f"There is no isolation called {minimum}. There are: {', '.join(NAMES)}.")
    data_directory = await asyncio.to_thread(data_directory.absolute)
    passed_over: list[str] = []
    for name in NAMES:
        fault = _missing(name) or await _try(name, data_directory, sockets or data_directory)
        if not fault:
            return tier(name, passed_over)
        passed_over.append(f"{name}: {fault}")
        if name == minimum:
            break
    demanded = "No program can be launched here" if minimum in (None, NAMES[-1]) else f"{minimum} cannot be had here"
    raise IsolationUnavailable(f"{demanded}. {' '.join(passed_over)}")


def _missing(name: TierName) -> str:
    if name == "bubblewrap" and not bubblewrap.is_installed():
        return "There is no bwrap on this machine: install bubblewrap."
    if name == "uid" and os.geteuid() != 0:
        return "Only root can give each program a user of its own."
    return ""


async def _try(name: TierName, data_directory: Path, sockets: Path) -> str:
    """What is wrong with this tier here; empty if nothing is."""
    place = data_directory / f"trial-{secrets.token_hex(4)}"
    own_sockets = sockets / place.name
    directory, secret = place / "files", place / "secret"
    said = bytearray()
    try:
        directory.mkdir(parents=True)
        own_sockets.mkdir(mode=0o700, exist_ok=True)
        place.chmod(0o711)
        secret.touch(mode=0o600)
        spec = LaunchSpec(
            preview_id=place.name,
            attempt=1,
            kind="command",
            entry="",
            command=(sys.executable, "-c", TRIAL, str(secret)),
            directory=directory,
            socket=own_sockets / "socket",
        )
        child = await Launcher(name, data_directory).launch(spec, lambda _, data: said.extend(data))
        try:
            async with asyncio.timeout(TRIAL_SECONDS):
                exit_ = await child.exited()
        finally:
            await child.stop(0)
    except (LaunchFailed, OSError, TimeoutError) as error:
        return f"A trial program did not start in it: {str(error) or 'it took too long'} {_end_of(said)}".strip()
    finally:
        for each in {place, own_sockets}:
            await asyncio.to_thread(remove, str(each))
    if exit_.code == 0 or (exit_.code == SECRET_WAS_READ and name == "process"):
        return ""
    if exit_.code == SECRET_WAS_READ:
        return "A trial program in it could read a file that is the service's."
    return f"A trial program failed in it ({exit_.code}, {exit_.signal}): {_end_of(said)}"


def _end_of(said: bytearray) -> str:
    return said.decode(errors="replace").strip()[-SAID_CHARACTERS:]
