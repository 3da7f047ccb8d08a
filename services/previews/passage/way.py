"""One way through to a program."""

from pathlib import Path

from msgspec import Struct

from services.previews.passage.headers import Door


class Way(Struct, frozen=True):
    """The socket at which the program answers, the path and query it sees, and the door the caller came through."""

    socket: Path
    target: bytes
    door: Door
