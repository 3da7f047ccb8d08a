"""Measuring and removing directories that somebody hostile has filled: deep, wide, linked, closed to their owner."""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from itertools import count

NAME_BYTES = 512  # what each name is charged: a million empty files fill a disk too
DEEPEST = 100
SLICE = 1_000  # names between two yields

SHARED = ("/tmp", "/var/tmp", "/dev/shm", "/run/lock")  # where every user may leave something

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def measure(paths: list[str], bound: int) -> Iterator[int | None]:
    """Add up what the directories and files take, in bytes on disk: yields None now and then, and the sum last.

    It ends early beyond `bound`. What cannot be counted counts as beyond: directories nested more than 100 deep, or
    deeper than a path is long, or closed to us by their owner. A file with several names counts as often.
    """
    total = seen = 0
    waiting = [(path, 0) for path in paths]
    while waiting and total <= bound:
        place, depth = waiting.pop()
        try:
            entries = list(os.scandir(place))
        except NotADirectoryError:  # one of `paths` may be a file
            with suppress(FileNotFoundError):
                total += NAME_BYTES + os.lstat(place).st_blocks * 512
            continue
        except FileNotFoundError:  # gone meanwhile
            continue
        except OSError:
            entries, depth = [], DEEPEST + 1
        if depth > DEEPEST:
            total = bound + 1
        for entry in entries:
            total += NAME_BYTES + _blocks(entry, bound)
            if entry.is_dir(follow_symlinks=False):
                waiting.append((entry.path, depth + 1))
            seen += 1
            if seen % SLICE == 0:
                yield None
    yield total


def _blocks(entry: "os.DirEntry[str]", otherwise: int) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_blocks * 512
    except FileNotFoundError:
        return 0
    except OSError:  # its path is too long, or its directory closed
        return otherwise


def remove(path: str) -> None:
    """Remove a file, a link or a directory with all that is in it, however deep. What is not there is removed.

    Nobody may be writing there any more. Depth is no matter: directories inside directories are moved up to the
    first level before they are emptied, so that there is neither recursion nor a long path nor a third descriptor.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode):
        os.unlink(path)
        return
    os.chmod(path, 0o700)
    top = os.open(path, OPEN_DIRECTORY)
    try:
        fresh = (f"{os.urandom(8).hex()}-{number}" for number in count())
        while names := os.listdir(top):
            for name in names:
                _remove_in(top, name, fresh)
    finally:
        os.close(top)
    os.rmdir(path)


def _remove_in(top: int, name: str, fresh: Iterator[str]) -> None:
    """Empty and remove one entry of `top`; the directories in it become entries of `top`, with fresh names."""
    if not stat.S_ISDIR(os.lstat(name, dir_fd=top).st_mode):
        os.unlink(name, dir_fd=top)
        return
    os.chmod(name, 0o700, dir_fd=top)
    inner = os.open(name, OPEN_DIRECTORY, dir_fd=top)
    try:
        for below in os.listdir(inner):
            if stat.S_ISDIR(os.lstat(below, dir_fd=inner).st_mode):
                os.chmod(below, 0o700, dir_fd=inner)  # one that may not be written cannot be moved either
                os.rename(below, next(fresh), src_dir_fd=inner, dst_dir_fd=top)
            else:
                os.unlink(below, dir_fd=inner)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=top)


def strays(uid: int | None) -> list[str]:
    """What a user of a program's own has put where all may: nobody else will remove it."""
    found: list[str] = []
    for place in SHARED if uid is not None else ():
        with suppress(OSError), os.scandir(place) as entries:
            for entry in entries:
                with suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_uid == uid:
                        found.append(entry.path)
    return found


def give(path: str, uid: int, gid: int, givers: tuple[int, ...]) -> None:
    """Make `path` and what is in it this user's, as far as it belongs to one of `givers`; follow no link.

    A file with several names stays as it is: a program may have given one of its own names to a file that is not
    its own, where the system lets it (`fs.protected_hardlinks`).
    """
    for place, directories, names, descriptor in os.fwalk(path, follow_symlinks=False):
        if os.fstat(descriptor).st_uid in givers:
            os.fchown(descriptor, uid, gid)
        for name in (*names, *(name for name in directories if os.path.islink(os.path.join(place, name)))):
            found = os.lstat(name, dir_fd=descriptor)
            if found.st_uid in givers and found.st_nlink == 1:
                os.chown(name, uid, gid, dir_fd=descriptor, follow_symlinks=False)
