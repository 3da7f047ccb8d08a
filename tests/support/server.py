"""Tailrace as a test sees it: the real command in a process of its own, on a real socket."""

import asyncio
import os
import shutil
import signal
import socket
import sys
import tempfile
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from shared.protocol.sse import SseDecoder, SseMessage

ROOT = Path(__file__).parents[2]
START_SECONDS = 90  # alone it takes one; a busy machine takes its time to read so many modules


class Server:
    """One `tailrace` process. Its port stays the same over restarts, as a deployed service's would; and its data
    directory, which is its own unless one is given, and goes with this object.
    """

    def __init__(self, database_url: str, *, service: str = "all", **settings: object) -> None:
        if "data_directory" not in settings:
            settings["data_directory"] = own = tempfile.mkdtemp(prefix="tr-", dir="/tmp")  # short: sockets are in it
            Path(own).chmod(0o711)  # previews have users of their own
            weakref.finalize(self, shutil.rmtree, own, ignore_errors=True)
        self.data_directory = Path(str(settings["data_directory"]))
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.output: list[str] = []
        self.service = service
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        given = {"database_url": database_url, "port": self.port, "log_level": "warning", **settings}
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")},
            **{f"TAILRACE_{name.upper()}": str(value) for name, value in given.items() if value != ""},
        }

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Return when it answers."""
        command = ["-m", "services.cli", "serve", self.service]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            cwd=ROOT,
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=1024 * 1024,
        )
        up = asyncio.get_running_loop().create_future()
        self._reading = asyncio.create_task(self._read(up))
        async with asyncio.timeout(START_SECONDS):
            await up

    async def _read(self, up: "asyncio.Future[None]") -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.output.append(line.decode())
            if b"Tailrace is up" in line and not up.done():
                up.set_result(None)
        if not up.done():
            up.set_exception(RuntimeError("the server did not start:\n" + "".join(self.output)))

    async def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; return the exit code when the process has gone."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)
        code = await self._process.wait()
        if self._reading is not None:
            await self._reading
        return code

    async def kill(self) -> None:
        """kill -9."""
        await self.end(signal.SIGKILL)

    def freeze(self) -> None:
        """SIGSTOP."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)


@asynccontextmanager
async def running(database_url: str, **settings: Any) -> AsyncIterator[Server]:
    """A server that is killed at the end of the block if it still runs."""
    server = Server(database_url, **settings)
    await server.start()
    try:
        yield server
    finally:
        await server.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


# ── what tests do with it ──────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def sse(client: httpx.AsyncClient, url: str, **options: Any) -> AsyncIterator["SseStream"]:
    """An SSE stream that is read with our own decoder; the response is checked to be one."""
    timeout = options.pop("timeout", httpx.Timeout(10, read=30))
    async with client.stream("GET", url, timeout=timeout, **options) as response:
        if response.status_code != 200:
            await response.aread()
        response.raise_for_status()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield SseStream(response)


class SseStream:
    """Messages of an open stream, one at a time."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.decoder = SseDecoder()
        self._chunks = response.aiter_raw()
        self._ready: list[SseMessage] = []

    def __aiter__(self) -> "SseStream":
        return self

    async def __anext__(self) -> SseMessage:
        while not self._ready:
            chunk = await anext(self._chunks)
            self._ready = list(self.decoder.decode(chunk))
        return self._ready.pop(0)

    async def until(self, wanted: Callable[[SseMessage], bool]) -> list[SseMessage]:
        """Messages up to and including the first that is wanted."""
        seen: list[SseMessage] = []
        async for message in self:
            seen.append(message)
            if wanted(message):
                return seen
        raise AssertionError(f"the stream ended first; seen: {[m.event for m in seen]}")


async def lease(client: httpx.AsyncClient, *, runner: str = "test", task: str = "work", **more: Any) -> tuple[str, str]:
    """A new queued run, leased: its id and the lease's token."""
    created = await client.post("/api/v1/runs", json={"task": task, "mode": "queued", "runner": runner, **more})
    created.raise_for_status()
    leased = await client.post("/api/v1/runs/lease", json={"runners": [runner], "worker": "tester"})
    leased.raise_for_status()
    body = leased.json()
    return body["run"]["id"], body["lease"]["token"]


async def append(client: httpx.AsyncClient, run_id: str, token: str, count: int = 1, **more: Any) -> httpx.Response:
    """Append `count` node updates to a leased run."""
    events = [{"type": "node_update", "node": "n", "iteration": number} for number in range(1, count + 1)]
    return await client.post(
        f"/api/v1/runs/{run_id}/events", json={"events": events, **more}, headers={"tailrace-lease": token}
    )
