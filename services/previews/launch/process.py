"""A program that was launched, as the service has it: its output, its end, and how to stop it."""

import asyncio
import json
import logging
import os
import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from services.previews.launch.output import Output
from services.previews.launch.records import Record, Records
from services.previews.launch.spec import Exit, LaunchFailed
from services.previews.launch.sweep import end_launch
from services.previews.supervisor.files import remove

log = logging.getLogger("tailrace.previews")

MESSAGE_BYTES = 4096
DRAIN_SECONDS = 1.0  # for output that is still in the pipes when nobody is left to write
GRACE_SECONDS = 5.0
PATIENCE_SECONDS = 12.0  # with a supervisor that has been told to end its program; it gives itself ten


class Supervisor:
    """Our end of what connects us with a supervisor."""

    def __init__(self, process: "subprocess.Popen[bytes]", control: socket.socket) -> None:
        self._process = process
        self._control = control
        self._pidfd = os.pidfd_open(process.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    def say(self, message: dict[str, Any]) -> None:
        with suppress(OSError):  # it has gone, which is noticed elsewhere
            self._control.send(json.dumps(message).encode())

    async def hear(self) -> dict[str, Any] | None:
        """Its next message; None when it has gone."""
        await _readable(self._control.fileno())
        try:
            message = self._control.recv(MESSAGE_BYTES)
        except ConnectionResetError:  # it has gone and left something unread; what it had said comes after this error
            message = self._control.recv(MESSAGE_BYTES)
        return json.loads(message) if message else None

    def kill(self) -> None:
        self._process.kill()

    async def gone(self) -> None:
        """Wait for its end; then nothing of it is left."""
        await _readable(self._pidfd)
        self._process.poll()

    async def end(self) -> None:
        self.kill()
        await self.gone()
        self.close()

    def close(self) -> None:
        os.close(self._pidfd)
        self._control.close()


class Child:
    """One launched program. Call `stop` in the end, also when it has ended by itself: that puts its files away."""

    def __init__(
        self,
        supervisor: Supervisor,
        record: Record,
        records: Records,
        outputs: list[Output],
        forget: "Callable[[Child], None]",
    ) -> None:
        self.record = record
        self._forget = forget
        self._putting_away = asyncio.Lock()
        self._supervisor = supervisor
        self._records = records
        self._outputs = outputs
        self._life = asyncio.create_task(self._follow(), name=f"preview {record.preview_id}")

    @property
    def pid(self) -> int:
        """The program's number, or that of the sandbox around it."""
        assert self.record.program is not None
        return self.record.program.pid

    @property
    def uid(self) -> int | None:
        """The program's own user, whose the files must be that are put into its directory; None: ours."""
        return self.record.uid

    @property
    def has_ended(self) -> bool:
        return self._life.done()

    async def exited(self) -> Exit:
        """How it ended, once it has: no process of it is left, and all it wrote has been handed over."""
        return await asyncio.shield(self._life)

    async def stop(self, grace_seconds: float = GRACE_SECONDS, *, keep_directory: bool = False) -> Exit:
        """SIGTERM to its group; when the program has ended or the time is up, SIGKILL to all that is left of it.

        Afterwards no process, socket or temporary file of it is left, and no directory unless it is to be kept: for
        another attempt, which takes it over, or for `Launcher.put_away`.
        """
        self._supervisor_say_stop(grace_seconds)
        try:
            async with asyncio.timeout(grace_seconds + PATIENCE_SECONDS):
                exit_ = await self.exited()
        except TimeoutError:
            log.error("a supervisor did not do as it was told", extra={"preview": self.record.preview_id})
            self._supervisor.kill()
            exit_ = await self.exited()
        if not keep_directory:
            async with self._putting_away:
                await asyncio.to_thread(put_away, self.record, self._records)
        self._forget(self)
        return exit_

    def _supervisor_say_stop(self, grace_seconds: float) -> None:
        if not self._life.done():
            self._supervisor.say({"stop": grace_seconds})

    async def _follow(self) -> Exit:
        message = None
        try:
            message = await self._supervisor.hear()
            await self._supervisor.gone()
        finally:
            self._supervisor.close()
        if message is None or not message["clean"]:
            log.error("a preview's supervisor is gone before its program", extra={"preview": self.record.preview_id})
            await asyncio.to_thread(end_launch, self.record, 0)
        await drain(self._outputs)
        if message is None:
            return Exit(None, None, "lost")
        return Exit(**message["exited"], reason=message["reason"])


async def drain(outputs: list[Output]) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            for output in outputs:
                if output.is_reading:
                    await output.ended.wait()
    for output in outputs:
        output.close()


def put_away(record: Record, records: Records) -> None:
    """Remove what is left of a launch that has ended, unless that was done or the next attempt has taken it over."""
    current = records.of(record.preview_id)
    if current is None or current.marker != record.marker:
        return
    try:
        remove(record.directory)
    except OSError as error:
        raise LaunchFailed(f"{Path(record.directory)} could not be removed: {error.strerror}.") from error
    records.remove(record.preview_id)


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
