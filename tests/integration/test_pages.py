"""The pages' documents and files: what they are, and what they may do."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import httpx
import pytest
from hatchling.build import build_wheel
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

import shared
from services.pages import FOLDERS, HTML, MEDIA_TYPES, ROOT, TITLES, Pages
from shared.edge.settings import Settings
from tests.support.contract import Served, problem_of, served
from tests.support.server import running

DOCUMENTS = [
    "/",
    "/tasks",
    "/tasks/task_01m7wcj1qnsjq3bvp93wqmyk9v",
    "/runs",
    "/runs/x",
    "/previews",
    "/previews/a%20b",
]
LINK = re.compile(r'(?:src|href)="(/[^"]*)"|from "([^"]+)"|^import "([^"]+)"', re.MULTILINE)


@pytest.fixture(scope="module")
def tailrace(postgres_url: str) -> Iterator[Served]:
    with served(postgres_url) as server:
        yield server


def files() -> dict[str, Path]:
    """What is to be served, by its path."""
    return {
        f"/web/{name}/{file.name}": file
        for name, folder in FOLDERS.items()
        for file in folder.iterdir()
        if file.suffix in MEDIA_TYPES
    }


def directives(answer: httpx.Response) -> dict[str, str]:
    """The policy, by directive."""
    policy = answer.headers["content-security-policy"].split("; ")
    return {name: value for name, _, value in (directive.partition(" ") for directive in policy)}


async def test_each_file_has_its_media_type_and_a_policy_without_inline_code(tailrace: Served) -> None:
    assert len(files()) > 10
    async with httpx.AsyncClient(base_url=tailrace.url) as client:
        for path in [*DOCUMENTS, *files()]:
            answer = (await client.get(path)).raise_for_status()
            assert answer.headers["content-type"] == MEDIA_TYPES.get(Path(path).suffix, HTML)
            assert "unsafe" not in answer.headers["content-security-policy"]
            assert answer.headers["x-content-type-options"] == "nosniff"
            head = await client.head(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == str(len(answer.content))


async def test_what_a_page_links_and_a_module_imports_is_there(tailrace: Served) -> None:
    async with httpx.AsyncClient(base_url=tailrace.url) as client:
        links: set[httpx.URL] = set()
        for path in [*DOCUMENTS, *(path for path in files() if path.endswith(".js"))]:
            answer = await client.get(path)
            links |= {answer.url.join("".join(found)) for found in LINK.findall(answer.text)}
        assert len(links) > 10
        for link in links:
            assert (await client.get(link)).is_success, link


async def test_a_page_is_marked_in_the_navigation_and_named_in_the_title(tailrace: Served) -> None:
    async with httpx.AsyncClient(base_url=tailrace.url) as client:
        for name, title in TITLES.items():
            page = (await client.get("/" if name == "start" else f"/{name}/anything")).text
            assert f"<title>{title} · Tailrace</title>" in page
            assert re.findall(r'href="(\S+)" aria-current="page"', page) == ["/" if name == "start" else f"/{name}"]
            assert f"/web/{name}/page.js" in page
            assert "$" not in page


async def test_a_page_may_run_only_our_modules_and_ask_only_ourselves(tailrace: Served) -> None:
    own = tailrace.url.removeprefix("http://")
    async with httpx.AsyncClient(base_url=tailrace.url) as client:
        policy = directives(await client.get("/previews"))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self'",
        "connect-src": f"'self' ws://{own} wss://{own}",
        "frame-src": f"http://*.localhost:{own.partition(':')[2]}",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }


async def test_what_a_caller_calls_us_cannot_widen_the_policy() -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"x; script-src *")]}
    await Pages(Settings())(scope, None, send)  # past the gate, which refuses such a host already
    policy = dict(sent[0]["headers"])[b"content-security-policy"].decode()
    assert "connect-src 'self'; " in policy
    assert "*" not in policy.replace("http://*.localhost", "")


async def test_a_page_that_has_not_changed_is_not_sent_again(tailrace: Served) -> None:
    async with httpx.AsyncClient(base_url=tailrace.url) as client:
        for path in ["/tasks", "/web/shared/base.css"]:
            first = await client.get(path)
            assert first.headers["cache-control"] == "no-cache"
            for tags in [first.headers["etag"], f'"other", W/{first.headers["etag"]}']:
                again = await client.get(path, headers={"if-none-match": tags})
                assert (again.status_code, again.content) == (304, b"")
                assert again.headers["etag"] == first.headers["etag"]
            other = await client.get(path, headers={"if-none-match": '"other"'})
            assert (other.status_code, other.content) == (200, first.content)


async def test_what_is_no_page_is_refused_with_a_problem_document(tailrace: Served) -> None:
    async with httpx.AsyncClient(base_url=tailrace.url) as client:
        for path in [
            "/nothing",
            "/tasks/",
            "/tasks/a/b",
            "/web/shared/",
            "/web/shared/frame.html",
            "/web/shared/../pages.py",
            "/web/shared/%2e%2e/%2e%2e/pyproject.toml",
            "/web/tasks/..%2f..%2fpages.py",
            "/web/shared/base.css/",
        ]:
            problem_of(await client.get(path), 404)
        refused = await client.post("/")
        problem_of(refused, 405)
        assert refused.headers["allow"] == "GET, HEAD"
        with pytest.raises(InvalidStatus) as caught:
            await connect(tailrace.websocket_url)
        assert caught.value.response.status_code == 404


async def test_the_pages_are_told_how_the_process_is_set_up(tailrace: Served, database_url: str) -> None:
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"{tailrace.url}/config.json")).json() == {
            "auth": "off",
            "token_url": None,
            "websockets": True,
            "preview_domain": "localhost",
            "version": shared.__version__,
        }
        given = {
            "token_url": "https://app.example:8443/session/token",
            "websockets": False,
            "preview_domain": "previews.example",
            "public_url": "https://tailrace.example",
        }
        async with running(database_url, service="tasks", **given) as server:
            told = await client.get(f"{server.url}/config.json")
            policy = directives(await client.get(f"{server.url}/previews"))
    assert told.json() | {"token_url": given["token_url"], "websockets": False} == told.json()
    assert policy["connect-src"].split()[-1] == "https://app.example:8443"
    assert policy["frame-src"] == "https://*.previews.example"


def test_a_wheel_has_all_that_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    wheel = ZipFile(tmp_path / build_wheel(str(tmp_path)))
    pages = [FOLDERS["shared"] / "frame.html", *(FOLDERS[name] / "page.html" for name in TITLES)]
    wanted = {str(file.relative_to(ROOT)) for file in [*files().values(), *pages]}
    assert wanted <= set(wheel.namelist())
