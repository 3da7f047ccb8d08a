"""What keeps the three services busy, and looks at whether it is told as it should be."""

import asyncio
import contextlib
import random
import secrets
from collections.abc import Callable
from typing import Any

import httpx

from shared.client import Client, Conflict
from shared.protocol.control import Reset
from tests.support.previews import preview_url
from tests.support.readers import Stored, Writer

TASKS = "/api/v1/tasks"
PRINTER = """
import os, socket, sys, threading, time
def serve():
    with socket.socket(fileno=3) as listener:
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 x\\r\\ncontent-length: 0\\r\\nconnection: close\\r\\n\\r\\n")
threading.Thread(target=serve, daemon=True).start()
number = 0
while True:
    number += 1
    print("line", number, flush=True)
    time.sleep(0.05)
"""


class CountingWriter(Writer):
    """Tells with a run's end how many events there were."""

    async def write(self, enough: Callable[[Writer], bool]) -> None:
        while not enough(self):
            await self.append(self._chance.randint(1, 8))
            await asyncio.sleep(self._chance.uniform(0, self._pause))
        await self._post("finish", {"status": "completed", "output": str(self.acknowledged)})


class Runs:
    """Runs one after the other, several at a time. Each is held against the log when it has ended, and forgotten."""

    def __init__(
        self, client: httpx.AsyncClient, url: str, chance: random.Random, *, at_once: int, pause: float
    ) -> None:
        self.open: list[str] = []
        self.ended: list[Writer] = []
        self.answers: dict[str, int] = {}
        self._client = client
        self._url = url
        self._chance = chance
        self._at_once = at_once
        self._pause = pause
        self._stopping = False

    async def work(self, changed: Callable[[list[str]], None]) -> None:
        """Until `stop`; `changed` is told which are open."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._at_once):
                group.create_task(self._one_after_the_other(changed))

    def stop(self) -> None:
        self._stopping = True

    async def _one_after_the_other(self, changed: Callable[[list[str]], None]) -> None:
        while not self._stopping:
            name = f"soak-{secrets.token_hex(6)}"
            writer = CountingWriter(self._client, [self._url], name, self._chance, pause_seconds=self._pause)
            await patiently(writer.begin)
            length = self._chance.randint(40, 160)
            self.open.append(writer.run_id)
            changed(self.open)
            await writer.write(lambda writer: self._stopping or writer.acknowledged >= length)  # noqa: B023  awaited here
            self.open.remove(writer.run_id)
            changed(self.open)
            self.ended.append(writer)
            for answer, count in writer.answers.items():
                self.answers[answer] = self.answers.get(answer, 0) + count

    def check(self, log: list[Stored]) -> list[str]:
        """What is wrong with what was acknowledged."""
        by_run: dict[str, list[Stored]] = {}
        for each in log:
            by_run.setdefault(each.run_id, []).append(each)
        wrong = []
        for writer in self.ended:
            try:
                writer.check(by_run.get(writer.run_id, []))
            except AssertionError as error:
                wrong.append(f"{writer.name}: {str(error)[:300] or 'not in the log as it was acknowledged'}")
        return wrong


async def patiently(ask: Callable[[], Any]) -> Any:
    """Again until it is answered."""
    while True:
        try:
            return await ask()
        except httpx.HTTPStatusError as error:
            if error.response.status_code not in (429, 503):
                raise
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.2)


class Tasks:
    """Tasks that are made, changed and ended; a client that follows each sees every snapshot, once and in order."""

    def __init__(self, url: str, chance: random.Random) -> None:
        self.done = 0
        self.wrong: list[str] = []
        self._url = url
        self._chance = chance
        self._stopping = False

    def stop(self) -> None:
        self._stopping = True

    async def work(self) -> None:
        async with Client(self._url) as client:
            while not self._stopping:
                made = await client.request(
                    "POST", TASKS, json={"title": "soak"}, idempotency_key=secrets.token_hex(8), patience_seconds=None
                )
                follower = asyncio.create_task(self._follow(client, made["id"]))
                await self._change(client, made["id"])
                await follower
                self.done += 1

    async def _change(self, client: Client, task_id: str) -> None:
        for done in range(1, self._chance.randint(3, 12)):
            await self._patch(client, task_id, {"status": "running", "progress": {"done": done}})
            await asyncio.sleep(self._chance.uniform(0, 0.6))
        await self._patch(client, task_id, {"status": "succeeded"})

    async def _patch(self, client: Client, task_id: str, patch: dict[str, Any]) -> None:
        # It may be said twice: what is so already is no change.
        with contextlib.suppress(Conflict):  # it went through before, and its answer was lost
            await client.request("PATCH", f"{TASKS}/{task_id}", json=patch, repeatable=True, patience_seconds=None)

    async def _follow(self, client: Client, task_id: str) -> None:
        revisions: list[int] = []
        async with client.follow(f"{TASKS}/{task_id}/stream", after="start", lossless=True) as stream:
            async for item in stream:
                if isinstance(item, Reset):
                    self.wrong.append(f"{task_id}: {item}")
                else:
                    revisions.append(getattr(item, "fields", {}).get("rev", 0))
        if revisions != list(range(1, len(revisions) + 1)):
            self.wrong.append(f"{task_id}: revisions {revisions}")


class Printing:
    """A preview that prints numbered lines, and a client that sees each of them, or how many were dropped."""

    def __init__(self, url: str) -> None:
        self.lines = 0
        self.dropped = 0
        self.wrong: list[str] = []
        self._url = url
        self._generation = f"soak-{secrets.token_hex(4)}"

    async def launch(self) -> None:
        async with Client(self._url) as client:
            body = {"files": {}, "kind": "command", "command": ["python", "-c", PRINTER], "ttl_seconds": 86_400}
            await client.request("POST", preview_url(self._generation), json=body)

    async def work(self) -> None:
        """Until it is cancelled."""
        path = f"{preview_url(self._generation)}/logs/stream"
        async with Client(self._url) as client, client.follow(path, after="start", lossless=True) as stream:
            async for item in stream:
                if isinstance(item, Reset):
                    self.wrong.append(f"the preview's output: {item}")
                    continue
                fields = getattr(item, "fields", {})
                if fields.get("type") == "preview_status" and fields["status"] not in (
                    "preparing",
                    "starting",
                    "running",
                ):
                    self.wrong.append(f"the preview is {fields['status']}: {fields.get('message')}")
                elif fields.get("type") == "log":
                    self._take(fields)

    def _take(self, fields: dict[str, Any]) -> None:
        if fields.get("dropped"):
            self.dropped += fields["dropped"]
            self.lines += fields["dropped"]
        elif fields["message"].startswith("line ") and fields.get("last", True):
            number = int(fields["message"].split()[1])
            if number != self.lines + 1:
                self.wrong.append(f"line {number} came after {self.lines}")
            self.lines = number

    async def stop(self) -> None:
        async with Client(self._url) as client:
            await client.request("DELETE", preview_url(self._generation))
