"""Starting the program: its listening socket, and the process that becomes it, in a sandbox or not."""

import json
import os
import re
import select
import socket
import time
from contextlib import suppress
from typing import NamedTuple, NoReturn

from services.previews.supervisor import confine, proc
from services.previews.supervisor.order import Order
from services.previews.supervisor.proc import Process
from services.previews.supervisor.reveal import reveal

START_SECONDS = 20.0
BACKLOG = 512
# In a sandbox, where descriptors are before the program has its own; contents of files follow.
LISTENER, HOW, STATUS, ARGUMENTS, INFO, FILES = range(3, 9)


class StartFailed(Exception):
    """The program was not started; the message says why."""


class Program(NamedTuple):
    pid: int  # our child: the program, or the sandbox around it
    start: int
    group: int
    init: Process | None  # the first process of the sandbox; all in it die with it


def listen(order: Order) -> socket.socket:
    """The socket of the program, listening before it is started: whoever connects early waits, and none is refused."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with suppress(FileNotFoundError):
        os.unlink(order.socket)
    before = os.umask(0o177)
    try:
        listener.bind(order.socket)
    finally:
        os.umask(before)
    listener.listen(BACKLOG)
    return listener


def start(order: Order, listener: int, outputs: tuple[int, int]) -> Program:
    """Start it; return when it runs. Raise StartFailed, after which there may still be a child to end."""
    heard, status = os.pipe2(os.O_CLOEXEC)
    told, info = os.pipe2(os.O_CLOEXEC)
    try:
        child = os.fork()
        if child == 0:
            _be_the_child(order, listener, outputs, status, info)
        os.close(status)
        os.close(info)
        status = info = -1
        _await_exec(heard)
        found = proc.read(child)
        init = _init(told) if order.wrapper else None
        return Program(child, found.start if found else 0, init.pid if init else child, init)
    finally:
        for descriptor in (heard, told, status, info):
            if descriptor >= 0:
                os.close(descriptor)


def _await_exec(heard: int) -> None:
    """The end of the status pipe means that the program runs, if it had been about to."""
    said = b""
    deadline = time.monotonic() + START_SECONDS
    poll = select.poll()
    poll.register(heard, select.POLLIN)
    while poll.poll(max(0, (deadline - time.monotonic()) * 1000)):
        chunk = os.read(heard, 4096)
        said += chunk
        if chunk:
            continue
        if said == confine.GOING:
            return
        why = said.removeprefix(confine.GOING).decode(errors="replace")
        raise StartFailed(why or "the sandbox did not come up; what it says of it is in the output")
    raise StartFailed(f"it was not running after {START_SECONDS:g} s")


def _init(told: int) -> Process | None:
    found = re.search(rb'"child-pid": (\d+)', os.read(told, 4096))
    return proc.read(int(found[1])) if found else None


def _be_the_child(order: Order, listener: int, outputs: tuple[int, int], status: int, info: int) -> NoReturn:
    """In the child. Whatever goes wrong, it must not return into the supervisor's life."""
    try:
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(outputs[0], 1)
        os.dup2(outputs[1], 2)
        if order.wrapper:
            _enter_sandbox(order, listener, status, info)
        if order.revealed:
            reveal(order.revealed)
        confine.become({**order.how, "parent": os.getppid()}, listener, status)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the owner is told, and this process ends
        with suppress(OSError):
            os.write(status, str(error).encode())
    os._exit(127)


def _enter_sandbox(order: Order, listener: int, status: int, info: int) -> NoReturn:
    how = _file(json.dumps({**order.how, "parent": None}))
    arguments = _file("".join(f"{argument}\0" for argument in order.wrapper_arguments))
    files = [_file(content) for content in order.wrapper_files]
    os.setsid()
    confine.arrange([listener, how, status, arguments, info, *files])
    # Nothing of the caller's environment: LD_PRELOAD would be obeyed outside of the sandbox.
    os.execve(order.wrapper[0], order.wrapper, {"PATH": os.defpath, proc.MARKER: order.marker})


def _file(content: str) -> int:
    descriptor = os.memfd_create("tailrace")
    os.write(descriptor, content.encode())
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
