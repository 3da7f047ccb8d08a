"""Where a request comes from, and how many there are: hosts, origins, pages of elsewhere, rates. On real sockets."""

import asyncio
from collections.abc import Iterator, Mapping

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from tests.support.contract import RUNS, Served, metric, problem_of, served
from tests.support.server import running
from tests.support.tokens import JWT, client_of, token

APP = "https://app.example"
SETTINGS = {"hosts": "tailrace.example, 10.1.2.3:8080", "origins": f"{APP}, http://localhost:3000"}
RUN = {"task": "t", "mode": "queued", "runner": "x"}
EVIL = "https://evil.example"


@pytest.fixture(scope="module")
def tailrace(postgres_url: str) -> Iterator[Served]:
    with served(postgres_url, **SETTINGS) as server:
        yield server


async def get(tailrace: Served, path: str, **headers: str) -> httpx.Response:
    async with client_of(tailrace.url) as client:
        return await client.get(path, headers=headers)


async def post(tailrace: Served, headers: Mapping[str, str]) -> httpx.Response:
    async with client_of(tailrace.url) as client:
        return await client.post(RUNS, json=RUN, headers=headers)


# ── hosts ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:9", "127.0.0.1:1", "[::1]", "tailrace.example", "10.1.2.3:8080"]
)
async def test_it_answers_to_its_names(tailrace: Served, host: str) -> None:
    assert (await get(tailrace, RUNS, host=host)).is_success


@pytest.mark.parametrize(
    "host", ["evil.example", "10.1.2.3", "10.1.2.3:80", "tailrace.example.evil.example", "a b", ""]
)
async def test_by_another_name_it_answers_nothing_but_whether_it_is_well(tailrace: Served, host: str) -> None:
    """A page whose name was made to point here says its own."""
    for path in (RUNS, "/", "/api/v1/tasks/schema/openapi.json", f"{RUNS}/stream"):
        problem_of(await get(tailrace, path, host=host), 403)
    for path in ("/health", "/ready", "/metrics"):
        assert (await get(tailrace, path, host=host)).is_success
    with pytest.raises(InvalidStatus) as caught:
        async with connect(f"{tailrace.websocket_url}{RUNS}/stream", additional_headers={"host": host or "?"}):
            pass
    assert caught.value.response.status_code in (400, 403)  # two of them, or one of another name


# ── origins ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_page_from_elsewhere_changes_nothing(tailrace: Served) -> None:
    refused: list[dict[str, str]] = [
        {"origin": EVIL},
        {"origin": "null"},
        {"origin": f"{APP}.evil.example"},
        {"origin": "http://app.example"},
        {"origin": ""},
        {"sec-fetch-site": "cross-site"},
        {"origin": tailrace.url, "sec-fetch-site": "cross-site"},
    ]
    before = (await get(tailrace, RUNS)).json()["as_of"]
    for headers in refused:
        problem_of(await post(tailrace, headers), 403)
        async with client_of(tailrace.url) as client:
            problem_of(await client.delete(f"{RUNS}/x", headers=headers), 403)
            problem_of(await client.patch("/api/v1/tasks/x", json={}, headers=headers), 403)
    # a form of a page needs no preflight
    async with client_of(tailrace.url) as client:
        form = {"origin": EVIL, "content-type": "text/plain"}
        problem_of(await client.post("/api/v1/generations/g/preview", content="{}", headers=form), 403)
    assert (await get(tailrace, RUNS)).json()["as_of"] == before


async def test_our_own_pages_and_those_that_are_allowed_do(tailrace: Served) -> None:
    own = {"origin": tailrace.url, "sec-fetch-site": "same-origin"}
    for headers in ({}, {"origin": tailrace.url}, own, {"origin": APP}, {"origin": "http://localhost:3000"}):
        assert (await post(tailrace, headers)).status_code == 202, headers


async def test_a_page_from_elsewhere_opens_no_websocket(tailrace: Served) -> None:
    url = f"{tailrace.websocket_url}{RUNS}/stream"
    for origin in (EVIL, "null"):
        with pytest.raises(InvalidStatus) as caught:
            async with connect(url, origin=Origin(origin)):
                pass
        assert caught.value.response.status_code == 403
    for origin in (tailrace.url, APP):
        async with connect(url, origin=Origin(origin)) as connection:
            await connection.recv()


async def test_a_page_that_is_allowed_may_read_answers_and_refusals(tailrace: Served) -> None:
    for path, status in ((RUNS, 200), (f"{RUNS}/x", 404), ("/nothing", 404)):
        answer = await get(tailrace, path, origin=APP)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, APP)
        assert "X-Request-Id" in answer.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in answer.headers
        elsewhere = await get(tailrace, path, origin=EVIL)
        assert "access-control-allow-origin" not in elsewhere.headers
        assert elsewhere.headers["vary"] == "Origin"
    async with (
        client_of(tailrace.url) as client,
        client.stream("GET", f"{RUNS}/stream", headers={"origin": APP}) as live,
    ):
        assert live.headers["access-control-allow-origin"] == APP


async def test_a_preflight_tells_what_a_page_may_send(tailrace: Served) -> None:
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    async with client_of(tailrace.url) as client:
        allowed = await client.options(RUNS, headers={"origin": APP, **asks})
        assert allowed.status_code == 204
        assert allowed.headers["access-control-allow-origin"] == APP
        for name in ("Authorization", "Last-Event-ID", "Idempotency-Key"):
            assert name in allowed.headers["access-control-allow-headers"]
        refused = await client.options(RUNS, headers={"origin": EVIL, **asks})
        assert "access-control-allow-origin" not in refused.headers


async def test_every_answer_says_that_it_is_what_it_says(tailrace: Served) -> None:
    for path in (RUNS, "/nothing", "/", "/api/v1/runs/schema/openapi.json"):
        assert (await get(tailrace, path)).headers["x-content-type-options"] == "nosniff"


# ── rates ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_who_asks_too_often_waits_and_the_others_do_not(database_url: str) -> None:
    settings = {**JWT, "requests_per_second": 0.5, "request_burst": 20, "trusted_proxies": "127.0.0.1"}
    async with running(database_url, **settings) as server, client_of(server.url) as client:

        async def ask(address: str, text: str) -> httpx.Response:
            headers = {"x-forwarded-for": address, "authorization": f"Bearer {text}"}
            return await client.get(RUNS, headers=headers)

        ann, bob, eve = token("ann", "acme"), token("bob", "acme"), token("eve", "other")
        answers = await asyncio.gather(*(ask("10.0.0.1", ann) for _ in range(40)))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert 10 <= len(refused) <= 20  # a busy machine takes seconds, in which more may come
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        problem_of(refused[0], 429)
        assert (await ask("10.0.0.1", eve)).status_code == 429  # the address
        assert (await ask("10.0.0.2", ann)).status_code == 429  # the caller
        assert (await ask("10.0.0.3", bob)).status_code == 429  # the tenant
        assert (await ask("10.0.0.4", eve)).status_code == 200
        url = server.url.replace("http", "ws", 1) + f"{RUNS}/stream"
        with pytest.raises(InvalidStatus) as caught:
            async with connect(url, additional_headers={"x-forwarded-for": "10.0.0.1"}):
                pass
        assert caught.value.response.status_code == 429
        assert "retry-after" in caught.value.response.headers
        for _ in range(30):  # whoever looks whether it is well is not counted
            assert (await client.get("/health")).is_success
        assert await metric(client, "tailrace_refused_requests_total", why="rate") >= len(refused)


async def test_a_client_that_is_no_proxy_of_ours_cannot_say_who_it_is(database_url: str) -> None:
    settings = {"requests_per_second": 0.01, "request_burst": 3}
    async with running(database_url, **settings) as server, client_of(server.url) as client:
        forged = [await client.get(RUNS, headers={"x-forwarded-for": f"10.0.0.{n}"}) for n in range(5)]
        assert [answer.status_code for answer in forged] == [200] * 3 + [429] * 2


async def test_streams_of_a_tenant_are_bounded_and_another_tenants_are_not(database_url: str) -> None:
    settings = {**JWT, "streams_per_tenant": 2}
    async with (
        running(database_url, **settings) as server,
        client_of(server.url, token("ann", "acme")) as ann,
        client_of(server.url, token("eve", "other")) as eve,
        ann.stream("GET", f"{RUNS}/stream"),
        ann.stream("GET", f"{RUNS}/stream"),
    ):
        refused = await ann.get(f"{RUNS}/stream")
        problem_of(refused, 429)
        assert int(refused.headers["retry-after"]) >= 1
        async with eve.stream("GET", f"{RUNS}/stream") as other:
            assert other.status_code == 200
