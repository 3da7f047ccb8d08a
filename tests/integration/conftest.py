"""One Tailrace a module, for tests that need nothing of it alone."""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import pytest_asyncio

from shared.client import backoff
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


@pytest.fixture
def quick_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python client makes no long pauses: for tests with many cuts."""
    monkeypatch.setattr(backoff, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(backoff, "CAP_SECONDS", 0.05)
