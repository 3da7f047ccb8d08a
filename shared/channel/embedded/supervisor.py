"""The asynchronous part: starting, stopping, and starting again whenever the server dies."""

import asyncio
import logging
import random
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from shared.channel.embedded.places import ELSEWHERE, EmbeddedPostgresError
from shared.channel.embedded.server import SETTINGS, Server

WATCH_SECONDS = 0.1
LONGEST_PAUSE = 5.0
STEADY_SECONDS = 10.0  # after a life this long the next attempt comes at once again

logger = logging.getLogger(__name__)


class EmbeddedPostgres:
    """One PostgreSQL over one data directory, started again whenever it dies, with the same URI.

    `settings` are PostgreSQL's own, and go over those in `SETTINGS`. Call `stop` before the loop ends:
    nothing else ends the server. It may be started again afterwards.
    """

    def __init__(
        self, data_directory: Path, *, settings: Mapping[str, str] | None = None, elsewhere: Path = ELSEWHERE
    ) -> None:
        self._server = Server(data_directory.absolute(), {**SETTINGS, **(settings or {})}, elsewhere)
        self._worker: ThreadPoolExecutor | None = None
        self._supervisor: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Start the server and return its URI once it takes connections.

        Raises EmbeddedPostgresError. Then, and when it is cancelled, nothing is left running.
        """
        if self._worker is not None:
            raise EmbeddedPostgresError("This embedded PostgreSQL has been started already: stop it first.")
        # One thread, so that what is stopped while it starts is stopped after that.
        worker = self._worker = ThreadPoolExecutor(1, thread_name_prefix="embedded-postgres")
        self._server.ending.clear()
        try:
            uri = await asyncio.get_running_loop().run_in_executor(worker, self._server.open)
        except BaseException:
            await self._close()
            raise
        self._supervisor = asyncio.create_task(self._supervise(worker), name="embedded-postgres")
        return uri

    async def stop(self) -> None:
        """End the server; its clients are disconnected. No process stays behind."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None and not supervisor.done():
            supervisor.cancel()
            await asyncio.wait([supervisor])
        await self._close()

    async def _close(self) -> None:
        worker, self._worker = self._worker, None
        if worker is None:
            return
        self._server.ending.set()
        closing = asyncio.get_running_loop().run_in_executor(worker, self._server.close)
        worker.shutdown(wait=False)
        await asyncio.shield(closing)  # when cancelled here, the thread still comes to its end

    async def _supervise(self, worker: ThreadPoolExecutor) -> None:
        attempt, started = 0, time.monotonic()
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if self._server.alive():
                continue
            attempt = 0 if time.monotonic() - started > STEADY_SECONDS else attempt + 1
            logger.warning("the embedded PostgreSQL is gone and is started again", extra={"attempt": attempt})
            pause = min(LONGEST_PAUSE, 0.1 * 2 ** min(attempt, 10)) * random.uniform(0.5, 1)
            await asyncio.sleep(pause if attempt else 0)
            try:
                await asyncio.get_running_loop().run_in_executor(worker, self._server.launch)
            except (EmbeddedPostgresError, OSError, psutil.Error) as error:
                logger.error("the embedded PostgreSQL did not start", extra={"reason": str(error)})
            else:
                logger.info("the embedded PostgreSQL is back", extra={"attempt": attempt})
            started = time.monotonic()
