"""The crowd, from the side of the soak."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tests.support.server import ROOT


class Crowding:
    """`told` is what it has said last."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.told: dict[str, Any] = {"open": 0, "counts": {}, "violations": []}
        self._process = process
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.told = json.loads(line)

    @property
    def open(self) -> int:
        return int(self.told["open"])

    def follow(self, runs: Sequence[str]) -> None:
        """The runs that may be chosen from now on."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(runs).encode() + b"\n")

    async def leave(self) -> None:
        """All of them go; what they have met is in `told`."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._reading
        await self._process.wait()

    async def end(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._reading


@asynccontextmanager
async def crowd(port: int, count: int, seed: str) -> AsyncIterator[Crowding]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.soak.crowd", str(port), str(count), seed),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=4 * 1024 * 1024,
    )
    crowding = Crowding(process)
    try:
        yield crowding
    finally:
        await crowding.end()
