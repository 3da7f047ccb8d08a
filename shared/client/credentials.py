"""The bearer token, and how a new one is got."""

import asyncio
from collections.abc import Awaitable, Callable

TokenSource = str | Callable[[], Awaitable[str]]


class Credentials:
    """One token for all that a client does. What the caller's own function raises goes to whoever needed the token."""

    def __init__(self, source: TokenSource | None) -> None:
        self._source = source
        self._token = source if isinstance(source, str) else None
        self._asking = asyncio.Lock()

    async def current(self) -> str | None:
        """The token to send; asked for when there is none yet. None: none is sent."""
        if self._token is None:
            await self.renew(None)
        return self._token

    async def renew(self, refused: str | None) -> bool:
        """Get another token than `refused`. False when there is nobody to ask.

        Of several that were refused with the same token at the same time, one asks.
        """
        if self._source is None or isinstance(self._source, str):
            return False
        async with self._asking:
            if self._token == refused:
                self._token = await self._source()
        return True
