"""Letting a program's own user reach what lies below directories that are closed to it, such as /root.

Root may give the program's process a mount namespace of its own. In it the closed directory is an empty one, open
to all, and only what the program needs is mounted there, at its own path. Nothing changes for anybody else.
"""

import ctypes
import os
import stat

CLONE_NEWNS = 0x00020000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MS_NOSUID, MS_NODEV = 0x2, 0x4


def closed_above(path: str) -> str | None:
    """The first directory on the way to `path` that a stranger may not pass. What is not there closes nothing."""
    place = "/"
    for name in path.strip("/").split("/"):
        try:
            mode = os.stat(place).st_mode
        except FileNotFoundError:
            return None
        if not mode & stat.S_IXOTH:
            return place
        place = os.path.join(place, name)
    return None


def reveal(paths: list[str]) -> None:
    """Make these paths reachable in a mount namespace that is ours from now on. Raise OSError."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(what: str, *arguments: object) -> None:
        if getattr(libc, what)(*arguments) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{what}: {os.strerror(number)}")

    def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
        call("mount", source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())

    os.umask(0o022)
    call("unshare", CLONE_NEWNS)
    mount("none", "/", "none", MS_REC | MS_PRIVATE)
    held = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in paths}
    for path in sorted(paths):  # what lies above comes first
        while (closed := closed_above(path)) is not None:
            mount("none", closed, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=64k")
            os.makedirs(path, mode=0o755, exist_ok=True)
        if not _is_same(path, held[path]):
            os.makedirs(path, mode=0o755, exist_ok=True)
            mount(f"/proc/self/fd/{held[path]}", path, "none", MS_BIND | MS_REC)


def _is_same(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
