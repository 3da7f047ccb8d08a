"""What both transports are to a stream: frames as they come, until the connection is cut."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from msgspec import Struct

Parameters = Sequence[tuple[str, str]]


class Frame(Struct, frozen=True):
    """A frame as it came. `id` is empty where it has none; `data` is the event's JSON."""

    id: str
    data: bytes


class Target(Struct, frozen=True):
    """What a stream is asked for. `resume` is the last id received, None the first time."""

    path: str
    parameters: Parameters
    resume: str | None
    token: str | None


class Cut(Exception):
    """No connection, or none any more; another attempt may go better. Never leaves the client."""

    def __init__(self, text: str, *, asked_seconds: float | None = None, token_expired: bool = False) -> None:
        super().__init__(text)
        self.asked_seconds = asked_seconds
        self.token_expired = token_expired


class Connection(Protocol):
    """An open stream."""

    async def receive(self) -> Sequence[Frame]:
        """What has come, waiting for it; perhaps nothing but a heartbeat. Raise Cut, Unreadable."""
        ...

    async def close(self) -> None:
        """Let go of the socket. Waits for nobody."""
        ...


Open = Callable[[Target], Awaitable[Connection | None]]
"""Connects. None: there is nothing more to come (204). Raise Cut, Refused."""


def reason_of(error: BaseException) -> str:
    """What is really the matter: libraries wrap the operating system's word in words of their own."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.errno is not None and inner.errno > 0:
            return os.strerror(inner.errno)
        within = inner.exceptions[0] if isinstance(inner, BaseExceptionGroup) else None
        inner = within or inner.__cause__ or inner.__context__
    return str(error) or type(error).__name__


async def finish(closing: Awaitable[None]) -> None:
    """Await it to its end, even if cancelled meanwhile; the cancellation goes on afterwards."""
    task = asyncio.ensure_future(closing)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    task.result()
