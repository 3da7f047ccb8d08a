"""The tasks service over HTTP and WebSocket. Handlers check and translate; what happens is in `lifecycle`."""

from collections.abc import Callable
from typing import Any

from services.tasks.api import streams, tasks

HANDLERS: tuple[Callable[..., Any], ...] = (*tasks.HANDLERS, *streams.HANDLERS)
