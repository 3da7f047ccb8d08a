"""Streams for code without an event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from typing import TypeVar

T = TypeVar("T")


def iterate(make: Callable[[], AsyncIterator[T]]) -> Generator[T, None, None]:
    """The items of an async iterator as a plain generator, on an event loop of its own.

    `make` is usually an async generator function that opens a client and follows a stream. The loop stands still
    between two items, and nothing is read. Close the generator when leaving early (`contextlib.closing`). Not for
    code that runs on an event loop already.
    """
    with asyncio.Runner() as runner:
        stream = make()

        async def take() -> tuple[bool, T | None]:
            try:
                return True, await anext(stream)
            except StopAsyncIteration:
                return False, None

        async def close() -> None:
            closing = getattr(stream, "aclose", None)
            if closing is not None:
                await closing()

        try:
            while True:
                more, item = runner.run(take())
                if not more:
                    return
                yield item  # type: ignore[misc]  # None only where T has it, or there is no more
        finally:
            runner.run(close())
