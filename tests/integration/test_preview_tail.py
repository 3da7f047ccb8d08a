"""`tailrace tail preview`: the output of a program in a terminal, until it ends."""

import asyncio
import os
import pty
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from tests.support.contract import Served
from tests.support.previews import (
    change,
    ended,
    get,
    launch,
    new_generation,
    preview_url,
    reached,
    restart,
    running,
    stop,
    tell,
)
from tests.support.server import ROOT, Server

SETTINGS = {"previews_per_tenant": 60}
RED = "\x1b[31mred\x1b[0m"


class Tail:
    """The command, and what it has printed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.printed = ""

    async def until(self, text: str) -> str:
        """All it has printed, once this is in it."""
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            while text not in self.printed:
                chunk = await self.process.stdout.read(65536)
                assert chunk, f"it ended, and printed: {self.printed}"
                self.printed += chunk.decode()
        return self.printed

    async def ended(self) -> tuple[int, str]:
        """Its exit code, and all it has printed."""
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            self.printed += (await self.process.stdout.read()).decode()
            return await self.process.wait(), self.printed


@asynccontextmanager
async def tailing(server: Server, generation: str, *options: str) -> AsyncIterator[Tail]:
    command = [sys.executable, "-m", "services.cli", "tail", "preview", generation, "--url", server.url, *options]
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")},
    )
    try:
        yield Tail(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_it_prints_every_line_once_and_goes_with_the_program(client: httpx.AsyncClient, tailrace: Served) -> None:
    generation = new_generation()
    await running(client, generation)
    async with tailing(tailrace.server, generation) as tail:
        await tail.until(" ready http://prv-")
        await tell(client, generation, f"print({RED!r}, 'and plain', flush=True)")
        await tail.until("red and plain")
        await tell(client, generation, "print('Name? ', end='', flush=True)")
        await tell(client, generation, "time.sleep(0.5); print('Elbe', flush=True)")
        await tail.until("Name? Elbe")
        await stop(client, generation)
        code, printed = await tail.ended()
    assert code == 0
    assert printed.count("Name?") == 1
    assert "\x1b" not in printed  # nobody looks at a pipe
    words = ["starting", "serving", "running", "ready", "red and plain", "Name? Elbe", "stopping", "stopped"]
    places = [printed.index(f" {word}") for word in words]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("last", "code"), [("sys.exit(3)", 1), ("pass", 1), ("os.kill(os.getpid(), 9)", 1)], ids=["3", "0", "9"]
)
async def test_its_exit_code_says_that_the_program_ended_by_itself(
    client: httpx.AsyncClient, tailrace: Served, last: str, code: int
) -> None:
    generation = new_generation()
    await launch(client, generation, f"import os, sys\nprint('words')\n{last}")
    await ended(client, generation)
    async with tailing(tailrace.server, generation) as tail:
        found, printed = await tail.ended()
    assert found == code
    assert "words" in printed
    assert "failed" in printed.splitlines()[-1]


async def test_colours_are_those_of_the_program_where_a_person_looks(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    generation = new_generation()
    await launch(client, generation, f"import sys\nprint({RED!r})\nprint('ERROR: boom', file=sys.stderr)")
    await ended(client, generation)
    ours, theirs = pty.openpty()
    command = ["-m", "services.cli", "tail", "preview", generation, "--url", tailrace.url]
    environment = {**os.environ, "TERM": "xterm"}
    environment.pop("NO_COLOR", None)
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    assert await process.wait() == 1
    printed = os.read(ours, 65536).decode()
    os.close(ours)
    assert RED in printed
    assert "\x1b[31mERROR: boom\x1b[0m" in printed


async def test_it_goes_on_over_a_restart(client: httpx.AsyncClient, tailrace: Served) -> None:
    generation = new_generation()
    await running(client, generation)
    async with tailing(tailrace.server, generation, "--websocket") as tail:
        await tail.until(" ready ")
        await change(client, generation, **{"new.txt": "new"})
        await restart(client, generation)
        await reached(client, generation, "running", attempt=2)
        await tail.until("attempt 2: command")
        await stop(client, generation)
        code, printed = await tail.ended()
    assert code == 0
    assert printed.count("serving") == 2


async def test_a_preview_that_there_is_not_is_told(client: httpx.AsyncClient, tailrace: Served) -> None:
    async with tailing(tailrace.server, new_generation()) as tail:
        code, printed = await tail.ended()
    assert code not in (0, 1)
    assert "There is no such preview." in printed


async def test_json_is_frames_with_partial_ones(client: httpx.AsyncClient, tailrace: Served) -> None:
    generation = new_generation()
    await launch(client, generation, "import time\nprint('Name? ', end='', flush=True)\ntime.sleep(0.6)\nprint('Elbe')")
    await ended(client, generation)
    async with tailing(tailrace.server, generation, "--json") as tail:
        _, printed = await tail.ended()
    assert '"partial":true' in printed
    assert '"message":"Name? Elbe"' in printed
    assert (await get(client, generation))["status"] == "failed"
    assert (await client.delete(preview_url(generation))).status_code == 204
