"""One server for the whole table, an nginx before it, and every way of asking through both."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from msgspec import Struct
from playwright.async_api import async_playwright

from tests.conformance.browser import BrowserClient, Pages
from tests.conformance.clients import PythonClient
from tests.conformance.nginx import through_nginx
from tests.conformance.ways import Way, raw_ways
from tests.e2e.conftest import CHROMIUM_FLAGS
from tests.support.contract import Served, served

SETTINGS = {"heartbeat_seconds": 0.1, "lease_seconds": 300}


class Route(Struct, frozen=True):
    """How one gets to the service."""

    name: str
    url: str


@pytest.fixture(scope="package")
def tailrace(postgres_url: str) -> Iterator[Served]:
    with served(postgres_url, **SETTINGS) as server:
        yield server


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def routes(tailrace: Served, nginx_path: Path) -> AsyncIterator[list[Route]]:
    """Directly, and through nginx."""
    async with through_nginx(nginx_path, tailrace.server.port) as proxied:
        yield [Route("directly", tailrace.url), Route("through nginx", proxied)]


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def browsers(chromium_path: Path) -> AsyncIterator[list[Way]]:
    """The browser client, over each transport, in one Chromium."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium_path, args=CHROMIUM_FLAGS)
        try:
            pages = Pages(await browser.new_context())
            yield [BrowserClient(pages, "auto"), BrowserClient(pages, "sse")]
        finally:
            await browser.close()


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def ways() -> AsyncIterator[list[Way]]:
    """Every way there is."""
    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None)) as client:
        tls = httpx.create_ssl_context()
        yield [*raw_ways(client), PythonClient("sse", tls), PythonClient("websocket", tls)]
