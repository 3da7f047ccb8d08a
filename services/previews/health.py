"""Whether a program answers: its health URL, asked over its unix socket."""

import asyncio
from pathlib import Path

import httpx

ASK_SECONDS = 0.05  # between two questions while it starts; then more slowly
SLOWER, SLOWEST_SECONDS = 1.3, 1.0
ANSWER_SECONDS = 5.0


class Health:
    """One program's. Any answer but a server's error (5xx) will do: not every program has a health URL."""

    def __init__(self, socket: Path, path: str) -> None:
        self._url = f"http://preview{path}"
        self._http = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(socket)), timeout=ANSWER_SECONDS, headers={"connection": "close"}
        )

    async def is_well(self) -> bool:
        try:
            async with self._http.stream("GET", self._url) as response:
                return response.status_code < 500
        except (httpx.HTTPError, OSError):
            return False

    async def until_well(self) -> None:
        """Ask until it answers."""
        pause = ASK_SECONDS
        while not await self.is_well():
            await asyncio.sleep(pause)
            pause = min(pause * SLOWER, SLOWEST_SECONDS)

    async def close(self) -> None:
        await self._http.aclose()
