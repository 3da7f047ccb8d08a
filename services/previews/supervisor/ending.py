"""Ending all there is of a program: its group first, politely, then everything that belongs to it, however it hides.

In a pid namespace all die with its first process. Of a user of their own, one signal reaches all at once. What
remains is a tree: orphans become children of the supervisor, which is their subreaper, wherever they had forked off
to and whatever session they had made; it is done when it has no children any more.
"""

import errno
import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NoReturn

from services.previews.supervisor import proc
from services.previews.supervisor.proc import Process

PATIENCE_SECONDS = 10.0  # for one that sits in the kernel and cannot die
ROUNDS = 20  # of stopping those who fork while we look, before killing what we have
PAUSE_SECONDS = 0.005
FIRST_OF_OURS = 1_000  # no user below is one of a preview's: ending root's processes would end the machine


def send(process: Process, number: int) -> bool:
    """Signal exactly this process, and not one that has got its number since. Whether it was there."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        if not proc.is_running(process.pid, process.start):
            return False
        signal.pidfd_send_signal(descriptor, number)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def terminate_group(group: int) -> None:
    with suppress(OSError):
        os.killpg(group, signal.SIGTERM)


def end_user(uid: int) -> bool:
    """End every process of this user. Whether none is left.

    A signal to -1 reaches all whom the sender may signal before any of them can fork again, so it is sent by a
    child of ours that has become this user and may signal nobody else.
    """
    if uid < FIRST_OF_OURS:
        raise ValueError(f"user {uid} is not one of ours")
    return _repeat(lambda: not proc.of_user(uid), lambda: _kill_all_of(uid))


def _kill_all_of(uid: int) -> None:
    child = os.fork()
    if child == 0:
        _kill_all_as(uid)
    with suppress(ChildProcessError):
        os.waitpid(child, 0)


def _kill_all_as(uid: int) -> NoReturn:
    try:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        if os.getresuid() == (uid, uid, uid):
            os.kill(-1, signal.SIGKILL)
    finally:
        os._exit(0)


def end_tree(find: Callable[[], list[Process]], has_ended: Callable[[], bool]) -> bool:
    """End what `find` finds, again and again, until `has_ended`. Whether it has.

    All are stopped before any is killed: a parent that sees its child die would fork another.
    """

    def strike() -> None:
        stopped: set[Process] = set()
        for _ in range(ROUNDS):
            fresh = [process for process in find() if process not in stopped]
            if not fresh:
                break
            for process in fresh:
                send(process, signal.SIGSTOP)
            stopped.update(fresh)
        for process in find():
            send(process, signal.SIGKILL)

    return _repeat(has_ended, strike)


def end_children(statuses: dict[int, int]) -> bool:
    """End all that is below this process, and reap it. Whether nothing is left."""
    return end_tree(lambda: proc.descendants(os.getpid()), lambda: not reap(statuses))


def end_processes(processes: Iterable[Process]) -> bool:
    """End just these. Whether none is left."""
    ours = list(processes)

    def left() -> list[Process]:
        return [process for process in ours if proc.is_running(process.pid, process.start)]

    return end_tree(left, lambda: not left())


def reap(statuses: dict[int, int]) -> bool:
    """Reap whoever has ended, into `statuses` by their numbers. Whether there are children left."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except OSError as error:
            if error.errno == errno.ECHILD:
                return False
            raise
        if pid == 0:
            return True
        statuses[pid] = status


def _repeat(has_ended: Callable[[], bool], strike: Callable[[], None]) -> bool:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not has_ended():
        if time.monotonic() > deadline:
            return False
        strike()
        time.sleep(PAUSE_SECONDS)
    return True
