"""Another tenant's ids are answered like ids that do not exist: on every route there is, in the same words, as fast.

The routes come from the OpenAPI documents and from the services' own handlers, so a new one is asked too: what its
parameters stand for has to be in `world`, and a right body in BODIES, or the test of it fails.
"""

import asyncio
import json
import re
import statistics
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import pytest_asyncio
from msgspec import Struct
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from services.cli import SERVICES
from services.previews.api import HANDLERS as PREVIEW_HANDLERS
from services.runs.api import HANDLERS as RUN_HANDLERS
from services.tasks.api import HANDLERS as TASK_HANDLERS
from tests.integration.test_bad_input import BODIES as RUN_AND_TASK_BODIES
from tests.integration.test_preview_bad_input import BODIES as PREVIEW_BODIES
from tests.support.contract import ANSWER_SECONDS, NO_SUCH_RUN, Served, Socket, problem_of, served
from tests.support.previews import new_generation, preview_url, recipe, running
from tests.support.server import append
from tests.support.tasks import NO_SUCH_TASK
from tests.support.tokens import JWT, client_of, token

RUNS, TASKS = "/api/v1/runs", "/api/v1/tasks"
METHODS = ("get", "post", "put", "patch", "delete")
BODIES = {**RUN_AND_TASK_BODIES, **PREVIEW_BODIES}
OWN = ("POST /api/v1/generations/{generation_id}/preview",)  # creates, and in the caller's own tenant
NAMESPACES = ("session_id",)  # of these each tenant has its own: none is missing, all are empty
SECRETS = ("a secret of acme", "another secret of acme")


class World(Struct, frozen=True):
    """What the tenant acme has, and ids of the same kinds that nobody has."""

    theirs: Mapping[str, str]
    nobodys: Mapping[str, str]


class Operation(Struct, frozen=True):
    """A method on a path with parameters; `WS` for a WebSocket."""

    method: str
    path: str

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def parameters(self) -> list[str]:
        return re.findall(r"{(\w+)}", self.path)

    def url(self, ids: Mapping[str, str]) -> str:
        return self.path.format_map({name: quote(value, safe="") for name, value in ids.items()})

    async def ask(self, client: httpx.AsyncClient, ids: Mapping[str, str]) -> httpx.Response:
        headers = {"tailrace-lease": ids.get("lease", "x")}
        body = BODIES.get(self.name)
        request = client.build_request(self.method, self.url(ids), headers=headers, json=body)
        answer = await client.send(request, stream=True)
        if answer.headers["content-type"].startswith("text/event-stream"):
            await answer.aclose()  # it would not end
        else:
            await answer.aread()
        return answer


@pytest.fixture(scope="module")
def tailrace(postgres_url: str) -> Iterator[Served]:
    with served(postgres_url, **JWT, previews_per_tenant=20, lease_seconds=3600) as server:
        yield server


@pytest.fixture(scope="module")
def operations(tailrace: Served) -> list[Operation]:
    """Every operation that takes an id."""
    found = set()
    with httpx.Client(base_url=tailrace.url) as client:
        for name in SERVICES:
            document = client.get(f"/api/v1/{name}/schema/openapi.json").raise_for_status().json()
            for path, item in document["paths"].items():
                found |= {Operation(method.upper(), path) for method in set(METHODS) & set(item) if "{" in path}
    assert len(found) > 25
    return sorted(found, key=lambda operation: operation.name)


def sockets() -> list[Operation]:
    """Every WebSocket whose path takes an id."""
    found = set()
    for handler in (*RUN_HANDLERS, *TASK_HANDLERS, *PREVIEW_HANDLERS):
        if not hasattr(handler, "http_methods"):
            paths = {re.sub(r":str}", "}", path) for path in handler.paths}  # type: ignore[attr-defined]  # Litestar's
            found |= {Operation("WS", path) for path in paths if "{" in path}
    assert len(found) >= 6
    return sorted(found, key=lambda operation: operation.name)


@pytest.fixture
def eve(request: pytest.FixtureRequest) -> str:
    """A token of a tenant that has nothing: each test's own."""
    return token("eve", request.node.name)


@pytest_asyncio.fixture
async def stranger(tailrace: Served, eve: str) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(tailrace.url, eve) as client:
        yield client


@pytest_asyncio.fixture
async def world(tailrace: Served) -> AsyncIterator[World]:
    """A task, a run with events in a session, and a preview that runs and has printed something."""
    async with client_of(tailrace.url, token("ann", "acme")) as ann:
        task = (await ann.post(TASKS, json={"title": SECRETS[0]})).raise_for_status().json()["id"]
        run = {"task": SECRETS[0], "mode": "queued", "runner": "tenancy", "session_id": "theirs", "task_id": task}
        run_id = (await ann.post(RUNS, json=run)).raise_for_status().json()["id"]
        leased = await ann.post(f"{RUNS}/lease", json={"runners": ["tenancy"], "worker": "w"})
        lease = leased.json()["lease"]["token"]
        (await append(ann, run_id, lease, 2)).raise_for_status()
        said = {"type": "client_output_delta", "stream_id": "worker:7t", "text": SECRETS[1]}
        (await ann.post("/api/v1/sessions/theirs/events", json={"events": [said]})).raise_for_status()
        generation = new_generation()
        await running(ann, generation)
        theirs = {
            "task_id": task,
            "run_id": run_id,
            "session_id": "theirs",
            "worker": "7t",
            "generation_id": generation,
            "lease": lease,
        }
        nobodys = {
            "task_id": NO_SUCH_TASK,
            "run_id": NO_SUCH_RUN,
            "session_id": "nobodys",
            "worker": "7n",
            "generation_id": new_generation("nobodys"),
            "lease": lease,
        }
        yield World(theirs, nobodys)
        assert (await ann.get(f"{TASKS}/{task}")).json()["status"] == "running"
        assert (await ann.get(f"{RUNS}/{run_id}")).json()["status"] == "running"
        assert (await ann.get(preview_url(generation))).json()["status"] == "running"
        (await ann.delete(preview_url(generation))).raise_for_status()


def told(answer: httpx.Response, ids: Mapping[str, str]) -> tuple[Any, ...]:
    """What an answer says, without what differs by nature."""
    if answer.headers["content-type"].startswith("text/event-stream"):
        return answer.status_code, answer.headers["content-type"]
    text = answer.text
    for name, value in ids.items():
        text = text.replace(value, f"<{name}>")
    text = re.sub(r'"request_id":"\w+"', "", text)
    text = re.sub(r'"(?:head|next|as_of|position)":"[\w-]+"', "", text)
    return answer.status_code, answer.headers["content-type"], text


async def test_another_tenants_ids_are_answered_like_those_that_do_not_exist(
    stranger: httpx.AsyncClient, world: World, operations: list[Operation]
) -> None:
    for operation in operations:
        if operation.name in OWN:
            continue
        unknown = set(operation.parameters) - set(world.theirs)
        assert not unknown, f"{operation.name}: say in this test's world what {unknown} stands for"
        theirs = await operation.ask(stranger, world.theirs)
        nobodys = await operation.ask(stranger, world.nobodys)
        assert told(theirs, world.theirs) == told(nobodys, world.nobodys), operation.name
        if set(operation.parameters) & set(NAMESPACES):
            assert theirs.status_code == 200, operation.name
        else:
            problem_of(theirs, 404)
        if not theirs.headers["content-type"].startswith("text/event-stream"):
            assert not any(secret in theirs.text for secret in SECRETS), operation.name


async def test_nothing_of_another_tenants_is_in_a_list_a_feed_or_a_search(
    stranger: httpx.AsyncClient, world: World
) -> None:
    ids = [world.theirs[name] for name in ("task_id", "run_id", "generation_id")]
    for path, params in (
        (TASKS, {"limit": "500"}),
        (RUNS, {"limit": "500"}),
        (RUNS, {"session_id": "theirs"}),
        (RUNS, {"task_id": world.theirs["task_id"]}),
        ("/api/v1/previews", {"limit": "500"}),
        ("/api/v1/previews", {"generation_id": world.theirs["generation_id"]}),
        (f"{TASKS}/events", {"after": "start", "limit": "1000"}),
        (f"{RUNS}/events", {"after": "start", "limit": "1000"}),
        ("/api/v1/previews/events", {"after": "start", "limit": "1000"}),
        ("/api/v1/sessions/theirs/events", {"after": "start", "types": "*"}),
        ("/api/v1/sessions/theirs/workers/7t/events", {"after": "start"}),
    ):
        answer = (await stranger.get(path, params=params)).raise_for_status()
        assert not any(each in answer.text for each in (*ids, *SECRETS)), path
        assert answer.json()["data"] == [], path
    for run in (world.theirs["run_id"], NO_SUCH_RUN):
        for path in (f"{RUNS}/stream", f"{RUNS}/events"):
            document = problem_of(await stranger.get(path, params={"run": run}), 404)
            assert document["detail"] == f"There is no run {run}."


async def test_streams_over_a_socket_are_refused_alike(tailrace: Served, eve: str, world: World) -> None:
    for operation in sockets():
        answers: list[list[Any]] = []
        for ids in (world.theirs, world.nobodys):
            url = tailrace.websocket_url + operation.url(ids)
            offered = [Subprotocol("tailrace.v1"), Subprotocol(f"bearer.{eve}")]
            if set(operation.parameters) & set(NAMESPACES):
                async with connect(f"{url}?after=start", subprotocols=offered) as connection:
                    frames = await Socket(connection).until_type("live")
                answers.append([frame.type for frame in frames])
                continue
            with pytest.raises(InvalidStatus) as caught:
                async with connect(url, subprotocols=offered):
                    pass
            body = json.loads(bytes(caught.value.response.body or b""))
            answers.append([caught.value.response.status_code, body["detail"]])
            assert answers[-1][0] == 404, operation
        assert answers[0] == answers[1], operation


async def test_channels_of_a_shared_socket_are_refused_alike(tailrace: Served, eve: str, world: World) -> None:
    channels = {"tasks": ["task/{task_id}"], "runs": ["run/{run_id}"], "previews": ["preview/{generation_id}"]}
    offered = [Subprotocol("tailrace.v1"), Subprotocol(f"bearer.{eve}")]
    async with AsyncExitStack() as stack:
        for service, patterns in channels.items():
            connection = await stack.enter_async_context(
                connect(f"{tailrace.websocket_url}/api/v1/{service}/ws", subprotocols=offered)
            )
            opened = Socket(connection)
            for pattern in patterns:
                problems = []
                for ref, ids in (("a", world.theirs), ("b", world.nobodys)):
                    await opened.send({"op": "follow", "ref": ref, "channel": pattern.format_map(ids)})
                    told = (await opened.until(lambda frame: frame.type == "refused"))[-1]
                    problems.append({k: v for k, v in told.event["problem"].items() if k != "request_id"})
                assert problems[0] == problems[1]
                assert problems[0]["status"] == 404
        runs = Socket(
            await stack.enter_async_context(connect(f"{tailrace.websocket_url}{RUNS}/ws", subprotocols=offered))
        )
        for ref, channel in (("s", "session/theirs"), ("w", "session/theirs/worker/7t")):
            await runs.send({"op": "follow", "ref": ref, "channel": channel, "after": "start", "types": ["*"]})
            assert [frame.type for frame in await runs.until_type("live", ref)] == ["hello", "live"]


async def test_feeds_tell_nothing_of_another_tenants(
    tailrace: Served, eve: str, stranger: httpx.AsyncClient, world: World
) -> None:
    """Live: what acme does while eve listens to everything."""
    async with AsyncExitStack() as stack:
        listening: dict[str, Socket] = {}
        for service in SERVICES:
            url = f"{tailrace.websocket_url}/api/v1/{service}/stream?after=start"
            offered = [Subprotocol("tailrace.v1"), Subprotocol(f"bearer.{eve}")]
            listening[service] = Socket(await stack.enter_async_context(connect(url, subprotocols=offered)))
            await listening[service].until_type("live")
        async with client_of(tailrace.url, token("ann", "acme")) as ann:
            await append(ann, world.theirs["run_id"], world.theirs["lease"], 3)
            await ann.patch(f"{TASKS}/{world.theirs['task_id']}", json={"title": "t"})
        created = (await stranger.post(RUNS, json={"task": "t", "mode": "queued", "runner": "x"})).json()
        task = (await stranger.post(TASKS, json={"title": "t"})).json()
        assert (await listening["runs"].next()).event["run_id"] == created["id"]
        assert (await listening["tasks"].next()).event["task_id"] == task["id"]


async def test_a_generation_is_each_tenants_own(stranger: httpx.AsyncClient, world: World) -> None:
    """Its launch neither meets the other's preview nor replaces it, which the world looks after."""
    generation = world.theirs["generation_id"]
    answer = await stranger.post(preview_url(generation), params={"replace": "1"}, json=recipe())
    assert answer.status_code == 202
    assert answer.json()["tenant"] != "acme"
    (await stranger.delete(preview_url(generation))).raise_for_status()


async def test_a_preview_is_its_users_own(tailrace: Served, world: World, operations: list[Operation]) -> None:
    """For the tenant's other users 403, for those who look after the tenant as for its own."""
    about = [operation for operation in operations if operation.parameters == ["generation_id"]]
    assert len(about) >= 6
    async with client_of(tailrace.url, token("bob", "acme")) as bob:
        for operation in about:
            if operation.name not in OWN:
                problem_of(await operation.ask(bob, world.theirs), 403)
        generation = world.theirs["generation_id"]
        problem_of(await bob.get(f"{preview_url(generation)}/app/"), 403)
        problem_of(await bob.post(preview_url(generation), params={"replace": "1"}, json=recipe()), 403)
        problem_of(await bob.post(preview_url(generation), json=recipe()), 409)
    async with client_of(tailrace.url, token("boss", "acme", ["previews:admin"])) as boss:
        for path in ("", "/logs", "/logs/events", "/app/"):
            assert (await boss.get(f"{preview_url(generation)}{path}")).is_success, path


@pytest.mark.parametrize(
    "path", [f"{RUNS}/{{run_id}}", f"{TASKS}/{{task_id}}", "/api/v1/generations/{generation_id}/preview"]
)
async def test_it_takes_about_as_long(stranger: httpx.AsyncClient, world: World, path: str) -> None:
    """The two kinds in turn, so that both meet the same machine: the medians are as one."""
    seconds: dict[str, list[float]] = {"theirs": [], "nobodys": []}
    for _ in range(60):
        for kind, ids in (("theirs", world.theirs), ("nobodys", world.nobodys)):
            since = time.perf_counter()
            answer = await stranger.get(path.format_map(ids))
            seconds[kind].append(time.perf_counter() - since)
            assert answer.status_code == 404
    ratio = statistics.median(seconds["theirs"]) / statistics.median(seconds["nobodys"])
    assert 1 / 1.5 < ratio < 1.5, seconds


async def test_this_test_would_notice(tailrace: Served, world: World) -> None:
    """Its own tenant is told what is there: the ids of the world are right."""
    async with client_of(tailrace.url, token("ann", "acme")) as ann, asyncio.timeout(ANSWER_SECONDS):
        for path in (
            f"{RUNS}/{world.theirs['run_id']}",
            f"{TASKS}/{world.theirs['task_id']}",
            "/api/v1/sessions/theirs/workers/7t/events",
        ):
            answer = await ann.get(path)
            assert any(secret in answer.text for secret in SECRETS), path
