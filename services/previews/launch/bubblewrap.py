"""The tier `bubblewrap`: namespaces of the program's own, and of the machine's files only what it needs to run.

Unprivileged, bubblewrap makes a user namespace, and the program is user 1000 there. Started by root it needs none,
so that it works where user namespaces are forbidden; the program then has a user of its own besides, as in the tier
`uid`, which it becomes inside the sandbox.
"""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from services.previews.launch.spec import LaunchFailed
from services.previews.supervisor import confine

USER = 1000
APP = "/app"
SCRATCH = "/tmp"
SCRIPT = "/run/confine.py"
SHARED_MEMORY_BYTES = 64 * 1024 * 1024

SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
ETC = (
    "alternatives",
    "ca-certificates",
    "crypto-policies",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "nsswitch.conf",
    "pki/tls",
    "pki/ca-trust",
    "ssl/cert.pem",
    "ssl/certs",
    "ssl/openssl.cnf",
)
ETC_OF_THE_NETWORK = ("gai.conf", "hosts", "protocols", "resolv.conf", "services")
CAPABILITIES = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP")  # to become the user, and to give them up


def is_installed() -> bool:
    return _found() is not None


def program() -> str:
    """Where bubblewrap is. Raise LaunchFailed."""
    found = _found()
    if found is None:
        raise LaunchFailed("There is no bwrap on this machine: install bubblewrap.")
    return found


def _found() -> str | None:
    return shutil.which("bwrap", path=f"{os.environ.get('PATH', os.defpath)}:{os.defpath}")


@cache
def _options() -> str:
    return subprocess.run([program(), "--help"], capture_output=True, text=True, check=False, timeout=10).stdout


def command() -> list[str]:
    """What is seen in the process list; the arguments come from descriptor 6."""
    script = [sys.executable, "-I", "-S", SCRIPT, "3", "4", "5"]
    return [program(), "--args", "6", "--", *script]


def files(uid: int | None) -> list[str]:
    """The contents of descriptors 8, 9 and 10: passwd, group and hosts."""
    number = USER if uid is None else uid
    return [
        f"preview:x:{number}:{number}:preview:{APP}:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        f"preview:x:{number}:\nnogroup:x:65534:\n",
        "127.0.0.1 localhost preview\n::1 localhost preview\n",
    ]


def arguments(places: tuple[str, str], needs: list[str], uid: int | None, *, network: bool) -> list[str]:
    """`places` are the program's directory and its scratch directory."""
    directory, scratch = places
    return [
        *_namespaces(uid, network=network),
        *("--info-fd", "7"),
        *_system(network=network),
        *("--perms", "0644", "--ro-bind-data", "8", "/etc/passwd"),
        *("--perms", "0644", "--ro-bind-data", "9", "/etc/group"),
        *("--proc", "/proc", "--dev", "/dev"),
        *("--perms", "1777", "--size", str(SHARED_MEMORY_BYTES), "--tmpfs", "/dev/shm"),
        *("--perms", "0755", "--dir", "/run", "--perms", "0755", "--dir", "/var"),
        *("--bind", scratch, SCRATCH, "--symlink", SCRATCH, "/var/tmp"),
        *_needed(needs),
        *("--ro-bind", confine.__file__, SCRIPT),
        *("--bind", directory, APP),
        # In a user namespace these are the program's own, to fill with memory that no limit counts.
        *("--remount-ro", "/dev", "--remount-ro", "/"),
    ]


def _namespaces(uid: int | None, *, network: bool) -> list[str]:
    chosen = ["--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try", "--hostname", "preview"]
    chosen += ["--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    if not network:
        chosen += ["--unshare-net"]
    if uid is not None:
        # Python below the scratch directory, which is the program's user's alone: to pass it, until that user we are.
        passing = ("CAP_DAC_READ_SEARCH",) if sys.executable.startswith(f"{SCRATCH}/") else ()
        return [*chosen, *(word for name in (*CAPABILITIES, *passing) for word in ("--cap-add", name))]
    chosen += ["--unshare-user", "--uid", str(USER), "--gid", str(USER)]
    return [*chosen, *(["--disable-userns"] if "--disable-userns" in _options() else [])]


def _system(*, network: bool) -> list[str]:
    chosen = ["--ro-bind", "/usr", "/usr", "--perms", "0755", "--dir", "/etc"]
    for place in SYSTEM:
        if os.path.islink(place):
            chosen += ["--symlink", os.readlink(place), place]
        elif os.path.isdir(place):
            chosen += ["--ro-bind", place, place]
    for name in (*ETC, *(ETC_OF_THE_NETWORK if network else ())):
        chosen += [*_ancestors(f"/etc/{name}"), "--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    if not network:
        chosen += ["--perms", "0644", "--ro-bind-data", "10", "/etc/hosts"]
    return chosen


def _needed(needs: list[str]) -> list[str]:
    chosen: list[str] = []
    for place in sorted(needs):  # what lies above comes first
        if not place.startswith(("/usr/", *(f"{system}/" for system in SYSTEM))) and place != "/usr":
            chosen += [*_ancestors(place), "--ro-bind", place, place]
    return chosen


def _ancestors(place: str) -> list[str]:
    """bubblewrap makes missing directories for itself alone, and the program's user is another."""
    above = [str(path) for path in reversed(Path(place).parents) if str(path) not in ("/", SCRATCH)]
    return [word for path in above for word in ("--perms", "0755", "--dir", path)]
