"""Reading what a program writes, from its two pipes, as soon as it is there."""

import asyncio
import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

Stream = Literal["stdout", "stderr"]
OnOutput = Callable[[Stream, bytes], None]

READ_BYTES = 16 * 1024  # what is captured of it at once takes about 10 ms; then everybody else has a turn
PIPE_BYTES = 256 * 1024  # the kernel's own are 64 kB; a program that prints in bursts waits less


class Output:
    """One pipe. `on_output` gets what was read, and must not wait: nothing else makes the program wait.

    `ended` is set when nobody can write any more, or after `close`.
    """

    def __init__(self, stream: Stream, on_output: OnOutput) -> None:
        self.ended = asyncio.Event()
        self.is_reading = False
        self._stream = stream
        self._on_output = on_output
        self._descriptor, self.writable = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._descriptor, False)
        with suppress(OSError):  # others of this user may have taken what the kernel grants
            fcntl.fcntl(self._descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def start(self) -> None:
        """Close our copy of the writable end, which the program has by now, and read."""
        self.close_writable()
        self.is_reading = True
        asyncio.get_running_loop().add_reader(self._descriptor, self._read)

    def close_writable(self) -> None:
        if self.writable >= 0:
            os.close(self.writable)
            self.writable = -1

    def close(self) -> None:
        self.close_writable()
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
        self.ended.set()

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return
        if data:
            self._on_output(self._stream, data)
        else:
            self.close()
