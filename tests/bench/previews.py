"""Previews: how fast a program's output gets to storage and to viewers, and how long after its `print`."""

import asyncio
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from shared.protocol.sse import SseDecoder
from tests.support.server import Server

PATIENCE_SECONDS: Final = 120.0
PROGRAM: Final = """
import socket, time
listener = socket.socket(fileno=3)
def answer():  # until it is told to go on
    while True:
        connection, _ = listener.accept()
        asked = connection.recv(65536)
        connection.send(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\nconnection: close\\r\\n\\r\\nok")
        connection.close()
        if b"GET /go" in asked:
            break
answer()
for number in range({lines}):
    {work}
print("the end", flush=True)
answer()
"""
FLOOD: Final = "print('line', number, 'x' * 48)"
TICK: Final = "print('tick', time.monotonic_ns(), flush=True); time.sleep(0.005)"


@dataclass(frozen=True, slots=True)
class Capture:
    """One program that prints `lines` as fast as it can, beside so many viewers."""

    viewers: int
    lines: int
    stored: int
    dropped: int
    seconds: float  # from the first line to the last one stored
    cpu_seconds: float  # the server's, its database's and the program's not in it

    @property
    def per_second(self) -> float:
        return self.lines / self.seconds

    @property
    def per_core(self) -> float:
        """Lines per second of server CPU."""
        return self.lines / self.cpu_seconds


@dataclass(frozen=True, slots=True)
class Previews:
    """What was measured. `latencies` are milliseconds from a program's `print` to an SSE reader."""

    captures: tuple[Capture, ...]
    latencies: tuple[float, ...]

    @property
    def p50(self) -> float:
        return statistics.median(self.latencies)

    @property
    def p99(self) -> float:
        return statistics.quantiles(self.latencies, n=100)[98]


def measure_previews(database_url: str, lines: int, ticks: int, viewers: tuple[int, ...] = (0, 100)) -> Previews:
    """Run it; the program's isolation is the best there is."""
    return asyncio.run(_measure(database_url, lines, ticks, viewers))


async def _measure(database_url: str, lines: int, ticks: int, viewers: tuple[int, ...]) -> Previews:
    with tempfile.TemporaryDirectory(prefix="tailrace-bench-") as directory:
        Path(directory).chmod(0o755)  # a program's own user has to pass
        server = Server(database_url, data_directory=directory, preview_log_lines_per_second=1e6)
        await server.start()
        try:
            unbounded = httpx.Limits(max_connections=None)  # a hundred viewers, and whoever asks beside them
            async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_SECONDS, limits=unbounded) as client:
                # of a hundred viewers each takes all of it: the machine has to carry that as well
                captures = [await _flood(client, server, lines // 20 if count else lines, count) for count in viewers]
                return Previews(tuple(captures), tuple(await _latencies(client, ticks)))
        finally:
            await server.end()


async def _launch(client: httpx.AsyncClient, generation: str, program: str) -> str:
    """Launch it, wait until it answers; return the path of its preview."""
    path = f"/api/v1/generations/{generation}/preview"
    body = {"files": {}, "kind": "command", "command": [sys.executable, "-c", program]}
    (await client.post(path, json=body)).raise_for_status()
    async with client.stream("GET", f"{path}/logs/stream?types=ready") as response:
        async for line in response.aiter_lines():
            if line == "event: ready":
                return path
    raise RuntimeError(f"the program did not come up: {(await client.get(path)).text}")


async def _flood(client: httpx.AsyncClient, server: Server, lines: int, viewers: int) -> Capture:
    path = await _launch(client, f"flood-{viewers}", PROGRAM.format(lines=lines, work=FLOOD))
    process = psutil.Process(server.pid)
    async with AsyncExitStack() as stack:
        responses = [
            await stack.enter_async_context(client.stream("GET", f"{path}/logs/stream?after=now"))
            for _ in range(viewers)
        ]
        watching = [asyncio.create_task(_watch(response)) for response in responses]
        before, began = process.cpu_times(), time.monotonic()
        (await client.get(f"{path}/app/go")).raise_for_status()
        while not (page := await _last(client, path, "the end")):  # noqa: ASYNC110  it is the storage that is measured
            await asyncio.sleep(0.02)
        seconds, after = time.monotonic() - began, process.cpu_times()
        if watching:
            await asyncio.wait(watching, timeout=PATIENCE_SECONDS)
        for task in watching:
            task.cancel()
    dropped, told = await _dropped(client, path)
    await client.delete(path)
    own = 2 + told  # the service's lines: at the launch, and where some were dropped; and the program's at the end
    cpu = after.user + after.system - before.user - before.system
    return Capture(viewers, lines, page["last_line"] - own, dropped, seconds, cpu)


async def _watch(response: httpx.Response) -> None:
    """Take what comes, as a page would, until the end is there."""
    tail = b""
    async for chunk in response.aiter_raw():
        if b'"the end"' in tail + chunk:
            return
        tail = chunk[-64:]


async def _last(client: httpx.AsyncClient, path: str, message: str) -> dict[str, Any] | None:
    page: dict[str, Any] = (await client.get(f"{path}/logs?tail=1")).json()
    return page if page["data"] and page["data"][0]["message"] == message else None


async def _dropped(client: httpx.AsyncClient, path: str) -> tuple[int, int]:
    """How many lines were dropped, and how many lines say so."""
    total, told, after, more = 0, 0, 0, True
    while more:
        page = (await client.get(f"{path}/logs?q=lines dropped&after={after}&limit=5000")).json()
        dropped = [event["dropped"] for event in page["data"] if event.get("dropped")]
        total, told = total + sum(dropped), told + len(dropped)
        after, more = (page["data"][-1]["line"] if page["data"] else 0), page["more"]
    return total, told


async def _latencies(client: httpx.AsyncClient, ticks: int) -> list[float]:
    path = await _launch(client, "tick", PROGRAM.format(lines=ticks, work=TICK))
    found: list[float] = []
    decoder = SseDecoder()
    async with client.stream("GET", f"{path}/logs/stream?after=now&types=log") as response:
        chunks = response.aiter_raw()
        going = asyncio.create_task(client.get(f"{path}/app/go"))
        async for chunk in chunks:
            now = time.monotonic_ns()
            for message in decoder.decode(chunk):
                _, _, printed = message.data.partition('"message":"tick ')
                if printed:
                    found.append((now - int(printed.partition('"')[0])) / 1e6)
            if len(found) >= ticks:
                break
        await going
    await client.delete(path)
    return found


if __name__ == "__main__":
    print(measure_previews(sys.argv[1], lines=int(sys.argv[2]), ticks=int(sys.argv[3])))
