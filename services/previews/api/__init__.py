"""The previews service over HTTP and WebSocket. Handlers check and translate; what happens is in `programs`."""

from collections.abc import Callable
from typing import Any

from services.previews.api import logs, previews, streams

HANDLERS: tuple[Callable[..., Any], ...] = (*previews.HANDLERS, *logs.HANDLERS, *streams.HANDLERS)
