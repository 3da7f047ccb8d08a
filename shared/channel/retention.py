"""Retention: forgetting the oldest events, again and again."""

import asyncio
import logging
from typing import Protocol

from shared.channel.log import LogUnavailable
from shared.channel.tasks import Keeper
from shared.protocol.position import LogState

log = logging.getLogger("tailrace.channel")

EVERY_SECONDS = 60.0


class Trimmable(Protocol):
    async def trim(self, *, max_age_seconds: float | None, max_events: int | None) -> LogState: ...


class Retention:
    """Trims a log by age and by count; zero means no bound."""

    def __init__(self, event_log: Trimmable, *, max_age_seconds: float, max_events: int) -> None:
        self._log = event_log
        self._max_age = max_age_seconds or None
        self._max_events = max_events or None
        self._keeper = Keeper()

    def start(self) -> None:
        self._keeper.keep("retention", self._run)

    async def close(self) -> None:
        await self._keeper.close()

    def failing(self) -> list[str]:
        """Its name when it does not work now."""
        return self._keeper.failing()

    async def _run(self) -> None:
        while True:
            try:
                await self._log.trim(max_age_seconds=self._max_age, max_events=self._max_events)
            except LogUnavailable as error:
                log.warning("retention waits for the database", extra={"error": str(error)})
            await asyncio.sleep(EVERY_SECONDS)
