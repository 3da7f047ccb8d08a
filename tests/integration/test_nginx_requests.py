"""Requests through a real nginx with the shipped configuration: where they go, what is told, repeated and logged."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from deploy.first_start import self_signed
from shared.edge.settings import Settings
from tests.support.contract import NO_SUCH_RUN, RUNS, Served, check_problem, problem_of, read_until_live
from tests.support.nginx import Nginx, Upstream, names, proxy, upstream
from tests.support.readers import eventually
from tests.support.server import free_port, lease, running, sse

pytestmark = pytest.mark.nginx

SERVICES = ("tasks", "runs", "previews")
GENERATION = "/api/v1/generations/g"
PREVIEW_HOST = "prv-01jzzzzzzzzzzzzzzzzzzzzzzz.localhost:8080"


@pytest_asyncio.fixture
async def behind() -> AsyncIterator[dict[str, Upstream]]:
    """Three services of few words."""
    async with AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(upstream()) for name in SERVICES}


@pytest_asyncio.fixture
async def nginx(nginx_path: Path, behind: dict[str, Upstream]) -> AsyncIterator[Nginx]:
    async with proxy(nginx_path, {name: service.address for name, service in behind.items()}) as started:
        yield started


@pytest_asyncio.fixture
async def client(nginx: Nginx) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=nginx.url, timeout=30) as opened:
        yield opened


# ── where requests go ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("path", "service"),
    [
        ("/", "tasks"),
        ("/tasks/task_01jzzzzzzzzzzzzzzzzzzzzzzz", "tasks"),
        ("/runs?status=failed", "tasks"),
        ("/config.json", "tasks"),
        ("/web/base.css", "tasks"),
        ("/api/v1/tasks", "tasks"),
        ("/api/v1/tasks/stream?after=now", "tasks"),
        ("/api/v1/tasks/ready", "tasks"),
        ("/api/v1/stream-tickets", "tasks"),
        ("/api/v1/runs/run_01j/stream?types=a%2Cb", "runs"),
        ("/api/v1/runs/schema", "runs"),
        ("/api/v1/runs/ready", "runs"),
        ("/api/v1/sessions/a%2Fb/events", "runs"),
        ("/api/v1/previews/ws", "previews"),
        ("/api/v1/previews/ready", "previews"),
        (f"{GENERATION}/preview/logs/stream", "previews"),
        (f"{GENERATION}/preview/app/a//b/%2e%2e/c?d=%20", "previews"),
    ],
)
async def test_a_request_goes_to_its_service_as_it_was_sent(
    client: httpx.AsyncClient, behind: dict[str, Upstream], path: str, service: str
) -> None:
    assert (await client.get(httpx.URL(path))).status_code == 200
    assert {name: [head[""] for head in each.heads] for name, each in behind.items() if each.requests} == {
        service: [f"GET {path} HTTP/1.1"]
    }


async def test_a_preview_s_own_origin_goes_to_the_previews_whatever_the_path(
    client: httpx.AsyncClient, behind: dict[str, Upstream]
) -> None:
    for path in ("/", "/metrics", "/api/v1/runs", "/health"):
        assert (await client.get(path, headers={"Host": PREVIEW_HOST})).status_code == 200
    assert [head["host"] for head in behind["previews"].heads] == [PREVIEW_HOST] * 4


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/%6detrics", "//metrics", "/x/../metrics"])
async def test_what_is_for_operators_is_not_to_be_had_through_nginx(
    nginx: Nginx, behind: dict[str, Upstream], path: str
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", nginx.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 404")
    assert json.loads(body)["detail"] == "There is nothing at this URL."
    assert [each.requests for each in behind.values()] == [[], [], []]


async def test_every_url_of_the_services_is_answered_by_that_service(nginx_path: Path, tailrace: Served) -> None:
    """The paths of the OpenAPI documents, each through an nginx where only its service is the right one."""
    async with upstream() as other, httpx.AsyncClient(timeout=30) as client:
        for name in SERVICES:
            document = (await client.get(f"{tailrace.url}/api/v1/{name}/schema/openapi.json")).json()
            services = dict.fromkeys(SERVICES, other.address) | {name: tailrace.url.removeprefix("http://")}
            async with proxy(nginx_path, services) as nginx:
                for path in document["paths"]:
                    url = path.replace("{", "").replace("}", "")
                    answer = await client.request("OPTIONS", f"{nginx.url}{url}")
                    assert "x-request-id" in answer.headers, f"{url} did not come to {name}"
    assert other.requests == []


# ── what the services are told ─────────────────────────────────────────────────────────────────────────────────


async def test_what_a_client_says_of_its_address_is_not_handed_on(
    client: httpx.AsyncClient, behind: dict[str, Upstream]
) -> None:
    lies = {
        "X-Forwarded-For": "10.9.8.7",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "evil.example",
        "X-Real-IP": "10.9.8.7",
        "Forwarded": "for=10.9.8.7",
        "X-Request-Id": 'bad"id',
    }
    await client.get("/api/v1/runs", headers=lies)
    (head,) = behind["runs"].heads
    assert head["x-forwarded-for"] == "127.0.0.1"
    assert head["x-forwarded-proto"] == "http"
    assert {"x-forwarded-host", "x-real-ip", "forwarded"} & set(head) == set()
    assert head["host"] == httpx.URL(str(client.base_url)).netloc.decode()
    assert len(head["x-request-id"]) == 32
    await client.get("/api/v1/runs", headers={"X-Request-Id": "mine-1"})
    assert behind["runs"].heads[-1]["x-request-id"] == "mine-1"


@pytest.mark.parametrize(
    ("asked", "handed_on"), [("websocket", "websocket"), ("WebSocket", "websocket"), ("h2c", None), (None, None)]
)
async def test_only_an_upgrade_to_a_websocket_is_handed_on(
    client: httpx.AsyncClient, behind: dict[str, Upstream], asked: str | None, handed_on: str | None
) -> None:
    headers = {} if asked is None else {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": asked}
    await client.get("/api/v1/runs/stream", headers=headers)
    (head,) = behind["runs"].heads
    assert head.get("upgrade") == handed_on
    assert head.get("connection") == ("upgrade" if handed_on else None)


# ── refusals ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_refusal_of_an_upgrade_passes_as_it_is(nginx_path: Path, tailrace: Served, database_url: str) -> None:
    async def refusal(url: str) -> tuple[int, str]:
        with pytest.raises(InvalidStatus) as refused:
            async with connect(url):
                pass
        answer = refused.value.response
        headers = answer.headers
        document = check_problem(
            answer.status_code, headers["content-type"], bytes(answer.body or b""), headers["x-request-id"]
        )
        return answer.status_code, document["detail"]

    async with proxy(nginx_path, tailrace.url) as nginx:
        for path in (f"{RUNS}/{NO_SUCH_RUN}/stream", f"{RUNS}/stream?nonsense=1", f"{RUNS}/stream?after=x"):
            direct = await refusal(f"{tailrace.websocket_url}{path}")
            assert await refusal(f"{nginx.url.replace('http', 'ws', 1)}{path}") == direct
            assert direct[0] in (400, 404)
    async with running(database_url, websockets="false") as server, proxy(nginx_path, server.url) as nginx:
        status, detail = await refusal(f"{nginx.url.replace('http', 'ws', 1)}{RUNS}/stream")
        assert status == 403
        assert "SSE" in detail or "server-sent" in detail.lower()


async def test_the_largest_body_is_that_of_the_services(nginx_path: Path, tailrace: Served) -> None:
    bound = Settings().body_bytes
    async with (
        proxy(nginx_path, tailrace.url) as nginx,
        httpx.AsyncClient(base_url=nginx.url, timeout=60) as client,
    ):
        json_type = {"Content-Type": "application/json"}
        largest = await client.post(RUNS, content=b'"' + b"x" * (bound - 2) + b'"', headers=json_type)
        assert problem_of(largest, 400)  # by the service, which has read it
        larger = await client.post(RUNS, content=b"x" * (bound + 1), headers=json_type)
        assert "larger" in problem_of(larger, 413)["detail"]


async def test_a_body_waits_in_memory_until_it_is_complete(
    nginx: Nginx, client: httpx.AsyncClient, behind: dict[str, Upstream]
) -> None:
    behind["runs"].may_answer.clear()
    posting = asyncio.create_task(client.post(RUNS, content=b"x" * Settings().body_bytes))
    await eventually(lambda: bool(behind["runs"].requests), "the body has passed nginx")
    assert nginx.files_on_disk() == []  # it keeps a request until that is answered
    behind["runs"].may_answer.set()
    assert (await posting).status_code == 200


async def test_a_service_that_is_away_is_told_by_a_problem_document(nginx_path: Path) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    async with proxy(nginx_path, f"http://{nobody}") as nginx, httpx.AsyncClient(base_url=nginx.url) as client:
        for path in ("/", f"{RUNS}/stream", GENERATION):
            answer = await client.get(path)
            problem_of(answer, 502)
            assert answer.headers["retry-after"] == "1"


# ── sent again ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_post_that_may_have_arrived_is_never_sent_again(nginx_path: Path) -> None:
    async with upstream() as first, names() as resolver:
        port = int(first.address.rpartition(":")[2])
        async with upstream("127.0.0.2", port) as second:
            first.answer = second.answer = b""  # both take a request and hang up
            resolver.addresses["runs.test"] = ["127.0.0.1", "127.0.0.2"]
            services = {"tasks": first.address, "runs": f"runs.test:{port}", "previews": first.address}
            async with (
                proxy(nginx_path, services, resolver=resolver.place) as nginx,
                httpx.AsyncClient(base_url=nginx.url, timeout=30) as client,
            ):
                for method in ("POST", "PATCH"):
                    for _ in range(5):  # whichever of the two it is
                        problem_of(await client.request(method, RUNS, json={}), 502)
                assert len(first.requests + second.requests) == 10
                problem_of(await client.get(RUNS), 502)
                assert len(first.requests + second.requests) == 12  # a question may be asked twice


async def test_a_request_that_cannot_have_arrived_goes_to_another_replica(nginx_path: Path) -> None:
    async with upstream() as alive, names() as resolver:
        port = int(alive.address.rpartition(":")[2])
        resolver.addresses["runs.test"] = ["127.0.0.1", "127.0.0.2"]  # nobody listens at the second
        services = {"tasks": alive.address, "runs": f"runs.test:{port}", "previews": alive.address}
        async with (
            proxy(nginx_path, services, resolver=resolver.place) as nginx,
            httpx.AsyncClient(base_url=nginx.url, timeout=30) as client,
        ):
            for number in range(20):
                request = client.get(f"{RUNS}/stream") if number % 2 else client.post(RUNS, json={})
                assert (await request).status_code == 200
            assert len(alive.requests) == 20


async def test_a_service_may_come_back_under_another_address(nginx_path: Path) -> None:
    async with upstream() as old, names() as resolver:
        port = int(old.address.rpartition(":")[2])
        async with upstream("127.0.0.3", port) as new:
            resolver.addresses["runs.test"] = ["127.0.0.1"]
            services = {"tasks": old.address, "runs": f"runs.test:{port}", "previews": old.address}
            async with (
                proxy(nginx_path, services, resolver=resolver.place) as nginx,
                httpx.AsyncClient(base_url=nginx.url) as client,
            ):
                assert (await client.get(RUNS)).status_code == 200
                assert len(old.requests) == 1
                resolver.addresses["runs.test"] = ["127.0.0.3"]

                async def is_found() -> bool:
                    await client.get(RUNS)
                    return len(new.requests) > 0

                await eventually(is_found, "nginx finds the new address")


# ── the log ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_no_secret_gets_into_nginx_s_log(nginx_path: Path) -> None:
    async with upstream() as service:
        nobody = f"127.0.0.1:{free_port()}"
        services = {"tasks": nobody, "runs": service.address, "previews": nobody}
        async with proxy(nginx_path, services) as nginx, httpx.AsyncClient(base_url=nginx.url, timeout=30) as client:
            headers = {
                "Authorization": "Bearer secret-1",
                "Cookie": "c=secret-2",
                "Referer": "http://localhost/?ticket=secret-3",
                "Sec-WebSocket-Protocol": "bearer.secret-4",
            }
            for path in (f"{RUNS}/stream", "/api/v1/tasks/stream", "/metrics"):
                await client.get(f"{path}?ticket=secret-5", headers=headers)
            service.answer = b""  # hangs up: what nginx says of that quotes the request
            await client.get(f"{RUNS}/stream?ticket=secret-6", headers=headers)
            await client.post(f"{RUNS}?ticket=secret-7", content=b"x" * 3_000_000, headers=headers)
            await nginx.stop()
            said = [json.loads(line) for line in nginx.lines]
    assert [(line["method"], line["path"], line["status"]) for line in said] == [
        ("GET", "/api/v1/runs/stream", "200"),
        ("GET", "/api/v1/tasks/stream", "502"),
        ("GET", "/metrics", "404"),
        ("GET", "/api/v1/runs/stream", "502"),
        ("POST", "/api/v1/runs", "413"),
    ]
    assert "secret" not in "".join(nginx.lines)


# ── with TLS ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_with_tls_the_plain_port_sends_on_and_streams_flow_over_the_other(
    nginx_path: Path, tailrace: Served, tmp_path: Path
) -> None:
    key, certificate = self_signed(["localhost", "*.localhost", "127.0.0.1"])
    (tmp_path / "key.pem").write_text(key)
    (tmp_path / "certificate.pem").write_text(certificate)
    port = free_port()
    changes = {
        "listen-tls.conf": {"listen 8443 ssl": f"listen 127.0.0.1:{port} ssl"},
        "tls.conf": {"/secrets/tls": str(tmp_path)},
    }
    trusting = ssl.create_default_context(cafile=str(tmp_path / "certificate.pem"))
    async with (
        proxy(nginx_path, tailrace.url, changes=changes, configuration="tls.conf") as nginx,
        httpx.AsyncClient(base_url=f"https://127.0.0.1:{port}", verify=trusting, timeout=30) as client,
        httpx.AsyncClient(base_url=nginx.url) as plain,
    ):
        answer = await plain.get("/runs?status=failed")
        assert answer.status_code == 308
        assert answer.headers["location"] == "https://127.0.0.1:8443/runs?status=failed"
        run_id, _ = await lease(client)
        async with sse(client, f"{RUNS}/{run_id}/stream") as stream:
            await read_until_live(stream)
        h2 = ssl.create_default_context(cafile=str(tmp_path / "certificate.pem"))
        h2.set_alpn_protocols(["h2", "http/1.1"])
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=h2)
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        writer.close()
