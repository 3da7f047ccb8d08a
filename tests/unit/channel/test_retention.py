"""Retention: what it asks of the log, and when."""

import asyncio
import logging

import pytest

from shared.channel.log import LogUnavailable
from shared.channel.retention import Retention
from shared.protocol.position import LogState

Trim = tuple[float, float | None, int | None]


class Trimmed:
    """A log that tells when it was trimmed by what; the first times it fails."""

    def __init__(self, *errors: Exception) -> None:
        self.trims: list[Trim] = []
        self._errors = list(errors)

    async def trim(self, *, max_age_seconds: float | None, max_events: int | None) -> LogState:
        self.trims.append((round(asyncio.get_running_loop().time()), max_age_seconds, max_events))
        if self._errors:
            raise self._errors.pop(0)
        return LogState("e", 0, 1)


async def trims(log: Trimmed, *, max_age_seconds: float = 3.0, max_events: int = 7, seconds: float = 130) -> list[Trim]:
    retention = Retention(log, max_age_seconds=max_age_seconds, max_events=max_events)
    retention.start()
    await asyncio.sleep(seconds)
    assert retention.failing() == []
    await retention.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    return log.trims


async def test_a_log_is_trimmed_at_once_and_every_minute() -> None:
    assert await trims(Trimmed()) == [(0, 3.0, 7), (60, 3.0, 7), (120, 3.0, 7)]


async def test_zero_is_no_bound() -> None:
    assert await trims(Trimmed(), max_age_seconds=0, seconds=1) == [(0, None, 7)]
    assert await trims(Trimmed(), max_events=0, seconds=1) == [(1, 3.0, None)]


async def test_a_log_that_is_away_is_trimmed_a_minute_later(caplog: pytest.LogCaptureFixture) -> None:
    assert [when for when, _, _ in await trims(Trimmed(LogUnavailable("gone")))] == [0, 60, 120]
    (entry,) = caplog.records
    assert (entry.levelno, entry.__dict__["error"]) == (logging.WARNING, "gone")


async def test_a_trim_that_fails_otherwise_is_told() -> None:
    log = Trimmed(ValueError(), ValueError())
    retention = Retention(log, max_age_seconds=1, max_events=1)
    retention.start()
    await asyncio.sleep(0.5)
    assert retention.failing() == ["retention"]
    await retention.close()
