"""The examples of docs/client.md, run as they stand against a real server."""

import asyncio
import re
import sqlite3
import textwrap
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.client import Worker
from tests.integration.client_support import in_time
from tests.integration.test_sync import stored_run
from tests.integration.test_worker import ended, queued
from tests.support.contract import Served, ended_run
from tests.support.server import ROOT

FENCE = re.compile(r"^```python (\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = dict(FENCE.findall((ROOT / "docs/client.md").read_text("utf-8")))


def example(name: str, url: str) -> str:
    assert "http://127.0.0.1:8000" in EXAMPLES[name]
    return str(EXAMPLES[name].replace("http://127.0.0.1:8000", url))


async def run_example(name: str, url: str) -> dict[str, Any]:
    """Run it inside a coroutine; its names afterwards are not kept, but what it prints is."""
    names: dict[str, Any] = {}
    exec(f"async def example():\n{textwrap.indent(example(name, url), '    ')}", names)
    await names["example"]()
    return names


def test_every_example_is_run_here() -> None:
    assert set(EXAMPLES) == {"follow", "consume", "publish", "work", "sync"}


async def test_following(tailrace: Served, capsys: pytest.CaptureFixture[str]) -> None:
    async with in_time():
        await run_example("follow", tailrace.url)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[:-1]][-1] == "completed"
    assert lines[-1] == "completed"


async def test_consuming(
    client: httpx.AsyncClient, tailrace: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = await ended_run(client)
    task = asyncio.create_task(run_example("consume", tailrace.url))
    try:
        async with in_time():
            while before not in stored(tmp_path):
                await client.get("/ready")
            after = await ended_run(client)
            while stored(tmp_path).get(after) != "completed":
                await client.get("/ready")
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled()


def stored(directory: Path) -> dict[str, str]:
    with closing(sqlite3.connect(directory / "effects.sqlite")) as database:
        try:
            return dict(database.execute("SELECT run_id, status FROM ended").fetchall())
        except sqlite3.OperationalError:  # not yet made
            return {}


async def test_publishing(client: httpx.AsyncClient, tailrace: Served, capsys: pytest.CaptureFixture[str]) -> None:
    async with in_time():
        await run_example("publish", tailrace.url)
    everything: dict[str, str | int] = {"after": "start", "types": "*", "limit": 1000}
    page = (await client.get("/api/v1/sessions/colony-7/events", params=everything)).json()
    assert page["data"][0]["id"] == capsys.readouterr().out.strip()
    assert [frame["event"]["number"] for frame in page["data"][1:]] == list(range(999))


async def test_working(client: httpx.AsyncClient, tailrace: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    workers: list[Worker] = []
    run = Worker.run

    async def noted(worker: Worker) -> None:
        workers.append(worker)
        await run(worker)

    monkeypatch.setattr(Worker, "run", noted)
    task = asyncio.create_task(run_example("work", tailrace.url))
    async with in_time():
        finished = await ended(client, await queued(client, "count", task="four words are here"))
        workers[0].stop()
        await task
    assert finished["output"] == "4 words"


def test_without_an_event_loop(tailrace: Served, capsys: pytest.CaptureFixture[str]) -> None:
    stored_run(tailrace.url)
    exec(example("sync", tailrace.url), {})
    assert capsys.readouterr().out
