"""Which machine, and which data directory on it, has a program: only its own service can speak for it."""

import os
import secrets
import stat
import tempfile
from pathlib import Path

from services.previews.launch.spec import SOCKET_PATH_BYTES

_LONGEST = Path("run", "prv-01jzzzzzzzzzzzzzzzzzzzzzzz", "http.sock")


def host_of(directory: Path) -> str:
    """The name of this data directory, made at the first call and kept in it."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = directory / "host"
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as new:
            new.write(secrets.token_hex(8))
    except FileExistsError:
        pass
    return file.read_text("ascii").strip()


def sockets_of(directory: Path, host: str) -> Path:
    """Where programs' sockets are: in the data directory, or, where its path is too long for a socket's, in the
    system's directory for temporary files. Raise OSError when somebody else has put something there.
    """
    if len(bytes(directory / _LONGEST)) <= SOCKET_PATH_BYTES:
        sockets = directory / _LONGEST.parts[0]
    else:
        sockets = Path(tempfile.gettempdir()) / f"tailrace-{host}"
    sockets.mkdir(exist_ok=True)
    found = sockets.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise FileExistsError(f"{sockets} is somebody else's: remove it, or use a data directory with a shorter path")
    sockets.chmod(0o711)
    return sockets
