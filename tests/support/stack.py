"""The stack of compose.yaml, brought up for real under a name, a port and a subnet of its own."""

import asyncio
import os
import random
import secrets
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec

from tests.support.contract import RUNS
from tests.support.readers import Stored, eventually
from tests.support.server import ROOT, free_port

SECONDS = 240.0  # for what a busy machine does with containers


class Stack:
    """One project of Compose. `lease_seconds` and the like go to it as TAILRACE_…"""

    def __init__(self, **settings: object) -> None:
        self.name = f"tailrace-test-{secrets.token_hex(4)}"
        self.port, self.tls_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.files: Sequence[str] = ("compose.yaml",)
        self.environment = {
            **os.environ,
            "DOCKER_BUILDKIT": os.environ.get("DOCKER_BUILDKIT", "0"),  # for stand-ins, which are in no registry
            "TAILRACE_HTTP_PORT": str(self.port),
            "TAILRACE_HTTPS_PORT": str(self.tls_port),
            "TAILRACE_SUBNET": f"172.30.{random.randrange(1, 255)}",
            **{f"TAILRACE_{name.upper()}": str(value) for name, value in settings.items()},
        }

    def compose(self, *arguments: str, check: bool = True) -> str:
        """Run `docker compose`, in whichever version there is; return what it prints."""
        files = [word for file in self.files for word in ("-f", file)]
        return run(*compose_command(), *files, "-p", self.name, *arguments, check=check, env=self.environment)

    async def composed(self, *arguments: str) -> str:
        return await asyncio.to_thread(self.compose, *arguments)

    async def scaled(self, service: str, count: int) -> None:
        """So many replicas of it. Those that leave do so in good order."""
        await self.composed("up", "--detach", "--no-recreate", "--no-deps", "--scale", f"{service}={count}", service)

    def containers(self, service: str) -> list[str]:
        labels = (f"project={self.name}", f"service={service}")
        filters = [word for label in labels for word in ("--filter", f"label=com.docker.compose.{label}")]
        return sorted(run("docker", "ps", "--quiet", *filters).split())

    def inside(self, service: str, *command: str) -> str:
        """Run a command in the service's container; return what it prints."""
        return run("docker", "exec", self.containers(service)[0], *command)

    def addresses(self, service: str) -> list[str]:
        """On every network it is on."""
        template = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
        return run("docker", "inspect", "-f", template, *self.containers(service)).split()

    async def restarted(self, container: str) -> None:
        """kill -9, and begin again."""
        await asyncio.to_thread(run, "docker", "kill", container)
        await asyncio.to_thread(run, "docker", "start", container)

    async def ready(self, client: httpx.AsyncClient, services: Sequence[str] = ("tasks", "runs", "previews")) -> None:
        """Until all of them say so, through the proxy."""

        async def is_ready(name: str) -> bool:
            try:
                return (await client.get(f"/api/v1/{name}/ready")).status_code == 200
            except httpx.TransportError:
                return False

        for name in services:
            await eventually(lambda name=name: is_ready(name), f"{name} is ready", SECONDS)  # type: ignore[misc]


def compose_command() -> list[str]:
    """The plugin, or the program that was there before."""
    has_plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
    return ["docker", "compose"] if has_plugin else ["docker-compose"]


def run(*command: str, check: bool = True, **options: Any) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0 or not check, f"{' '.join(command)}\n{done.stdout[-3000:]}{done.stderr[-6000:]}"
    return str(done.stdout)


@contextmanager
def brought_up(**settings: object) -> Iterator[Stack]:
    """Built, started and healthy; removed afterwards. TAILRACE_TEST_STACK_LOG names a file for the logs."""
    stack = Stack(**settings)
    try:
        stack.compose("up", "--build", "--detach")
        yield stack
    finally:
        if logs := os.environ.get("TAILRACE_TEST_STACK_LOG"):
            Path(logs).write_text(stack.compose("logs", "--no-color", check=False))
        stack.files = ("compose.yaml",)
        stack.compose("down", "--volumes", "--remove-orphans", "--timeout=5", check=False)


async def log_through(client: httpx.AsyncClient) -> list[Stored]:
    """The log of runs, read in pages through the proxy. It must have no hole."""
    stored: list[Stored] = []
    after = "start"
    while True:
        answer = (await client.get(f"{RUNS}/events", params={"after": after, "limit": 1000})).raise_for_status().json()
        for frame in answer["data"]:
            event = frame["event"]
            if "run_id" in event:
                seq = int(frame["id"].rpartition("-")[2])
                stored.append(
                    Stored(seq, event["run_id"], event["type"], msgspec.json.decode(msgspec.json.encode(event)))
                )
        if after == answer["next"]:
            break
        after = answer["next"]
    assert [each.seq for each in stored] == list(range(1, len(stored) + 1))
    return stored


async def lines_of(client: httpx.AsyncClient, generation: str) -> AsyncIterator[str]:
    """What a preview's program has printed."""
    answer = await client.get(f"/api/v1/generations/{generation}/preview/logs", params={"limit": 1000})
    for line in answer.raise_for_status().json()["data"]:
        if line["source"] == "preview":
            yield line["message"]
