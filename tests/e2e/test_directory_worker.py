"""The example worker in its own process: watched over cuts by three clients, stopped, killed, refused."""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Page

from tests.e2e.watchers import SECONDS, CurlWatcher, EventSourceWatcher, Watcher, WebSocketWatcher
from tests.support.contract import RUNS, Frame, events_of
from tests.support.server import ROOT, Server, running

SHORT_LEASES = {"lease_seconds": 1, "retry_milliseconds": 50}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A hundred directories with all that a reader could stumble over."""
    root = tmp_path / "tree"
    for number in range(99):
        directory = root / f"{number % 10}" / f"d{number}"
        directory.mkdir(parents=True)
        (directory / "text.TXT").write_text("line\n" * number)
        (directory / "data").write_bytes(bytes(number * 100))
    (root / "0" / "round").symlink_to(root, target_is_directory=True)
    (root / "0" / "file.link").symlink_to(root / "1" / "d1" / "text.TXT")
    os.mkfifo(root / "0" / "pipe")  # reading it would wait for ever
    (root / "ünï\u2028cödé.py").write_text("print()\nno newline at the end")
    (root / os.fsdecode(b"not-utf8-\xff")).write_bytes(b"\n")
    (root / "empty").mkdir()
    return root


@asynccontextmanager
async def worker(url: str, *options: str) -> AsyncIterator["Worker"]:
    """The example, killed at the end of the block if it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "examples/directory_worker.py",
        "--url",
        url,
        *options,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield Worker(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


class Worker:
    """Its process, and what it prints."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def says(self, wanted: str) -> str:
        """The next line that has `wanted` in it."""
        assert self.process.stdout is not None
        async with asyncio.timeout(SECONDS):
            async for line in self.process.stdout:
                if wanted in line.decode():
                    return line.decode()
        raise AssertionError(f"it never said {wanted!r}")

    async def leaves(self) -> tuple[int, str]:
        """Its exit code, and what it said on the way out."""
        async with asyncio.timeout(SECONDS):
            said, _ = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, said.decode()


def found_by_walking(root: Path) -> dict[str, Any]:
    """What the run's output must say of it, by other means."""
    directories, sizes, extensions, lines = 0, Counter[str](), Counter[str](), 0
    for place, _, names in os.walk(root):
        directories += 1
        for name in names:
            path = Path(place, name)
            if path.is_file() and not path.is_symlink():
                shown = os.fsencode(path.relative_to(root)).decode("utf-8", "replace")
                sizes[shown] = path.stat().st_size
                extensions[path.suffix.lower() or "none"] += 1
                lines += path.read_bytes().count(b"\n")
    (largest, size), *_ = sizes.most_common(1)
    return {
        "directories": directories,
        "files": len(sizes),
        "bytes": sizes.total(),
        "lines": lines,
        "unreadable": 0,
        "largest": {"path": largest, "bytes": size},
        "by_extension": dict(extensions),
    }


async def submitted(client: httpx.AsyncClient, task: Path) -> str:
    body = {"task": str(task), "mode": "queued", "runner": "directory"}
    created = (await client.post(RUNS, json=body)).raise_for_status()
    return str(created.json()["id"])


async def detail_of(client: httpx.AsyncClient, run_id: str) -> dict[str, Any]:
    run: dict[str, Any] = (await client.get(f"{RUNS}/{run_id}")).raise_for_status().json()
    return run


@asynccontextmanager
async def following(*watchers: Watcher) -> AsyncIterator[None]:
    """They follow; at the end of the block until the stream has ended for each of them."""
    tasks = [asyncio.create_task(watcher.follow()) for watcher in watchers]
    try:
        yield
        async with asyncio.timeout(SECONDS):
            await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def kill_and_restart(server: Server, watchers: Sequence[Watcher]) -> None:
    """kill -9; the next process starts when everybody has noticed."""
    await server.kill()
    for watcher in watchers:
        await watcher.until(lambda watcher: watcher.cuts > 0)
        assert not watcher.has_ended
    await server.start()
    for watcher in watchers:
        watcher.is_back()


@pytest.mark.browser
async def test_three_clients_watch_a_directory_being_read_over_kill_9(
    database_url: str, tree: Path, page: Page
) -> None:
    async with (
        running(database_url, retry_milliseconds=50) as server,
        httpx.AsyncClient(base_url=server.url) as client,
        worker(server.url, "--submit", str(tree), "--pause", "0.03", "--once") as reader,
    ):
        url = (await reader.says("Watch it:")).split()[-1]
        run_id = url.split("/")[-2]
        await page.goto(server.url)
        watchers = [CurlWatcher(url), EventSourceWatcher(url, page), WebSocketWatcher(url)]
        async with following(*watchers):
            for watcher in watchers:
                await watcher.until(lambda watcher: len(watcher.events) >= 20)
            await kill_and_restart(server, watchers)
        code, said = await reader.leaves()
        stored = await events_of(client, run_id)
        run = await detail_of(client, run_id)

    assert code == 0
    assert "trying again" in said  # the worker was cut off as well
    assert [frame.event["iteration"] for frame in stored if frame.type == "node_update"] == list(range(1, 112))
    for watcher in watchers:
        assert [(frame.id, frame.event) for frame in watcher.events] == [(frame.id, frame.event) for frame in stored]
        assert len(watcher.hellos) == 2
        assert watcher.hellos[1].event["resumed"]
        assert watcher.frames[-1].event["status"] == "completed"
    assert (run["status"], run["attempt"]) == ("completed", 1)
    assert json.loads(run["output"]) == found_by_walking(tree)


async def test_another_worker_takes_over_from_one_that_was_killed(database_url: str, tree: Path) -> None:
    async with (
        running(database_url, **SHORT_LEASES) as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        run_id = await submitted(client, tree)
        watcher = CurlWatcher(f"{server.url}{RUNS}/{run_id}/stream")
        async with following(watcher):
            async with worker(server.url, "--pause", "0.05") as first:
                await watcher.until(lambda watcher: len(watcher.events) >= 5)
                first.process.send_signal(signal.SIGKILL)
                await first.leaves()
            async with worker(server.url, "--once") as second:
                assert await second.leaves() == (0, f"{run_id}, attempt 2: reading {tree}\n{run_id}: completed\n")
        run = await detail_of(client, run_id)

    told = [frame for frame in watcher.events if frame.type != "node_update"]
    assert [life(frame) for frame in told] == [
        ("queued", 1),
        ("running", 1),
        ("lease_lost", 1),
        ("queued", 2),
        ("running", 2),
        ("completed", 2),
    ]
    assert json.loads(run["output"]) == found_by_walking(tree)


def life(frame: Frame) -> tuple[str, int]:
    event = frame.event
    return event["code"] if event["type"] == "error" else event["status"], event["attempt"]


async def test_a_worker_stops_when_its_run_is_cancelled(database_url: str, tree: Path) -> None:
    async with (
        running(database_url, **SHORT_LEASES) as server,
        httpx.AsyncClient(base_url=server.url) as client,
        worker(server.url, "--pause", "0.05", "--once") as reader,
    ):
        run_id = await submitted(client, tree)
        await reader.says("attempt 1: reading")
        (await client.post(f"{RUNS}/{run_id}/cancel")).raise_for_status()
        assert await reader.leaves() == (0, f"{run_id}: cancelled\n")
        run = await detail_of(client, run_id)
    assert run["status"] == "cancelled"
    assert len(run["events"]) < 100


async def test_a_directory_that_does_not_exist_fails_the_run_with_the_reason(database_url: str, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    async with (
        running(database_url) as server,
        httpx.AsyncClient(base_url=server.url) as client,
        worker(server.url, "--submit", str(nowhere), "--once") as reader,
    ):
        code, _ = await reader.leaves()
        (run,) = (await client.get(RUNS)).json()["data"]
    assert code == 0
    assert run["status"] == "failed"
    assert run["error"].startswith(f"There is no directory {nowhere} on ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_worker_leaves_without_a_traceback(database_url: str, tree: Path, number: int) -> None:
    async with (
        running(database_url) as server,
        worker(server.url, "--submit", str(tree), "--pause", "10") as reader,
    ):
        await reader.says("attempt 1: reading")
        reader.process.send_signal(number)
        code, said = await reader.leaves()
    assert code == 130
    assert said == "Stopped. A run that was being read goes back into the queue when its lease expires.\n"


async def test_a_worker_that_finds_nobody_to_submit_to_says_so(unused_tcp_port: int) -> None:
    async with worker(f"http://127.0.0.1:{unused_tcp_port}", "--submit", ".") as reader:
        code, said = await reader.leaves()
    assert code == 1
    assert said.count("\n") == 1
    assert "Connection refused" in said
