"""Users without a name or a password, one for each program that is running, where root launches.

Which are taken is told by locks, of all Tailrace processes on this machine; the supervisor holds its program's for
as long as it lives. A user that still has a process is not given out either.
"""

import fcntl
import os
import random
import subprocess
from contextlib import suppress
from pathlib import Path

from services.previews.launch.spec import LaunchFailed
from services.previews.supervisor import proc

# Neither people's nor the system's, nor those of containers (/etc/subuid) or of systemd. A container with 65,536
# users has none of them: there it is the upper end of those it has.
RANGES = (range(1_900_000_000, 1_900_010_000), range(62_000, 64_000))
LOCKS = (Path("/run/tailrace/users"), Path("/tmp/tailrace-users"))
ATTEMPTS = 200


class Users:
    """Gives out users from the first range that this machine has."""

    def __init__(self) -> None:
        self._range = next((users for users in RANGES if _exists(users[0])), None)

    def take(self) -> tuple[int, int]:
        """A user whom nobody has, and the descriptor that keeps it until the last copy is closed."""
        if self._range is None:
            raise LaunchFailed("This machine, or the container around this process, has no users to spare.")
        locks = _locks()
        for uid in random.sample(self._range, ATTEMPTS):
            descriptor = os.open(locks / str(uid), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not proc.of_user(uid):
                    return uid, descriptor
            os.close(descriptor)
        raise LaunchFailed("All users for programs are taken: stop some previews.")


def _locks() -> Path:
    for place in LOCKS:
        with suppress(OSError):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = place.lstat()
            if found.st_uid == os.geteuid() and not found.st_mode & 0o022:
                return place
    raise LaunchFailed(f"The locks of the programs' users can be kept neither in {LOCKS[0]} nor in {LOCKS[1]}.")


def _exists(uid: int) -> bool:
    """Whether a process can become this user here."""
    try:
        subprocess.run(["true"], user=uid, group=uid, extra_groups=[], check=True, env={"PATH": os.defpath})
    except (OSError, subprocess.SubprocessError):
        return False
    return True
