"""A pytest plugin for tests that wait for nothing outside the process: their loop's time passes only while nobody has
anything to do, and then at once.

What would wait for ever is told so, and a machine on which others are busy changes no verdict.
"""

import asyncio
import selectors
from collections.abc import Callable, Mapping
from typing import Any

TURN_SECONDS = 0.0001  # what a turn of the loop takes: who turns it in vain meets his deadline too


class _Selector(selectors.DefaultSelector):
    """Never waits; tells how long it should have."""

    def __init__(self, waited: Callable[[float], None]) -> None:
        super().__init__()
        self._waited = waited

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("all wait for each other, and no deadline will end it")
        self._waited(max(timeout, TURN_SECONDS))
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_Selector(self._pass))

    def time(self) -> float:
        return self._now

    def _pass(self, seconds: float) -> None:
        self._now += seconds


def pytest_asyncio_loop_factories(config: Any, item: Any) -> Mapping[str, type[Loop]]:
    return {"clock": Loop}
