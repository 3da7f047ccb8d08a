"""The pages' files: what they are, and what they may do."""

import re
from collections.abc import Iterator

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from services.pages import FILES
from tests.support.contract import Served, problem_of, served

MEDIA_TYPES = {"css": "text/css", "html": "text/html", "js": "text/javascript", "svg": "image/svg+xml"}


@pytest.fixture(scope="module")
def tailrace(postgres_url: str) -> Iterator[Served]:
    with served(postgres_url) as server:
        yield server


async def test_each_file_has_its_media_type_and_a_policy_without_inline_code(tailrace: Served) -> None:
    async with httpx.AsyncClient(base_url=tailrace.url) as client:
        for path, name in FILES.items():
            answer = (await client.get(path)).raise_for_status()
            assert answer.headers["content-type"].partition(";")[0] == MEDIA_TYPES[name.rpartition(".")[2]]
            assert "unsafe" not in answer.headers["content-security-policy"]
            assert answer.headers["x-content-type-options"] == "nosniff"
            head = await client.head(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == str(len(answer.content))
        linked = set(re.findall(r'(?:src|href)="(/[^"]*)"', (await client.get("/")).text))
        for path in linked:
            assert (await client.get(path)).is_success, path


async def test_what_is_no_page_is_refused_with_a_problem_document(tailrace: Served) -> None:
    async with httpx.AsyncClient(base_url=tailrace.url) as client:
        problem_of(await client.get("/nothing"), 404)
        problem_of(await client.get("/web/../pages.py"), 404)
        refused = await client.post("/")
        problem_of(refused, 405)
        assert refused.headers["allow"] == "GET, HEAD"
        with pytest.raises(InvalidStatus) as caught:
            await connect(tailrace.websocket_url)
        assert caught.value.response.status_code == 404
