"""One attempt at a run: its handler works, its lease is renewed, its end is told."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from shared.client.client import Client
from shared.client.errors import ClientError, Conflict, Forbidden, Missing, Refused, Unavailable
from shared.client.publish import Published, Publisher

log = logging.getLogger("tailrace.client")

RUNS = "/api/v1/runs"
RENEWAL_SECONDS = (0.1, 10.0)  # within these even if this machine's clock is wrong
CALL_SECONDS = 10.0
MAX_ERROR_CHARACTERS = 1_000

_left_behind: set["asyncio.Task[str | None]"] = set()  # or the event loop would forget them

OnRetry = Callable[[Unavailable], None]


class LeasedRun:
    """A run to work on. `json` is all of it, as `GET /api/v1/runs/<id>` shows it.

    `cancelled` is set when the run is to stop or is somebody else's: for code that a cancelled task does not reach, in
    a thread for example.
    """

    def __init__(self, json: dict[str, Any], worker: str, publisher: Publisher, heed: Callable[[object], None]) -> None:
        self.json = json
        self.id: str = json["id"]
        self.task: str = json["task"]
        self.params: dict[str, Any] = json["params"]
        self.attempt: int = json["attempt"]
        self.cancelled = asyncio.Event()
        self._worker = worker
        self._publisher = publisher
        self._heed = heed

    async def emit(self, type: str, /, **fields: Any) -> Published:
        """Tell of the work by an event, such as `node_update`; return when it is stored. Raise Refused.

        Events that are emitted at the same time go out together. A `node_update` gets this worker's name and attempt.
        """
        if type == "node_update":
            fields = {"worker_id": self._worker, "attempt": self.attempt, **fields}
        try:
            published = await self._publisher.publish({"type": type, **fields})
        except Refused as refusal:
            self._heed(refusal)
            raise
        self._heed(published)
        return published


Handler = Callable[[LeasedRun], Awaitable[str | None]]


class Attempt:
    """`run` returns when the run has been finished, or is not ours any more."""

    def __init__(
        self,
        client: Client,
        leased: Mapping[str, Any],
        handler: Handler,
        worker: str,
        *,
        cancel_grace_seconds: float,
        on_retry: OnRetry | None = None,
    ) -> None:
        run = leased["run"]
        self._client = client
        self._handler = handler
        self._grace_seconds = cancel_grace_seconds
        self._on_retry = on_retry
        self._path = f"{RUNS}/{run['id']}"
        self._lease: Mapping[str, str] = leased["lease"]
        self._headers = {"tailrace-lease": self._lease["token"]}
        # A name of its own for each attempt: its numbers begin anew, and so does what a lost worker may yet send.
        producer = f"{worker[:70]}/{run['attempt']}/{secrets.token_hex(4)}"
        self._publisher = Publisher(client, f"{self._path}/events", producer, headers=self._headers, on_retry=on_retry)
        self.leased = LeasedRun(run, worker, self._publisher, self._heed)
        self._stop: Literal["", "cancelled", "lost"] = ""
        self._stopped = asyncio.Event()
        if leased.get("cancel"):
            self._stop_for("cancelled")

    async def run(self) -> None:
        """Work on it to its end. Cancelled: the handler is too, and the lease is left to expire."""
        renewing = asyncio.create_task(self._renew(), name="renew lease")
        work = asyncio.create_task(self._work(), name="work on run")
        try:
            interrupted = await self._until_done(work)
            status, text = ("cancelled", None) if interrupted else self._outcome(work)
            await self._publisher.aclose()  # all that it said comes before its end
            if self._stop != "lost":
                await self._finish(status, text)
        finally:
            renewing.cancel()
            await self._end(work)
            await self._publisher.abort()

    async def _work(self) -> str | None:
        return await self._handler(self.leased)

    async def _until_done(self, work: "asyncio.Task[str | None]") -> bool:
        """Wait until the handler has returned. True: it was told to stop instead, and has had its time."""
        stopped = asyncio.create_task(self._stopped.wait())
        try:
            await asyncio.wait([work, stopped], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
        if work.done():
            return False
        await self._end(work)
        return True

    async def _end(self, work: "asyncio.Task[str | None]") -> None:
        """Cancel it, and give it time. One that goes on all the same is left behind, and the log says so."""
        if work.done():
            return
        work.cancel()
        await asyncio.wait([work], timeout=self._grace_seconds)
        if not work.done():
            _left_behind.add(work)
            work.add_done_callback(_left_behind.discard)
            log.error("a handler did not stop when it was told to", extra={"run": self.leased.id})
        elif not work.cancelled() and (error := work.exception()) is not None:
            log.info("a handler failed while it was being stopped", exc_info=error, extra={"run": self.leased.id})

    def _outcome(self, work: "asyncio.Task[str | None]") -> tuple[str, str | None]:
        """How the run has ended: a status, and its output or error."""
        if work.cancelled():
            return "failed", "the handler was cancelled, though nobody asked for it"
        error = work.exception()
        if error is None:
            return "completed", work.result()
        log.info("a run has failed", exc_info=error, extra={"run": self.leased.id})
        return "failed", _one_line(error)

    # ── the lease ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _renew(self) -> None:
        while self._stop != "lost":
            await asyncio.sleep(self._renewal_seconds())
            try:
                answer = await self._post("/lease/renew", None)
            except ClientError as error:
                self._heed(error)
                log.warning("a lease cannot be renewed", extra={"run": self.leased.id, "reason": str(error)})
                continue
            self._lease = answer["lease"]
            if answer["cancel"]:
                self._stop_for("cancelled")

    def _renewal_seconds(self) -> float:
        left = datetime.fromisoformat(self._lease["expires_at"]) - datetime.now(UTC)
        least, most = RENEWAL_SECONDS
        return min(max(left.total_seconds() / 3, least), most)

    def _heed(self, answer: object) -> None:
        """What the server's answers say of the run: it is to stop, or it is not ours."""
        if isinstance(answer, Published) and answer.cancel:
            self._stop_for("cancelled")
        elif isinstance(answer, Forbidden | Missing) or (
            isinstance(answer, Conflict) and "expected_producer_seq" not in answer.problem
        ):
            self._stop_for("lost")

    def _stop_for(self, reason: Literal["cancelled", "lost"]) -> None:
        if self._stop != "lost":
            self._stop = reason
        self.leased.cancelled.set()
        self._stopped.set()

    # ── the end ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _finish(self, status: str, text: str | None) -> None:
        """Say how it ended, until there is an answer."""
        body = {"status": status, "output" if status == "completed" else "error": text}
        try:
            await self._post("/finish", body)
        except (Forbidden, Conflict, Missing) as refusal:
            log.info("a run was over before its worker said so", extra={"run": self.leased.id, "reason": str(refusal)})
        except Refused as refusal:
            if status != "completed":
                raise
            await self._finish("failed", f"the output was refused: {_one_line(refusal)}")

    async def _post(self, path: str, body: Any) -> Any:
        return await self._client.request(
            "POST",
            self._path + path,
            json=body,
            headers=self._headers,
            repeatable=True,
            patience_seconds=None,
            timeout_seconds=CALL_SECONDS,
            on_retry=self._on_retry,
        )


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).replace("\0", "").split()) or type(error).__name__
    return text if len(text) <= MAX_ERROR_CHARACTERS else text[: MAX_ERROR_CHARACTERS - 1] + "…"
