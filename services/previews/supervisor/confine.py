"""What a process does to itself before it becomes the program: limits, another user, no way back, clean descriptors.

A module for the supervisor, which calls `become` in the child it has forked; and a script, which bubblewrap
runs inside the sandbox. It therefore imports nothing of ours.
"""

import ctypes
import fcntl
import json
import os
import resource
import signal
import sys
from contextlib import suppress
from typing import Any, NoReturn

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2

LISTENER = 3  # where systemd's protocol for inherited sockets has the first of them
ASIDE = 20  # beyond all that are arranged
BEYOND_ALL = 1 << 20
GOING = b"."  # written before the exec; anything after it says why that failed

CAPABILITIES = 64  # more than there are
LOWER_PRIORITY = 5
KILL_ME_FIRST = 600  # of 1,000: when the machine runs out of memory, a preview goes before the service


def prctl(option: int, argument: int) -> bool:
    """Whether the kernel agreed."""
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    return bool(libc.prctl(ctypes.c_int(option), ctypes.c_ulong(argument), zero, zero, zero) == 0)


def become(how: dict[str, Any], listener: int, status: int) -> NoReturn:
    """Become the program that `how` describes. `status` is closed by the exec, or told why there was none."""
    try:
        _confine(how)
        status = arrange([listener, status])[1]
        os.set_inheritable(status, False)
        os.write(status, GOING)
        environment = {**how["environment"], "LISTEN_PID": str(os.getpid())}
        if how["seccomp"]:
            _filter_system_calls(bytes.fromhex(how["seccomp"]))
        os.execvpe(how["arguments"][0], how["arguments"], environment)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the owner is told, and this process ends
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        with suppress(OSError):
            os.write(status, (reason if isinstance(error, OSError) else f"{type(error).__name__}: {reason}").encode())
    os._exit(127)


def arrange(descriptors: list[int]) -> range:
    """Make these the descriptors from 3 on, in this order, and close all others beyond 2."""
    aside = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, ASIDE) for descriptor in descriptors]
    numbers = range(LISTENER, LISTENER + len(aside))
    for descriptor, number in zip(aside, numbers, strict=True):
        os.dup2(descriptor, number, inheritable=True)
    os.closerange(numbers.stop, BEYOND_ALL)
    return numbers


def _confine(how: dict[str, Any]) -> None:
    if how["new_session"]:
        os.setsid()
    for number in signal.valid_signals():
        with suppress(OSError, ValueError):  # two of them belong to nobody but the kernel
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # a container may forbid it
        file.write(str(KILL_ME_FIRST))
    os.nice(LOWER_PRIORITY)
    for name, bound in how["limits"].items():
        _limit(getattr(resource, name), bound)
    for capability in range(CAPABILITIES):
        prctl(PR_CAPBSET_DROP, capability)  # refused to who is not root, and then there is nothing to drop
    if how["uid"] is not None:
        os.setgroups([])
        os.setresgid(how["uid"], how["uid"], how["uid"])
        os.setresuid(how["uid"], how["uid"], how["uid"])
    if how["parent"] is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # after setuid, which forgets it
        if os.getppid() != how["parent"]:
            os._exit(127)
    if not prctl(PR_SET_NO_NEW_PRIVS, 1):
        raise OSError("this kernel knows no no_new_privs")
    os.umask(0o022)
    os.chdir(how["directory"])


def _limit(what: int, bound: int) -> None:
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY and (bound > hard or bound == resource.RLIM_INFINITY):
        bound = hard  # the service's own limit is lower already
    resource.setrlimit(what, (bound, bound))


def _filter_system_calls(program: bytes) -> None:
    """Load a seccomp filter: `program` is an array of BPF instructions of eight bytes."""
    buffer = ctypes.create_string_buffer(program, len(program))

    class Filter(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))

    described = Filter(len(program) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    mode = ctypes.c_ulong(SECCOMP_MODE_FILTER)
    if libc.prctl(ctypes.c_int(PR_SET_SECCOMP), mode, ctypes.byref(described), zero, zero) != 0:
        raise OSError(ctypes.get_errno(), "the filter of system calls was refused")


def main() -> NoReturn:
    """Inside the sandbox: the descriptors of the listener, of the description and of the status are the arguments."""
    listener, described, status = (int(argument) for argument in sys.argv[1:4])
    with open(described, "rb") as file:
        how = json.load(file)
    become(how, listener, status)


if __name__ == "__main__":
    main()
