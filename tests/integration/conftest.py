"""One Tailrace a module, for tests that need nothing of it alone."""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import pytest_asyncio

from tests.support.contract import Served, served


@pytest.fixture(scope="module")
def tailrace(request: pytest.FixtureRequest, postgres_url: str) -> Iterator[Served]:
    """The module's server. What the module names in SETTINGS are its settings."""
    with served(postgres_url, **getattr(request.module, "SETTINGS", {})) as server:
        yield server


@pytest_asyncio.fixture
async def client(tailrace: Served) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the module's server."""
    async with httpx.AsyncClient(base_url=tailrace.url, timeout=30) as client:
        yield client
