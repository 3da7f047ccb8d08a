"""Waiting that weighs little while nobody waits: an asyncio.Event holds an empty deque of 760 bytes, a Queue four.

A streaming connection has half a dozen of them, and nearly all it does is wait.
"""

import asyncio
from typing import Any


class Flag:
    """Does what asyncio.Event does."""

    __slots__ = ("_is_set", "_waiters")

    def __init__(self, *, is_set: bool = False) -> None:
        self._is_set = is_set
        self._waiters: tuple[asyncio.Future[None], ...] = ()

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def clear(self) -> None:
        self._is_set = False

    async def wait(self) -> bool:
        """Return when it is set, also when it has been cleared again since."""
        if not self._is_set:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters += (waiter,)
            try:
                await waiter
            finally:
                self._waiters = tuple(other for other in self._waiters if other is not waiter)
        return True


class Mailbox:
    """Does what an asyncio.Queue without a bound does, for one who takes from it."""

    __slots__ = ("_arrived", "_items")

    def __init__(self) -> None:
        self._items: list[Any] = []
        self._arrived = Flag()

    def empty(self) -> bool:
        return not self._items

    def put_nowait(self, item: Any) -> None:
        self._items.append(item)
        self._arrived.set()

    async def get(self) -> Any:
        """The oldest item; waits for it. What is there when the waiting is cancelled stays there."""
        while not self._items:
            self._arrived.clear()
            await self._arrived.wait()
        return self._items.pop(0)
