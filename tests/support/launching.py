"""Launching real programs in tests, and looking for what they leave behind."""

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import httpx
import psutil
import pytest

from services.previews.launch import Child, Exit, Kind, Launcher, LaunchSpec, Limits
from services.previews.launch.isolation import NAMES, TierName
from services.previews.supervisor import proc
from services.previews.supervisor.files import strays

SECONDS = 20.0
PYTHON = sys.executable
TIERS = list(NAMES)


def need(tier: TierName) -> None:
    """Skip the test where the tier cannot be had. In CI, which installs bubblewrap, it is not skipped."""
    if tier == "uid" and os.geteuid() != 0:
        pytest.skip("only root can give a program a user of its own")
    if tier == "bubblewrap" and shutil.which("bwrap") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("bubblewrap is not installed, and in CI no test may be left out: install it first.")
        pytest.skip("bubblewrap is not installed: deploy/install-test-programs says how to get it.")


class Place:
    """A data directory, a launcher over it, and all that it has launched."""

    def __init__(self, tier: TierName, path: Path) -> None:
        self.tier: TierName = tier
        self.path = path
        self.launcher = Launcher(tier, path / "data")
        self.programs: list[Program] = []

    async def launch(
        self,
        kind: Kind,
        files: Mapping[str, str] | None = None,
        *,
        entry: str = "",
        command: tuple[str, ...] = (),
        env: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        preview_id: str = "",
        network: bool = False,
    ) -> "Program":
        preview_id = preview_id or f"prv_{len(self.programs)}"
        place = self.path / "data" / preview_id
        directory = place / "files"
        directory.mkdir(parents=True, exist_ok=True)
        place.chmod(0o711)
        for name, text in (files or {}).items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(text)
        spec = LaunchSpec(
            preview_id=preview_id,
            attempt=1,
            kind=kind,
            entry=entry,
            command=command,
            env=env or {},
            directory=directory,
            socket=place / "socket",
            limits=limits or Limits(),
            network=network,
        )
        program = Program(spec)
        program.child = await self.launcher.launch(spec, program.on_output)
        self.programs.append(program)
        return program

    async def python(
        self, code: str, *arguments: str, limits: Limits | None = None, network: bool = False, preview_id: str = ""
    ) -> "Program":
        """A command: Python with this code."""
        command = (PYTHON, "-c", code, *arguments)
        return await self.launch("command", command=command, limits=limits, network=network, preview_id=preview_id)


class Program:
    """A launched program and what it has written."""

    child: Child

    def __init__(self, spec: LaunchSpec) -> None:
        self.spec = spec
        self.stdout = bytearray()
        self.stderr = bytearray()
        self._changed = asyncio.Event()

    def on_output(self, stream: str, data: bytes) -> None:
        (self.stdout if stream == "stdout" else self.stderr).extend(data)
        self._changed.set()

    @property
    def marker(self) -> str:
        return self.child.record.marker

    async def said(self, what: str) -> str:
        """All of its standard output, once this is in it."""
        async with asyncio.timeout(SECONDS):
            while what.encode() not in self.stdout:
                assert not self.child.has_ended, f"it ended, and said: {self.stdout!r} {self.stderr!r}"
                self._changed.clear()
                ending = asyncio.ensure_future(self.child.exited())
                changed = asyncio.ensure_future(self._changed.wait())
                await asyncio.wait([ending, changed], return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                ending.cancel()
                if what.encode() in self.stdout:
                    break
        return self.stdout.decode()

    async def exited(self) -> Exit:
        async with asyncio.timeout(SECONDS):
            return await self.child.exited()

    async def stop(self, grace_seconds: float = 5.0) -> Exit:
        async with asyncio.timeout(SECONDS + grace_seconds):
            return await self.child.stop(grace_seconds)

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.AsyncHTTPTransport(uds=str(self.spec.socket))
        async with httpx.AsyncClient(transport=transport, base_url="http://preview", timeout=SECONDS) as client:
            yield client

    def processes(self) -> list[int]:
        """Those of its processes that we can tell by what they were started with."""
        return [process.pid for process in proc.everything() if proc.has_marker(process.pid, self.marker)]

    def assert_nothing_is_left(self) -> None:
        record = self.child.record
        assert self.processes() == []
        if record.uid is not None:
            assert proc.of_user(record.uid) == []
            assert strays(record.uid) == []
        for path in (*record.files(), record.directory):
            assert not os.path.lexists(path), path


@contextlib.asynccontextmanager
async def launching(tier: TierName) -> AsyncIterator[Place]:
    """A place for programs in a tier. In the end nothing of any program may be left."""
    need(tier)
    path = Path(tempfile.mkdtemp(prefix="tr-", dir="/tmp"))  # pytest's own paths are too long for sockets
    path.chmod(0o711)
    place = Place(tier, path)
    try:
        yield place
        for program in place.programs:
            await program.stop(0)
        for program in place.programs:
            program.assert_nothing_is_left()
    finally:
        for program in place.programs:
            with contextlib.suppress(Exception):
                await program.stop(0)
        shutil.rmtree(path, ignore_errors=True)


async def eventually(condition: Callable[[], bool | Awaitable[bool]], seconds: float = SECONDS) -> None:
    """Ask until it is so. For what happens in other processes, which send us no event."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer if isinstance(answer, bool) else await answer:
            return
        assert time.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(0.02)


def is_alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False
