"""What is written down of each launch, so that the next start of the service finds what a killed one has left."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from services.previews.supervisor import proc
from services.previews.supervisor.proc import Process

DIRECTORY = "launches"


class Who(Struct, frozen=True):
    """A process: its number, and when it began, in clock ticks since the boot."""

    pid: int
    start: int

    def is_running(self) -> bool:
        return proc.is_running(self.pid, self.start)


class Record(Struct, frozen=True, kw_only=True):
    preview_id: str
    attempt: int
    marker: str  # in the environment of every process of this launch, unless it has taken it out
    boot: str
    owner: Who
    supervisor: Who | None = None
    program: Who | None = None
    uid: int | None = None
    directory: str
    socket: str
    scratch: str
    tree: str = ""

    def files(self) -> list[str]:
        """All that a launch puts on the disk but for the program's directory and this record."""
        return [
            self.socket,
            f"{self.socket}.new",
            self.scratch,
            *([self.tree, f"{self.tree}.new"] if self.tree else []),
        ]


class Records:
    """One file for each preview that has been launched and not been put away since."""

    def __init__(self, data_directory: Path) -> None:
        self.directory = data_directory / DIRECTORY

    def open(self) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory.chmod(0o700)

    def path(self, preview_id: str) -> Path:
        return self.directory / f"{preview_id}.json"

    def write(self, record: Record) -> None:
        """Replace the preview's record. It is on the disk before any process is: a power failure ends those too."""
        new = self.directory / f".{record.preview_id}-{secrets.token_hex(4)}"
        new.write_bytes(msgspec.json.encode(record))
        os.replace(new, self.path(record.preview_id))

    def remove(self, preview_id: str) -> None:
        self.path(preview_id).unlink(missing_ok=True)

    def of(self, preview_id: str) -> Record | None:
        return next((record for record in self.all() if record.preview_id == preview_id), None)

    def all(self) -> list[Record]:
        found = []
        with suppress(FileNotFoundError):
            for path in sorted(self.directory.glob("*.json")):
                with suppress(OSError, msgspec.DecodeError):
                    found.append(msgspec.json.decode(path.read_bytes(), type=Record))
        return found


def this_process() -> Who:
    process = proc.read(os.getpid())
    assert process is not None
    return Who(process.pid, process.start)


def processes_of(record: Record) -> list[Process]:
    """The living processes that are verifiably of this launch, but for its supervisor.

    A number alone proves nothing: it must be the recorded process by its start as well, or have the launch's marker
    in its environment, or its own user, or have been seen by the supervisor below itself.
    """
    if record.boot != proc.boot():
        return []
    known = {(who.pid, who.start) for who in (record.program,) if who is not None}
    with suppress(OSError, msgspec.DecodeError):
        known |= set(msgspec.json.decode(Path(record.tree).read_bytes(), type=list[tuple[int, int]]))
    return [
        process
        for process in proc.everything()
        if not process.is_zombie
        and (record.supervisor is None or process.pid != record.supervisor.pid)
        and process.pid != os.getpid()
        and (
            (process.pid, process.start) in known
            or (record.uid is not None and record.uid in proc.users(process.pid))
            or proc.has_marker(process.pid, record.marker)
        )
    ]
