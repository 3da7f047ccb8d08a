"""One PostgreSQL over one cluster: the blocking part."""

import fcntl
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

from shared.channel.embedded.places import (
    INSTEAD,
    EmbeddedPostgresError,
    Place,
    check_version,
    copy_programs,
    find_programs,
    find_sockets,
    find_user,
    is_same_file,
    open_to_all,
    opened,
    sync,
)
from shared.channel.embedded.processes import end, end_leftovers, end_of, is_ready, remove_stale_files, spawn

logger = logging.getLogger(__name__)

SETTINGS = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
}

READY_SECONDS = 300.0  # recovery after a crash may take long; interrupted, it would begin anew


class Server:
    """The blocking part. One thread calls `open`, `launch` and `close`; `alive` and `ending` are for any."""

    def __init__(self, directory: Path, settings: dict[str, str], elsewhere: Path) -> None:
        self.ending = threading.Event()
        self._directory = directory
        self._settings = settings
        self._elsewhere = elsewhere
        self._log = directory / "postgres.log"
        self._locks: list[tuple[Path, int]] = []
        self._place: Place | None = None
        self._child: subprocess.Popen[bytes] | None = None

    def open(self) -> str:
        """Lock the data directory, make the cluster if there is none, start it; its URI."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._lock(self._directory / "lock")
            with suppress(FileNotFoundError):
                self._log.replace(self._log.with_suffix(".log.1"))
            self._log.touch(mode=0o600)
            link = self._directory / "cluster"
            user, programs = find_user(link), find_programs()
            if user is not None and not open_to_all(programs / "postgres"):
                programs = copy_programs(programs, self._elsewhere)
            if not link.exists():
                self._make_cluster(link, programs, user)
            data = link.resolve()
            if data.parent != self._directory.resolve():
                self._lock(data.parent / "lock")  # who copies the data directory copies the link
                logger.warning("the embedded PostgreSQL's data lies elsewhere", extra={"path": str(data)})
            check_version(data)
            tag = "tailrace-" + hashlib.sha256(f"{data} {data.stat().st_ino}".encode()).hexdigest()[:16]
            self._place = Place(data, find_sockets(data, tag, user), programs, user, tag)
            self.launch()
        except (OSError, psutil.Error) as error:
            raise EmbeddedPostgresError(
                f"PostgreSQL cannot run in {self._directory}: {error}. See that this user may write there, "
                f"or {INSTEAD}."
            ) from error
        return f"postgresql://postgres@/postgres?host={self._place.sockets}&port=5432"

    def launch(self) -> None:
        """Start `postgres` over the cluster and wait until it takes connections."""
        assert self._place is not None
        if not all(is_same_file(path, descriptor) for path, descriptor in self._locks):
            raise EmbeddedPostgresError(f"{self._directory} was removed while in use: start again.")
        end_leftovers(self._place)
        remove_stale_files(self._place)
        self._child = spawn(self._place.programs / "postgres", self._options(), self._place.user, self._log)
        deadline = time.monotonic() + READY_SECONDS
        while not is_ready(self._place, self._child.pid):
            if self._child.poll() is not None:
                raise EmbeddedPostgresError(f"PostgreSQL did not start. {end_of(self._log)}")
            if self.ending.wait(0.02) or time.monotonic() > deadline:
                end(self._child)
                raise EmbeddedPostgresError(f"PostgreSQL was stopped while it started. {end_of(self._log)}")

    def alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def close(self) -> None:
        """End the server and all that a killed one has left; give the directory free."""
        try:
            if self._child is not None and self._place is not None:
                end(self._child)
                end_leftovers(self._place)
                if self._place.sockets != self._place.data:
                    with suppress(OSError):
                        self._place.sockets.rmdir()
        finally:
            self._child = self._place = None
            while self._locks:
                os.close(self._locks.pop()[1])

    def _options(self) -> list[str]:
        assert self._place is not None
        settings = {
            **self._settings,
            "unix_socket_directories": str(self._place.sockets),
            "cluster_name": self._place.tag,
        }
        return ["-D", str(self._place.data), *(f"--{name}={value}" for name, value in settings.items())]

    def _lock(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode().strip()
            os.close(descriptor)
            raise EmbeddedPostgresError(
                f"{path.parent} is in use by process {holder}. Stop that one first, or {INSTEAD}."
            ) from None
        self._locks.append((path, descriptor))
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())

    def _make_cluster(self, link: Path, programs: Path, user: tuple[int, int] | None) -> None:
        """Make a cluster. Whenever we are killed, `link` is whole or not there."""
        home = self._directory.resolve()
        if user is not None and not open_to_all(home):
            home = Path(tempfile.mkdtemp(dir=opened(self._elsewhere), prefix="cluster-"))
            home.chmod(0o755)
            (home / "made-for").write_text(f"{link}\n")
        for unfinished in home.glob("making-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        new = Path(tempfile.mkdtemp(dir=home, prefix="making-"))
        if user is not None:
            os.chown(new, *user)
        options = ["-D", str(new), "--username=postgres", "--auth-local=trust", "--auth-host=reject"]
        options += ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        options += ["--no-instructions", *(["--no-sync"] if self._settings["fsync"] == "off" else [])]
        if spawn(programs / "initdb", options, user, self._log).wait() != 0:
            raise EmbeddedPostgresError(f"PostgreSQL could not make its files. {end_of(self._log)}")
        new.rename(home / "cluster")
        sync(home)
        if home != link.parent.resolve():
            link.symlink_to(home / "cluster")
            sync(link.parent)
