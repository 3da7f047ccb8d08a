"""The nginx that is shipped, between a reader and the service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.nginx import proxy


@asynccontextmanager
async def through_nginx(program: Path, upstream: int) -> AsyncIterator[str]:
    """The URL of an nginx in front of a port of this machine, where all three services are."""
    async with proxy(program, f"http://127.0.0.1:{upstream}") as nginx:
        yield nginx.url
