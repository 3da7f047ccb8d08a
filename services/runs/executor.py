"""The executor: this process's own worker. It runs built-in runners under leases like any other worker's."""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import msgspec

from services.runs.events import SCHEMA, Error, NodeUpdate, RunEvent, cut_snippet
from services.runs.lifecycle import Lifecycle
from services.runs.model import Run
from services.runs.runners import Runner
from services.runs.steps import Batch, Finish, Lease
from shared.channel.log import LogUnavailable
from shared.channel.tasks import end
from shared.edge.problems import Problem

log = logging.getLogger("tailrace.runs")

PRODUCER = "service"
RETRY_SECONDS = 0.5
MAX_ERROR_CHARACTERS = 2_000
MAX_OUTPUT_BYTES = 200 * 1024  # of an event's 256 KiB


class Executor:
    """Works on at most `capacity` runs at a time. `on_free` is called when a place becomes free."""

    def __init__(
        self, lifecycle: Lifecycle, runners: Mapping[str, Runner], capacity: int, on_free: Callable[[], None]
    ) -> None:
        self.name = f"service-{secrets.token_hex(4)}"
        self.runners = runners
        self._lifecycle = lifecycle
        self._capacity = capacity
        self._on_free = on_free
        self._reserved = 0
        self._works: dict[asyncio.Task[None], _Work] = {}
        self._closing = False

    def reserve(self) -> bool:
        """Take a place for a run about to start; False when there is none. `start` or `release` gives it on."""
        if self._closing or len(self._works) + self._reserved >= self._capacity:
            return False
        self._reserved += 1
        return True

    def release(self) -> None:
        """Give back a reserved place."""
        self._reserved -= 1

    def start(self, run: Run, lease: Lease) -> None:
        """Work on a leased run, on a place reserved before."""
        self._reserved -= 1
        work = _Work(self._lifecycle, run, lease)
        work.task = asyncio.create_task(work.run(self.runners[run.runner]), name=f"run {run.id}")
        self._works[work.task] = work
        work.task.add_done_callback(self._left)

    def cancel(self, run_id: str) -> None:
        """Stop working on a run that is to be cancelled; harmless for one that is not here."""
        for work in self._works.values():
            if work.run_id == run_id:
                work.stop(Stop.CANCEL)

    async def close(self) -> None:
        """Stop working and give the leases back."""
        self._closing = True
        await end(*self._works)

    def _left(self, task: asyncio.Task[None]) -> None:
        del self._works[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("work on a run broke off", exc_info=error)
        self._on_free()


class Stop(Enum):
    """Why work on a run is broken off."""

    CANCEL = "cancel"
    LEASE_LOST = "lease_lost"


def storable(text: str, limit: int) -> str:
    """The text as an event and a row can hold it: without NUL, and cut so that its JSON has at most `limit` bytes."""
    text = text.replace("\0", "\ufffd")
    while (size := len(msgspec.json.encode(text))) > limit:
        text = text[: len(text) * limit // size]
    return text


class _Work:
    """One attempt at one run, under one lease."""

    task: asyncio.Task[None]

    def __init__(self, lifecycle: Lifecycle, run: Run, lease: Lease) -> None:
        self._lifecycle = lifecycle
        self._run = run
        self._lease = lease
        self._began = time.monotonic()
        self._producer = f"{PRODUCER}/{run.attempt}/{lease.token[:8]}"
        self._producer_seq = 0
        self._one_at_a_time = asyncio.Lock()
        self._stop: Stop | None = None
        self._finishing = False

    @property
    def run_id(self) -> str:
        return self._run.id

    def stop(self, why: Stop) -> None:
        """Break off; harmless when that was asked before, or when the runner has come to its end already."""
        if self._stop is None and not self._finishing:
            self._stop = why
            self.task.cancel()

    async def run(self, runner: Runner) -> None:
        """Run it to its end, and say how it ended."""
        renewing = asyncio.create_task(self._keep_lease(), name=f"lease {self._run.id}")
        try:
            finish = await self.outcome(runner)
            self._finishing = True
        except asyncio.CancelledError:
            if self._stop is None:
                await self._give_back()
                raise
            self.task.uncancel()
            finish = Finish(status="cancelled")
        except Problem as problem:  # its events were refused: somebody else has the run now
            log.warning("a run was taken away", extra={"run": self._run.id, "why": problem.detail})
            return
        finally:
            renewing.cancel()
        if self._stop is not Stop.LEASE_LOST:
            await self._finish(finish)

    async def outcome(self, runner: Runner) -> Finish:
        """Run it to its end. What it raises becomes its failure, with the text."""
        try:
            return Finish(status="completed", output=storable(await runner(self._run, self), MAX_OUTPUT_BYTES))
        except (Problem, LogUnavailable):
            raise
        except Exception as error:  # noqa: BLE001  whatever a runner raises is how the run ended
            text = str(error) or type(error).__name__
            return Finish(status="failed", error=storable(text[:MAX_ERROR_CHARACTERS], MAX_OUTPUT_BYTES))

    async def node(self, node: str, **fields: Any) -> None:
        """See Reporter."""
        if fields.get("snippet") is not None:
            fields["snippet"] = cut_snippet(fields["snippet"])
        elapsed = int((time.monotonic() - self._began) * 1000)
        await self._append(NodeUpdate(**self._own, node=node, attempt=self._run.attempt, elapsed_ms=elapsed, **fields))

    async def error(self, code: str, message: str, *, fatal: bool, attempt: int, node: str | None = None) -> None:
        """See Reporter."""
        await self._append(Error(**self._own, fatal=fatal, code=code, message=message, attempt=attempt, node=node))

    @property
    def _own(self) -> dict[str, Any]:
        return {"tenant": self._run.tenant, "run_id": self._run.id, "ts": datetime.now(UTC)}

    async def _append(self, event: RunEvent) -> None:
        run = self._run
        async with self._one_at_a_time:  # the workers of a run share its producer, whose numbers have no holes
            self._producer_seq += 1
            batch = Batch([SCHEMA.built(event)], self._producer, self._producer_seq)
            await self._patiently(lambda: self._lifecycle.append(run.tenant, run.id, self._lease.token, batch))

    async def _keep_lease(self) -> None:
        """Renew until cancelled, or until the run is to stop."""
        while True:
            await asyncio.sleep(self._lifecycle.lease_seconds / 3)
            try:
                _, cancel = await self._lifecycle.renew(self._run.tenant, self._run.id, self._lease.token)
            except LogUnavailable:
                continue  # the next append or renewal tells whether it is lost
            except Problem as problem:
                log.warning("a lease was lost", extra={"run": self._run.id, "why": problem.detail})
                self.stop(Stop.LEASE_LOST)
                return
            if cancel:
                self.stop(Stop.CANCEL)

    async def _finish(self, finish: Finish) -> None:
        run = self._run
        try:
            await self._patiently(lambda: self._lifecycle.finish(run.tenant, run.id, self._lease.token, finish))
        except Problem as problem:
            log.warning("a run was not this process's to finish", extra={"run": run.id, "why": problem.detail})

    async def _give_back(self) -> None:
        try:
            await self._lifecycle.give_back(self._run.tenant, self._run.id, self._lease.token)
        except (Problem, LogUnavailable) as error:
            log.warning("a lease was not given back; it will expire", extra={"run": self._run.id, "why": str(error)})

    async def _patiently(self, store: Callable[[], Any]) -> None:
        """Store again while the database is away; safe, since events are numbered and a finish may be repeated."""
        while True:
            try:
                await store()
                return
            except LogUnavailable:
                await asyncio.sleep(RETRY_SECONDS)
