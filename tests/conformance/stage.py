"""Carries out the steps of a case, and knows afterwards which event of the log is which."""

import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import asyncpg
import httpx
import msgspec

from tests.support.contract import RUNS, Frame, ended_run, finish
from tests.support.server import lease

TASKS = "/api/v1/tasks"
SESSIONS = "/api/v1/sessions"
SERVICES = {"run": "runs", "session": "runs", "task": "tasks"}  # which service's log has them
UNPROVABLE = {"other epoch": "zzzzzz-7", "malformed": "yesterday"}


class Stage:
    """One case's runs, sessions and tasks."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        database: "asyncpg.Connection[asyncpg.Record]",
        services: Sequence[str] = ("runs", "tasks"),
    ) -> None:
        self.ids: dict[str, str] = {}
        self.epochs: dict[str, list[str]] = {service: [] for service in services}
        self._kinds: dict[str, str] = {}
        self._tokens: dict[str, str] = {}
        self._labels: dict[tuple[str, int], tuple[str, dict[str, Any]]] = {}
        self._seqs: dict[str, int] = {}
        self._counts: Counter[str] = Counter()
        self._client = client
        self._database = database

    async def play(self, steps: Iterable[str]) -> None:
        """Carry them out; then look at the log."""
        for step in steps:
            await self._step(step)
        await self._look()

    async def _step(self, step: str) -> None:
        match step.split():
            case ["run", name]:
                await self._run(name)
            case ["run", name, "in", session]:
                await self._run(name, session_id=self.ids[session])
            case ["session", name]:
                self._meet("session", name, f"{name}-{secrets.token_hex(4)}")
            case ["task", name]:
                made = await self._client.post(TASKS, json={"title": name})
                self._meet("task", name, made.raise_for_status().json()["id"])
            case ["elsewhere", count]:
                await ended_run(self._client, int(count), runner="elsewhere")
            case ["new", "epoch"]:
                await self._begin_epoch()
            case ["trimmed", "before", label]:
                await self._trim(label)
            case [name, verb, *rest]:
                await self._act(name, verb, rest)

    async def _run(self, name: str, **more: str) -> None:
        run_id, self._tokens[name] = await lease(self._client, runner=f"r-{secrets.token_hex(4)}", **more)
        self._meet("run", name, run_id)

    def _meet(self, kind: str, name: str, id: str) -> None:
        self.ids[name], self._kinds[name] = id, kind

    async def _act(self, name: str, verb: str, rest: list[str]) -> None:
        if verb == "deleted":
            await self._look()  # before it is gone
        match self._kinds[name], verb, rest:
            case "run", "updates", [count]:
                await self.append(name, [{"type": "node_update", "node": "n", "worker_id": "w"}] * int(count))
            case "run", "errs", []:
                await self.append(name, [{"type": "error", "fatal": False, "code": "c", "message": "m"}])
            case "run", "deleted", []:
                (await self._client.delete(f"{RUNS}/{self.ids[name]}")).raise_for_status()
            case "run", status, []:
                (await finish(self._client, self.ids[name], self._tokens[name], status)).raise_for_status()
            case "session", speaker, ["says", kind]:
                body = {"events": [{"type": kind, "stream_id": speaker}]}
                (await self._client.post(f"{SESSIONS}/{self.ids[name]}/events", json=body)).raise_for_status()
            case "task", "moves", [status]:
                url = f"{TASKS}/{self.ids[name]}"
                (await self._client.patch(url, json={"status": status})).raise_for_status()
            case "task", "deleted", []:
                (await self._client.delete(f"{TASKS}/{self.ids[name]}")).raise_for_status()
            case step:
                raise ValueError(f"no such step: {step}")

    async def append(self, name: str, events: list[dict[str, Any]]) -> None:
        """As its worker."""
        url = f"{RUNS}/{self.ids[name]}/events"
        headers = {"tailrace-lease": self._tokens[name]}
        (await self._client.post(url, json={"events": events}, headers=headers)).raise_for_status()

    async def _begin_epoch(self) -> None:
        """As `tailrace epoch new` does it."""
        await self._look()  # positions of the old epoch stay known
        epoch = secrets.token_hex(3)
        await self._database.execute("UPDATE runs.log SET epoch = $1", epoch)
        await self._database.execute("SELECT pg_notify('tailrace_runs', '')")

    async def _trim(self, label: str) -> None:
        await self._look()
        oldest = self._seqs[label]
        async with self._database.transaction():
            await self._database.execute("UPDATE runs.retained SET oldest = $1", oldest)
            await self._database.execute("DELETE FROM runs.events WHERE seq < $1", oldest)

    async def _look(self) -> None:
        """Number what is new in the log. What was seen once keeps its label, also when it is gone."""
        for name, id in self.ids.items():
            kind = self._kinds[name]
            column, value = ("session", id) if kind == "session" else ("subject", f"{kind}/{id}")
            query = f"SELECT seq, data FROM {SERVICES[kind]}.events WHERE {column} = $1 ORDER BY seq"
            for row in await self._database.fetch(query, value):
                key = SERVICES[kind], row["seq"]
                if key not in self._labels:
                    self._counts[name] += 1
                    label = f"{name}{self._counts[name]}"
                    self._labels[key] = (label, msgspec.json.decode(row["data"]))
                    self._seqs[label] = row["seq"]
        for service, epochs in self.epochs.items():
            epoch = await self._database.fetchval(f"SELECT epoch FROM {service}.log")
            if epoch not in epochs:
                epochs.append(epoch)

    # ── what is where ──────────────────────────────────────────────────────────────────────────────────────────

    async def position(self, service: str, wanted: str) -> str:
        """A position of the table as it is sent."""
        if wanted in UNPROVABLE:
            return UNPROVABLE[wanted]
        if wanted in ("start", "now") or "-" in wanted:
            return wanted
        epoch, name, number = (
            self.epochs[service][-1],
            wanted.rstrip("0123456789"),
            wanted.lstrip("abcdefghijklmnopqrstuvwxyz"),
        )
        if wanted == "ahead":
            seq = await self._database.fetchval(f"SELECT head + 1000000 FROM {service}.log")
        elif wanted == "trimmed":
            seq = await self._database.fetchval(f"SELECT oldest - 2 FROM {service}.retained")
        elif number == "0":
            seq = self._seqs[f"{name}1"] - 1
        else:
            seq = self._seqs[wanted]
        return f"{epoch}-{seq}"

    def labels(self, service: str, frames: Iterable[Frame]) -> str:
        """Frames as labels; what is not as the log has it shows itself in full."""
        told, epochs = [], self.epochs[service]
        epoch = 0
        for frame in frames:
            if frame.type in ("reset", "gap"):
                told.append(f"{frame.type}:{frame.event['reason']}")
                continue
            label, event = self._labels.get((service, frame.seq), ("", {}))
            name = str(frame.id).rpartition("-")[0]
            is_right = event == frame.event and name in epochs[epoch:]
            epoch = epochs.index(name) if is_right else epoch
            told.append(label if is_right else f"?{frame.id}:{frame.event}")
        return " ".join(told)
