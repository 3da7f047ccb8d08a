"""Which machine, and which data directory on it, has a program: only its own service can speak for it."""

import os
import secrets
from pathlib import Path


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
