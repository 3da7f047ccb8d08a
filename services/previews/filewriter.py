"""Writes checked files into a preview's directory, and nothing outside it, while the program may be running in it.

The program owns what is in the directory and may change it at any moment. So no path is ever resolved: each component
is opened relative to the directory before it, without following links. A file is written under a name of our own and
renamed, which replaces what has the name and never writes through it (nor through a hard link), so each file is there
whole or not at all. Everything is checked before the first file is written; what changes after that check can make
the writing fail half-way (Obstructed), but not go astray.

What remains: a program may move a directory while we write in it. It can do so only to where it may write itself.

Files have mode 0644, or 0755 when they begin with `#!`; directories 0755. Blocking: call it in a thread.
"""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from msgspec import Struct

from services.previews.filemap import (
    RESERVED,
    CheckedFiles,
    FileLimits,
    Obstructed,
    check_files,
    check_names,
)

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Written(Struct, frozen=True):
    """What was done, sorted. A name that was to be removed and was not there is in neither."""

    written: list[PurePosixPath]
    removed: list[PurePosixPath]


def write_files(directory: int | Path, files: CheckedFiles) -> Written:
    """Write what check_files gave. `directory` is a path or an open directory. Raise Obstructed, or OSError."""
    return _apply(directory, files, [], None)


def apply_patch(
    directory: int | Path,
    changes: Mapping[str, str | bytes | None],
    limits: FileLimits,
    owner: int | None = None,
) -> Written:
    """Write the files that have text, remove those that have None. Raise FilesRefused, or OSError.

    `owner` is the user, and group, whose all that is written becomes: for root, in the directory of a program.

    The limits are for the changes alone: hold the map that results against `check_files` to bound the whole. Removed is
    the name: a link, never what it points to. Directories stay, also empty.
    """
    removals = check_names((name for name, text in changes.items() if text is None), limits)
    files = check_files({name: text for name, text in changes.items() if text is not None}, limits)
    return _apply(directory, files, sorted(removals.values()), owner)


def _apply(directory: int | Path, files: CheckedFiles, removals: list[PurePosixPath], owner: int | None) -> Written:
    with _root(directory) as root:
        for path in removals:
            _check_removal(root, path)
        for path, _ in files:
            _check_place(root, path, frozenset(removals))
        removed = [path for path in removals if _remove(root, path)]
        for path, content in files:
            _write(root, path, content, owner)
    return Written([path for path, _ in files], removed)


@contextlib.contextmanager
def _root(directory: int | Path) -> Iterator[int]:
    if isinstance(directory, int):
        yield directory
        return
    root = os.open(directory, _DIRECTORY)
    try:
        yield root
    finally:
        os.close(root)


@contextlib.contextmanager
def _parent(root: int, path: PurePosixPath, *, make: bool, owner: int | None = None) -> Iterator[int]:
    """The open directory that `path` is in. With `make` what is missing is made, else FileNotFoundError."""
    current = os.dup(root)
    try:
        for component in path.parts[:-1]:
            inner = _enter(current, component, path, make=make, owner=owner)
            os.close(current)
            current = inner
        yield current
    finally:
        os.close(current)


def _enter(parent: int, component: str, path: PurePosixPath, *, make: bool, owner: int | None) -> int:
    made = False
    if make:
        with contextlib.suppress(FileExistsError):
            os.mkdir(component, 0o755, dir_fd=parent)
            made = True
    try:
        opened = os.open(component, _DIRECTORY, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise Obstructed(
                f"{component!r} of {str(path)!r} is no directory but a link or a file: remove it first"
            ) from None
        raise
    if made:
        with contextlib.suppress(PermissionError):  # another directory was put here in the meantime
            os.fchmod(opened, 0o755)  # whatever the umask
            if owner is not None:
                os.fchown(opened, owner, owner)
    return opened


def _check_place(root: int, path: PurePosixPath, removals: Iterable[PurePosixPath]) -> None:
    """Raise Obstructed unless `path` is free or a plain file, in plain directories, once `removals` are gone."""
    if any(parent in removals for parent in path.parents):
        return
    with contextlib.suppress(FileNotFoundError), _parent(root, path, make=False) as parent:
        mode = os.stat(path.name, dir_fd=parent, follow_symlinks=False).st_mode
        if not stat.S_ISREG(mode):
            raise Obstructed(f"{str(path)!r} is {_kind(mode)}, not a file: remove it or choose another name")


def _check_removal(root: int, path: PurePosixPath) -> None:
    with contextlib.suppress(FileNotFoundError), _parent(root, path, make=False) as parent:
        if stat.S_ISDIR(os.stat(path.name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise Obstructed(f"{str(path)!r} is a directory: name the files in it that are to be removed")


def _remove(root: int, path: PurePosixPath) -> bool:
    try:
        with _parent(root, path, make=False) as parent:
            os.unlink(path.name, dir_fd=parent)
    except FileNotFoundError:
        return False
    except IsADirectoryError:
        raise Obstructed(f"{str(path)!r} has become a directory: name the files in it that are to be removed") from None
    return True


def _write(root: int, path: PurePosixPath, content: bytes, owner: int | None) -> None:
    try:
        with _parent(root, path, make=True, owner=owner) as parent:
            _replace(parent, path.name, content, owner)
    except IsADirectoryError:
        raise Obstructed(f"{str(path)!r} is a directory: choose another name") from None
    except FileNotFoundError:
        raise Obstructed(f"{str(path)!r} was removed while it was written: send the files again") from None


def _replace(parent: int, name: str, content: bytes, owner: int | None) -> None:
    temporary = f"{RESERVED}-{secrets.token_hex(8)}"
    file = os.open(temporary, _NEW_FILE, 0o600, dir_fd=parent)
    try:
        _write_all(file, content)
        if owner is not None:
            os.fchown(file, owner, owner)
        os.fchmod(file, 0o755 if content.startswith(b"#!") else 0o644)
        os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=parent)
        raise
    finally:
        os.close(file)


def _write_all(file: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(file, left) :]


def _kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "a link"
    return "a directory" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
