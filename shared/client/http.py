"""httpx, used so that cancelling at any await leaves no connection behind."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx

from shared.client.answers import Answer
from shared.client.connection import finish

MakeHttp = Callable[[], httpx.AsyncClient]


async def answer_of(response: httpx.Response, *, most: int) -> Answer:
    """The answer, of its body at most so many bytes; closes it. Raises httpx.RequestError.

    It is read to its end all the same: generators that are left in the middle are ended by tasks of the event loop's.
    """
    body = bytearray()
    try:
        async for chunk in response.aiter_bytes():
            if len(body) < most:
                body += chunk
    finally:
        await finish(response.aclose())
    return Answer(response.status_code, response.headers, bytes(body[:most]))


class Pool:
    """The connections for requests.

    httpcore forgets about a connection whose request is cancelled at certain moments (between connecting and sending,
    or while it is closed at the end of an answer): it stays open, and is never used. So after a cancellation new
    requests go over new connections, and the old ones are closed when the last request among them has been answered.
    """

    def __init__(self, make: MakeHttp) -> None:
        self._make = make
        self._current = make()
        self._users: Counter[httpx.AsyncClient] = Counter()

    @asynccontextmanager
    async def use(self) -> AsyncIterator[httpx.AsyncClient]:
        """For one request."""
        http = self._current
        self._users[http] += 1
        try:
            yield http
        except asyncio.CancelledError:
            if http is self._current and not http.is_closed:
                self._current = self._make()
            raise
        finally:
            self._users[http] -= 1
            if not self._users[http]:
                del self._users[http]
                if http is not self._current:
                    await finish(http.aclose())

    async def aclose(self) -> None:
        for http in {self._current, *self._users}:
            await http.aclose()
