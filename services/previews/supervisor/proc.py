"""What /proc says of processes."""

import os
import re
from contextlib import suppress
from typing import NamedTuple

MARKER = "TAILRACE_PREVIEW"
PAGE = os.sysconf("SC_PAGE_SIZE")


class Process(NamedTuple):
    """One process. Its number is another's once it is gone; number and start together are not."""

    pid: int
    parent: int
    session: int
    start: int  # clock ticks since boot, field 22 of stat
    is_zombie: bool


def read(pid: int) -> Process | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except OSError:
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()  # the name before it may hold anything, parentheses too
    return Process(pid, int(fields[1]), int(fields[3]), int(fields[19]), fields[0] in (b"Z", b"X"))


def everything() -> list[Process]:
    return [process for name in os.listdir("/proc") if name.isdigit() and (process := read(int(name)))]


def descendants(pid: int) -> list[Process]:
    """All living processes below `pid`, zombies excepted."""
    children: dict[int, list[Process]] = {}
    for process in everything():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    below = [pid]
    while below:
        of_one = children.get(below.pop(), [])
        found += [process for process in of_one if not process.is_zombie]
        below += [process.pid for process in of_one]
    return found


def is_running(pid: int, start: int) -> bool:
    process = read(pid)
    return process is not None and process.start == start and not process.is_zombie


def of_user(uid: int) -> list[Process]:
    """The living processes with this real, effective or saved user. (The owner of /proc/<pid> may be root's.)"""
    return [process for process in everything() if not process.is_zombie and uid in users(process.pid)]


def users(pid: int) -> tuple[int, ...]:
    with suppress(OSError), open(f"/proc/{pid}/status", "rb") as file:
        for line in file:
            if line.startswith(b"Uid:"):
                return tuple(int(number) for number in line.split()[1:4])
    return ()


def has_marker(pid: int, marker: str) -> bool:
    """Whether it was started with this marker in its environment. One that we may not look into was not."""
    with suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
        return f"{MARKER}={marker}".encode() in file.read().split(b"\0")
    return False


def resident_bytes(pid: int) -> int:
    with suppress(OSError, IndexError, ValueError), open(f"/proc/{pid}/statm", "rb") as file:
        return int(file.read().split()[1]) * PAGE
    return 0


def proportional_bytes(pid: int) -> int:
    """What it uses, with what it shares divided among those who share it; dear, for the kernel walks its pages."""
    with suppress(OSError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:
        for line in file:
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    return resident_bytes(pid)


def unlinked_bytes(pid: int, at_most: int) -> int:
    """What lies in files that it holds open and that have no name: deleted ones, and memory called a file."""
    total = 0
    with suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd")[:at_most]:
            with suppress(OSError):
                found = os.stat(f"/proc/{pid}/fd/{name}")
                if found.st_nlink == 0:
                    total += found.st_blocks * 512
    return total


def out_of_memory_kills() -> int:
    with suppress(OSError), open("/proc/vmstat", "rb") as file:
        found = re.search(rb"^oom_kill (\d+)$", file.read(), re.MULTILINE)
        return int(found[1]) if found else 0
    return 0


def boot() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
