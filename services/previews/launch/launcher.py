"""Launching: what is prepared on the disk, the supervisor, and the program that it starts."""

import asyncio
import json
import os
import resource
import secrets
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil
from msgspec.structs import replace

from services.previews.launch import bubblewrap
from services.previews.launch.isolation import TierName
from services.previews.launch.kinds import OWN_SOCKET, Start, check_entry, start_of
from services.previews.launch.output import OnOutput, Output
from services.previews.launch.process import GRACE_SECONDS, Child, Supervisor, drain, put_away
from services.previews.launch.records import Record, Records, Who, this_process
from services.previews.launch.seccomp import make_filter
from services.previews.launch.spec import LaunchFailed, LaunchSpec, check
from services.previews.launch.sweep import end_launch, python_with_supervisor
from services.previews.launch.users import Users
from services.previews.supervisor import proc
from services.previews.supervisor.files import give, remove
from services.previews.supervisor.order import Order
from services.previews.supervisor.reveal import closed_above

T = TypeVar("T")

MAIN = "from services.previews.supervisor.main import main; main()"


class Launcher:
    """Launches programs in one tier. `close` stops them all."""

    def __init__(self, tier: TierName, data_directory: Path) -> None:
        self._tier = tier
        self._records = Records(data_directory.absolute())
        self._users = Users() if tier != "process" and os.geteuid() == 0 else None
        self._children: set[Child] = set()
        self._owner = this_process()

    async def launch(self, spec: LaunchSpec, on_output: OnOutput) -> Child:
        """Launch; return when the program's process exists. Raise LaunchFailed with a sentence.

        `on_output` gets `stdout` or `stderr` and bytes, on this loop, until `Child.exited` returns. It must not block.
        After a failure no process is left; the directory is, and is the caller's again.
        """
        check(spec)
        check_entry(spec)
        uid, lock = self._users.take() if self._users is not None else (None, -1)
        record = self._record(spec, uid)
        outputs = [Output("stdout", on_output), Output("stderr", on_output)]
        try:
            order = await _over(asyncio.ensure_future(asyncio.to_thread(self._prepare, spec, record)))
            child = await self._start(record, order, outputs, lock)
        except BaseException as error:
            await drain(outputs)
            await asyncio.to_thread(self._take_back, record)
            if isinstance(error, OSError | RecursionError):
                raise LaunchFailed(f"The program could not be launched: {error}.") from error
            raise
        finally:
            if lock >= 0:
                os.close(lock)
        self._children.add(child)
        return child

    async def put_away(self, child: Child) -> None:
        """Remove the directory of a program that was stopped with `keep_directory`."""
        await asyncio.to_thread(put_away, child.record, self._records)

    async def close(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """Stop all that run, at the same time."""
        await asyncio.gather(*(child.stop(grace_seconds) for child in self._children))

    def _record(self, spec: LaunchSpec, uid: int | None) -> Record:
        socket_ = str(spec.socket.absolute())
        return Record(
            preview_id=spec.preview_id,
            attempt=spec.attempt,
            marker=f"{spec.preview_id}.{secrets.token_hex(16)}",
            boot=proc.boot(),
            owner=self._owner,
            uid=uid,
            directory=str(spec.directory.absolute()),
            socket=socket_,
            scratch=f"{socket_}.d",
            tree=f"{socket_}.tree" if self._tier == "process" else "",
        )

    def _prepare(self, spec: LaunchSpec, record: Record) -> Order:
        old = self._records.of(record.preview_id)
        self._records.open()
        self._records.write(record)
        for path in record.files():
            remove(path)
        Path(record.scratch).mkdir(mode=0o700)
        owners = [old.uid] if old is not None and old.uid is not None else []
        for path in (record.scratch, record.directory):
            Path(path).chmod(0o700)
            if record.uid is not None:
                give(path, record.uid, record.uid, (os.geteuid(), *owners))
        return make_order(self._tier, spec, record, self._records.path(record.preview_id))

    def _take_back(self, record: Record) -> None:
        end_launch(record, 0)
        if record.uid is not None:
            give(record.directory, os.geteuid(), os.getegid(), (record.uid,))
        self._records.remove(record.preview_id)

    async def _start(self, record: Record, order: Order, outputs: list[Output], lock: int) -> Child:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with ours, theirs, os.fdopen(os.memfd_create("order"), "w+b") as file:
            file.write(json.dumps(order._asdict()).encode())  # it may be more than a socket takes at once
            file.seek(0)
            descriptors = [theirs.fileno(), file.fileno(), *(output.writable for output in outputs)]
            descriptors += [lock] if lock >= 0 else []  # the user is its program's for as long as it lives
            supervisor = await _spawned(record.marker, descriptors, ours.dup())
        for output in outputs:
            output.start()
        try:
            began = proc.read(supervisor.pid)
            record = replace(record, supervisor=Who(supervisor.pid, began.start if began else 0))
            message = await supervisor.hear()
            if message is None or "failed" in message:
                raise LaunchFailed(_why(message))
            record = replace(record, program=Who(message["started"], message["start"]))
            self._records.write(record)
        except BaseException:
            await supervisor.end()
            raise
        return Child(supervisor, record, self._records, outputs, self._children.discard)


def _why(message: dict[str, Any] | None) -> str:
    if message is None:
        return "The program was not started: its supervisor did not live long enough."
    return f"The program was not started: {message['failed']}."


async def _over(running: asyncio.Future[T]) -> T:
    """The result of what runs in a thread, which nobody can cancel: who cancels waits, or cleans up before it ends."""
    try:
        await asyncio.wait([running])
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
    return running.result()


async def _spawned(marker: str, descriptors: list[int], control: socket.socket) -> Supervisor:
    """The supervisor, started in a thread, for that takes milliseconds."""
    starting = asyncio.ensure_future(asyncio.to_thread(_spawn, marker, descriptors))
    try:
        return Supervisor(await _over(starting), control)
    except asyncio.CancelledError:
        await Supervisor(starting.result(), control).end()
        raise


def _spawn(marker: str, descriptors: list[int]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [*python_with_supervisor(MAIN), *(str(descriptor) for descriptor in descriptors)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        cwd="/",
        env={proc.MARKER: marker},
        pass_fds=descriptors,
        start_new_session=True,  # Ctrl-C is for the service, which stops its previews in order
    )


def make_order(tier: TierName, spec: LaunchSpec, record: Record, record_path: Path) -> Order:
    inside = tier == "bubblewrap"
    directory, scratch = (bubblewrap.APP, bubblewrap.SCRATCH) if inside else (record.directory, record.scratch)
    start = start_of(spec, directory, scratch)
    wrapper_arguments: list[str] = []
    if inside:
        places = record.directory, record.scratch
        wrapper_arguments = bubblewrap.arguments(places, start.needs, record.uid, network=spec.network)
    return Order(
        marker=record.marker,
        socket=record.socket,
        own_socket=f"{record.scratch}/{OWN_SOCKET}" if spec.kind == "command" else "",
        uid=record.uid,
        wrapper=bubblewrap.command() if inside else [],
        wrapper_arguments=wrapper_arguments,
        wrapper_files=bubblewrap.files(record.uid) if inside else [],
        revealed=_revealed(record, start) if record.uid is not None and not inside else [],
        how={
            "arguments": start.arguments,
            "environment": {**start.environment, proc.MARKER: record.marker},
            "directory": directory,
            "uid": record.uid,
            "new_session": not inside,
            "limits": resource_limits(tier, spec),
            "seccomp": make_filter(ipc_namespace=inside).hex(),
        },
        memory_bytes=spec.limits.memory_bytes,
        processes=spec.limits.processes,
        counts_processes=tier == "process",
        disk_bytes=spec.limits.disk_bytes,
        measured=[record.directory, record.scratch],
        tree=record.tree,
        removed_at_the_end=record.files(),
        removed_when_abandoned=[record.directory, str(record_path)],
    )


def _revealed(record: Record, start: Start) -> list[str]:
    needed = [*start.needs, record.directory, record.scratch]
    return needed if any(closed_above(path) is not None for path in needed) else []


def resource_limits(tier: TierName, spec: LaunchSpec) -> dict[str, int]:
    """The kernel's own limits, by their names.

    RLIMIT_AS is not among them: node reserves so much that it does not start with 512 MB of it, and WebAssembly not
    with 4 GB; with 128 MB of RLIMIT_DATA both do (`prlimit --data=134217728 node`, Node 20). That counts a thread's
    whole stack, hence twice the limit, which the supervisor holds exactly.
    """
    limits = spec.limits
    chosen = {
        "RLIMIT_CORE": 0,
        "RLIMIT_DATA": 2 * limits.memory_bytes,
        "RLIMIT_FSIZE": min(limits.file_bytes, limits.disk_bytes),
        "RLIMIT_NOFILE": limits.open_files,
        "RLIMIT_NPROC": limits.processes,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_MSGQUEUE": 0,
    }
    if tier == "process":
        # The kernel counts all that this user has. The supervisor counts the program's; this is for a burst.
        chosen["RLIMIT_NPROC"] = _threads_of_this_user() + 2 * limits.processes
    if limits.cpu_seconds:
        chosen["RLIMIT_CPU"] = limits.cpu_seconds
    return {name: bound for name, bound in chosen.items() if hasattr(resource, name)}


def _threads_of_this_user() -> int:
    count = 0
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.uids().real == os.getuid():
                count += process.num_threads()
    return count
