"""The logs that the contract is tried on."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.contract.places import MemoryPlace, Place, PostgresPlace


@pytest_asyncio.fixture(params=["memory", "postgres"])
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """An empty database, in which each `open` is another process's log."""
    place: Place = (
        MemoryPlace() if request.param == "memory" else PostgresPlace(request.getfixturevalue("database_url"))
    )
    try:
        yield place
    finally:
        await place.close()


@pytest_asyncio.fixture
async def postgres(database_url: str) -> AsyncIterator[PostgresPlace]:
    """The same for what only PostgreSQL can do."""
    place = PostgresPlace(database_url)
    try:
        yield place
    finally:
        await place.close()
