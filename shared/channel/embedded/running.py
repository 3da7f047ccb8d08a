"""The embedded PostgreSQL of another process, for a command that has a word for it while it runs."""

import socket
from pathlib import Path

from shared.channel.embedded.places import SOCKET

_SOCKETS, _STATUS = 4, 7  # lines of postmaster.pid, from 0 (PostgreSQL's miscadmin.h)


def running_uri(directory: Path) -> str | None:
    """The URI of the server that runs over a data directory now; None: none does, or it is out of our reach."""
    try:
        lines = ((directory / "cluster").resolve() / "postmaster.pid").read_text().splitlines()
    except (OSError, UnicodeError):
        return None
    if len(lines) <= _STATUS or lines[_STATUS].strip() != "ready":
        return None
    with socket.socket(socket.AF_UNIX) as probe:  # the file outlives a server that was killed
        try:
            probe.connect(f"{lines[_SOCKETS]}/{SOCKET}")
        except OSError:
            return None
    return f"postgresql://postgres@/postgres?host={lines[_SOCKETS]}&port=5432"
