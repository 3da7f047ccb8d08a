"""What the tests of the Python client share."""

import asyncio
from typing import Any, Literal

from shared.client.follow import Follow, Item
from shared.protocol.schema import UnknownEvent
from tests.support.contract import ANSWER_SECONDS

Transport = Literal["sse", "websocket"]
TRANSPORTS: tuple[Transport, ...] = ("sse", "websocket")


def in_time() -> asyncio.Timeout:
    """A block that fails rather than wait for ever."""
    return asyncio.timeout(ANSWER_SECONDS * 2)


class Watch:
    """Given to a stream as `on_state`: what states it was in, and waiting for one."""

    def __init__(self) -> None:
        self.states: list[str] = []
        self._changed = asyncio.Event()

    def __call__(self, state: str) -> None:
        self.states.append(state)
        self._changed.set()

    async def until(self, state: str) -> None:
        """Wait until it is in this state."""
        async with in_time():
            while self.states[-1:] != [state]:
                self._changed.clear()
                await self._changed.wait()


class Taking:
    """Takes everything from a stream in a task of its own."""

    def __init__(self, stream: Follow) -> None:
        self.seen: list[tuple[str, Item]] = []
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._take(stream))

    async def _take(self, stream: Follow) -> None:
        async for item in stream:
            self.seen.append((stream.position, item))
            self._changed.set()

    async def until_at(self, position: str) -> None:
        """Wait until it has come to this position."""
        async with in_time():
            while self.seen[-1:] == [] or self.seen[-1][0] != position:
                self._changed.clear()
                await self._changed.wait()

    async def to_the_end(self) -> list[tuple[str, Item]]:
        async with in_time():
            await self._task
        return self.seen


async def rest_of(stream: Follow) -> list[tuple[str, Item]]:
    """Everything to the end of the stream, each with its position."""
    async with in_time():
        return [(stream.position, item) async for item in stream]


async def until_live(stream: Follow) -> None:
    """Read on to `live`, with no item before it."""
    async with in_time():
        while not stream.live:
            assert await stream.wait()
            assert list(stream.ready()) == []


def fields_of(item: Item) -> dict[str, Any]:
    """An UnknownEvent's JSON."""
    assert isinstance(item, UnknownEvent)
    return item.fields
