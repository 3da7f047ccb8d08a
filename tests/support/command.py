"""The command `tailrace` as a test sees it: a process with pipes, or one that a person watches on a terminal."""

import asyncio
import contextlib
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

from msgspec import Struct

from tests.support.server import ROOT

COMMAND = str(Path(sys.executable).with_name("tailrace"))
SECONDS = 60.0  # none takes that long, however busy the machine

Settings = Mapping[str, str]
NONE: Settings = {}


class Result(Struct, frozen=True):
    """What a command that has ended left behind."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


def _environment(settings: Settings) -> dict[str, str]:
    """Ours without what would change the command; `settings` by their full names."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("TAILRACE_", "NO_COLOR"))}
    return {**plain, "TERM": "xterm", "PYTHONUNBUFFERED": "", **settings}


async def run(*arguments: str, stdin: bytes = b"", settings: Settings = NONE) -> Result:
    """Run it to its end."""
    async with started(*arguments, settings=settings) as command:
        out, err = await asyncio.wait_for(command.process.communicate(stdin), SECONDS)
        return Result(await command.ended(), out.decode(), err.decode())


class Command:
    """A command that runs, with pipes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> str:
        """The next line of its output; empty at the end."""
        assert self.process.stdout is not None
        async with asyncio.timeout(SECONDS):
            return (await self.process.stdout.readline()).decode().rstrip("\n")

    async def lines(self, count: int) -> list[str]:
        return [await self.line() for _ in range(count)]

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    async def ended(self) -> int:
        async with asyncio.timeout(SECONDS):
            return await self.process.wait()

    async def rest(self) -> Result:
        """What comes until it ends."""
        async with asyncio.timeout(SECONDS):
            out, err = await self.process.communicate()
        return Result(await self.ended(), out.decode(), err.decode())


@asynccontextmanager
async def started(*arguments: str, command: str = COMMAND, settings: Settings = NONE) -> AsyncIterator[Command]:
    """It runs while the block does, unless it ends before."""
    process = await asyncio.create_subprocess_exec(
        command,
        *arguments,
        cwd=ROOT,
        env=_environment(settings),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=1024 * 1024,
    )
    try:
        yield Command(process)
    finally:
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()
    process._transport.close()  # type: ignore[attr-defined]  # else its pipes close when the loop may be gone


class Screen:
    """A terminal on which a command runs; what came on it is `shown`."""

    def __init__(self, master: int) -> None:
        self.shown = ""
        self._master = master
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.process: asyncio.subprocess.Process

    def __enter__(self) -> Self:
        self._loop.add_reader(self._master, self._read)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.remove_reader(self._master)
        os.close(self._master)

    def _read(self) -> None:
        try:
            self.shown += os.read(self._master, 65536).decode(errors="replace")
        except OSError:  # EIO: nobody is left at the other end
            self._loop.remove_reader(self._master)
        self._news.set()

    async def until(self, text: str) -> None:
        """Wait for it to be shown."""
        async with asyncio.timeout(SECONDS):
            while text not in self.shown:
                self._news.clear()
                await self._news.wait()

    async def ended(self) -> int:
        async with asyncio.timeout(SECONDS):
            return await self.process.wait()


@asynccontextmanager
async def on_screen(*arguments: str, pipe_output: bool = False, settings: Settings = NONE) -> AsyncIterator[Screen]:
    """The command on a terminal; with `pipe_output` only its standard error."""
    master, slave = pty.openpty()
    with Screen(master) as screen:
        try:
            screen.process = await asyncio.create_subprocess_exec(
                COMMAND,
                *arguments,
                cwd=ROOT,
                env=_environment(settings),
                stdin=slave,
                stdout=asyncio.subprocess.PIPE if pipe_output else slave,
                stderr=slave,
            )
        finally:
            os.close(slave)
        try:
            yield screen
        finally:
            await _end(screen.process)
