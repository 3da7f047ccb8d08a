"""A worker: takes runs under leases, as many at a time as it has room for, and has a handler work on them."""

import asyncio
import logging
import random
import secrets
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from shared.client.attempt import RUNS, Attempt, Handler, LeasedRun, OnRetry
from shared.client.backoff import pause
from shared.client.client import Client

__all__ = ["LeasedRun", "Worker"]

log = logging.getLogger("tailrace.client")

T = TypeVar("T")

WAIT_SECONDS = 20.0  # how long one question for work may take


class Worker:
    """Works on queued runs of `runners`, up to `capacity` at a time.

    What `handler` returns is the run's output, what it raises the run's error. Its task is cancelled when the run is;
    it has `cancel_grace_seconds` to come to an end. A run whose lease is lost, because this process could not renew it,
    is somebody else's: its handler is cancelled too, and nothing more is said of it.
    """

    def __init__(
        self,
        client: Client,
        runners: Sequence[str],
        handler: Handler,
        name: str | None = None,
        capacity: int = 1,
        *,
        cancel_grace_seconds: float = 5.0,
        on_retry: OnRetry | None = None,
    ) -> None:
        self.name = name or f"worker-{secrets.token_hex(4)}"
        self._client = client
        self._runners = list(runners)
        self._handler = handler
        self._grace_seconds = cancel_grace_seconds
        self._on_retry = on_retry
        self._room = asyncio.Semaphore(capacity)
        self._stopping = asyncio.Event()
        self._attempts: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        """Take no more runs; `run` returns when those under way have ended."""
        self._stopping.set()

    async def run(self) -> None:
        """Work until `stop`. Raise Refused when no work is given to this client.

        When it is cancelled, the handlers are too. Their runs cannot be given back over HTTP: each goes back into the
        queue as another attempt when its lease expires.
        """
        try:
            while not self._stopping.is_set():
                await self._take_one()
            if self._attempts:
                await asyncio.wait(self._attempts)
        finally:
            for attempt in self._attempts:
                attempt.cancel()
            if self._attempts:
                await asyncio.wait(self._attempts)

    async def _take_one(self) -> None:
        """Wait for room and for a run, and begin with it."""
        if not await self._unless_stopped(self._room.acquire()):
            return
        leased = None
        try:
            leased = await self._unless_stopped(self._lease())
        finally:
            if leased is None:
                self._room.release()
        if leased is not None:
            attempt = asyncio.create_task(self._attempt(leased), name=f"attempt at {leased['run']['id']}")
            self._attempts.add(attempt)
            attempt.add_done_callback(self._ended)

    async def _lease(self) -> Any:
        """A run and its lease; None when none came in time. If the answer is lost, that lease expires by itself."""
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        leased = await self._client.request(
            "POST",
            f"{RUNS}/lease",
            json={"runners": self._runners, "worker": self.name, "wait_seconds": WAIT_SECONDS},
            repeatable=True,
            patience_seconds=None,
            timeout_seconds=WAIT_SECONDS + 10,
            on_retry=self._on_retry,
        )
        if leased is None and loop.time() - asked_at < WAIT_SECONDS / 2:
            await asyncio.sleep(pause(2, random.random()))  # answered early, by a server that is leaving for example
        return leased

    async def _attempt(self, leased: Any) -> None:
        await Attempt(
            self._client,
            leased,
            self._handler,
            self.name,
            cancel_grace_seconds=self._grace_seconds,
            on_retry=self._on_retry,
        ).run()

    def _ended(self, attempt: "asyncio.Task[None]") -> None:
        self._attempts.discard(attempt)
        self._room.release()
        if not attempt.cancelled() and (error := attempt.exception()) is not None:
            log.error("an attempt at a run broke off", exc_info=error)

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Its result; None when `stop` came first. Then it is cancelled."""
        working = asyncio.ensure_future(work)
        stopped = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait([working, stopped], return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            for task in (working, stopped):
                task.cancel()
            await asyncio.wait([working, stopped])
