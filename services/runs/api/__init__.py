"""The runs service over HTTP and WebSocket. Handlers check and translate; what happens is in `lifecycle`."""

from collections.abc import Callable
from typing import Any

from services.runs.api import runs, sessions, streams, workers

HANDLERS: tuple[Callable[..., Any], ...] = (
    *runs.HANDLERS,
    *workers.HANDLERS,
    *streams.HANDLERS,
    *sessions.HANDLERS,
)
