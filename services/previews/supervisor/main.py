"""The life of a supervisor: start one program, watch it, end all there is of it, say how it ended, and go.

It has one thread and no event loop, so that it may fork. Its order is in a file without a name. Over a pair of sockets
it says in JSON messages `started` or `failed`, may be told `stop`, and says `exited` last. The end of the pair means
that the service is dead.
"""

import json
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import Any

from services.previews.supervisor import confine, ending, proc
from services.previews.supervisor.files import remove, strays
from services.previews.supervisor.order import Order
from services.previews.supervisor.proc import Process
from services.previews.supervisor.program import Program, StartFailed, listen, start
from services.previews.supervisor.watch import TICK_SECONDS, Watch

MESSAGE_BYTES = 4096
SIGNAL_BASE = 128  # bubblewrap says of one that was killed by signal n that it exited with 128 + n


class Supervisor:
    def __init__(self, control: socket.socket, order: Order) -> None:
        self._control = control
        self._order = order
        self._statuses: dict[int, int] = {}
        self._abandoned = False
        self._reason = ""
        self._kill_at: float | None = None
        self._kills = proc.out_of_memory_kills()
        self._tree: set[Process] = set()
        self._bell, bell = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(bell, warn_on_full_buffer=False)

    def run(self, outputs: tuple[int, int]) -> None:
        listener = program = None
        try:
            listener = listen(self._order)
            program = start(self._order, listener.fileno(), outputs)
            self._say({"started": program.pid, "start": program.start})
        except (StartFailed, OSError) as error:
            self._say({"failed": str(error)})
        for descriptor in outputs:
            os.close(descriptor)
        if listener is not None:
            listener.close()  # so that a program that has closed its own refuses connections
        if program is not None:
            self._attend(program)
        self._end(program)

    def _attend(self, program: Program) -> None:
        """Until it has ended by itself or is to be ended by force."""
        watch = Watch(self._order)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._bell, select.POLLIN)
        tick_at = 0.0
        while program.pid not in self._statuses and not self._abandoned and not self._is_overdue():
            if time.monotonic() >= tick_at:
                self._look(watch)
                tick_at = time.monotonic() + (0 if watch.is_measuring() else TICK_SECONDS)
            for descriptor, _ in poll.poll(self._patience(tick_at)):
                if descriptor == self._bell:
                    with suppress(BlockingIOError):
                        os.read(self._bell, 4096)
                else:
                    self._listen(program)
            ending.reap(self._statuses)

    def _look(self, watch: Watch) -> None:
        over = watch.look()
        if over is not None:
            self._reason, self._kill_at = self._reason or over, time.monotonic()
        adopt(self._order)
        if self._order.tree:
            self._write_tree(watch.members)
        if self._reason == "":
            self._kills = proc.out_of_memory_kills()

    def _listen(self, program: Program) -> None:
        message = self._control.recv(MESSAGE_BYTES)
        if not message:
            self._abandoned = True
            return
        if not self._reason:
            self._reason = "stopped"
            ending.terminate_group(program.group)
        self._kill_at = time.monotonic() + float(json.loads(message)["stop"])

    def _end(self, program: Program | None) -> None:
        if program is not None and program.init is not None:
            ending.end_processes([program.init])
        if self._order.uid is not None:
            ending.end_user(self._order.uid)
        nothing_left = ending.end_children(self._statuses)
        self._control.setblocking(False)
        with suppress(BlockingIOError, ConnectionResetError):
            self._abandoned = self._abandoned or not self._control.recv(MESSAGE_BYTES)
        for path in [*self._order.removed_at_the_end, *strays(self._order.uid)]:
            removed(path)
        if self._abandoned and nothing_left:
            for path in self._order.removed_when_abandoned:
                removed(path)
        if program is not None:
            self._say({"exited": self._status(program), "reason": self._why(program), "clean": nothing_left})

    def _status(self, program: Program) -> dict[str, int | None]:
        status = self._statuses.get(program.pid)
        if status is None:
            return {"code": None, "signal": None}
        code = os.waitstatus_to_exitcode(status)
        if program.init is not None and code > SIGNAL_BASE:
            code = SIGNAL_BASE - code
        return {"code": code, "signal": None} if code >= 0 else {"code": None, "signal": -code}

    def _why(self, program: Program) -> str:
        number = self._status(program)["signal"]
        if self._reason or number is None:
            return self._reason or "exited"
        if number == signal.SIGXFSZ:
            return "disk"
        if number == signal.SIGKILL and proc.out_of_memory_kills() > self._kills:
            return "memory"
        return "killed"

    def _write_tree(self, members: list[int]) -> None:
        """Note whom we see. It is written anew only when somebody has come."""
        seen = {process for pid in members if (process := proc.read(pid))}
        if seen - self._tree:
            new = f"{self._order.tree}.new"
            with open(new, "w") as file:
                json.dump([[process.pid, process.start] for process in seen], file)
            os.replace(new, self._order.tree)
        self._tree = seen

    def _is_overdue(self) -> bool:
        return self._kill_at is not None and time.monotonic() >= self._kill_at

    def _patience(self, tick_at: float) -> int:
        until = tick_at if self._kill_at is None else min(tick_at, self._kill_at)
        return max(0, int((until - time.monotonic()) * 1000) + 1)

    def _say(self, message: dict[str, Any]) -> None:
        with suppress(OSError):
            self._control.send(json.dumps(message).encode())


def adopt(order: Order) -> None:
    """Put a socket that the program has bound itself where the service connects.

    It is moved first and looked at then, where the program cannot exchange it any more: a link to somebody else's
    socket would lend it our hand.
    """
    if not order.own_socket or not os.path.lexists(order.own_socket):
        return
    moved = f"{order.socket}.new"
    with suppress(OSError):
        os.rename(order.own_socket, moved)
        found = os.lstat(moved)
        mine = os.geteuid() if order.uid is None else order.uid
        if found.st_mode & 0o170000 == 0o140000 and found.st_uid == mine:
            os.chmod(moved, 0o600)
            os.rename(moved, order.socket)
        else:
            remove(moved)


def removed(path: str) -> None:
    try:
        remove(path)
    except OSError as error:
        print(f"a preview's files could not be removed: {path}: {error.strerror}", file=sys.stderr)


def main() -> None:
    control, order, *outputs = (int(argument) for argument in sys.argv[1:5])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)  # it ends when the service does, or says so
    confine.prctl(confine.PR_SET_CHILD_SUBREAPER, 1)
    confine.prctl(confine.PR_SET_DUMPABLE, 0)
    with socket.socket(fileno=control) as connection, open(order, "rb") as file:
        Supervisor(connection, Order(**json.load(file))).run((outputs[0], outputs[1]))
