"""Wrong input on every route of previews: a problem document, never a 5xx, and nothing is launched or changed.

The routes come from the service's own OpenAPI document, so that a new one is asked the same questions.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest_asyncio
from msgspec import Struct

from tests.integration.test_bad_input import NO_OBJECT, WRONG_VALUES
from tests.support.contract import ANSWER_SECONDS, Served, problem_of, sql
from tests.support.previews import PREVIEWS, get, new_generation, recipe, running, stop
from tests.support.server import running as server_running

SETTINGS = {"previews_per_tenant": 40, "body_bytes": 400_000}

GENERATION = "/api/v1/generations/{generation_id}/preview"
BODIES: dict[str, dict[str, Any]] = {
    f"POST {GENERATION}": {
        "files": {"main.py": "pass"},
        "kind": "command",
        "entry": "",
        "command": ["true"],
        "env": {"A": "b"},
        "health": {"path": "/health", "timeout_seconds": 5},
        "ttl_seconds": 60,
        "network": False,
    },
    f"PATCH {GENERATION}/files": {"files": {"main.py": "pass", "other.py": None}},
}


class Operation(Struct, frozen=True):
    """A method on a path of the OpenAPI document."""

    method: str
    path: str
    parameters: tuple[str, ...]
    takes_body: bool

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class Attacker:
    """Sends wrong requests about one preview that has ended, and looks whether anything has changed."""

    def __init__(self, client: httpx.AsyncClient, database: Any, operations: list[Operation], generation: str) -> None:
        self.client = client
        self.operations = operations
        self._database = database
        self.generation = generation

    async def ask(self, operation: Operation, *, query: str = "", content: bytes | None = None) -> httpx.Response:
        """The answer; of one that goes on for ever only its head."""
        url = operation.path.replace("{generation_id}", self.generation) + query
        headers = {"content-type": "application/json"} if content is not None else {}
        async with (
            asyncio.timeout(ANSWER_SECONDS),
            self.client.stream(operation.method, url, content=content, headers=headers) as answer,
        ):
            if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                await answer.aread()
            return answer

    async def state(self) -> tuple[Any, ...]:
        row = await self._database.fetchrow(
            """SELECT (SELECT head FROM previews.log) AS head,
               (SELECT md5(string_agg(p::text, '' ORDER BY id)) FROM previews.previews p) AS previews,
               (SELECT md5(string_agg(f::text, '' ORDER BY preview_id)) FROM previews.files f) AS files"""
        )
        return tuple(row)

    @asynccontextmanager
    async def untouched(self) -> AsyncIterator[None]:
        before = await self.state()
        yield
        assert await self.state() == before


@pytest_asyncio.fixture
async def attacker(client: httpx.AsyncClient, tailrace: Served) -> AsyncIterator[Attacker]:
    """Afterwards the service is well, and nothing was an error to it."""
    document = (await client.get(f"{PREVIEWS}/schema/openapi.json")).raise_for_status().json()
    operations = [
        Operation(
            method.upper(),
            path,
            tuple(p["name"] for p in operation.get("parameters", ()) if p["in"] == "query"),
            "requestBody" in operation,
        )
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]
    generation = new_generation("attacked")
    await running(client, generation)
    await stop(client, generation)
    async with sql(tailrace.database_url) as database:
        yield Attacker(client, database, operations, generation)
    assert (await client.get("/ready")).status_code == 200
    output = "".join(tailrace.server.output)
    tailrace.server.output.clear()
    assert " ERROR " not in output, output[-3_000:]


async def test_every_route_that_takes_a_body_has_an_example_here(attacker: Attacker) -> None:
    assert {str(operation) for operation in attacker.operations if operation.takes_body} == BODIES.keys()


async def test_a_body_that_is_no_object_is_400(attacker: Attacker) -> None:
    async with attacker.untouched():
        for operation in (o for o in attacker.operations if o.takes_body):
            for what, content in NO_OBJECT.items():
                answer = await attacker.ask(operation, content=content)
                assert answer.status_code == 400, (operation, what, answer.text)
                problem_of(answer, 400)


async def test_an_unknown_field_is_400_naming_those_that_are_allowed(attacker: Attacker) -> None:
    async with attacker.untouched():
        for operation in (o for o in attacker.operations if o.takes_body):
            content = json.dumps({**BODIES[str(operation)], "colour": "blue"}).encode()
            detail = problem_of(await attacker.ask(operation, content=content), 400)["detail"]
            assert all(name in detail for name in ("colour", *BODIES[str(operation)]))


async def test_a_wrong_value_of_any_field_is_refused_and_never_a_fault_of_the_service(attacker: Attacker) -> None:
    for operation in (o for o in attacker.operations if o.takes_body):
        for wrong in wrong_bodies(BODIES[str(operation)]):
            before = await attacker.state()
            answer = await attacker.ask(operation, content=json.dumps(wrong).encode())
            shown = f"{operation} {str(wrong)[:300]}: {answer.status_code} {answer.text[:300]}"
            assert answer.status_code < 500, shown
            if answer.status_code >= 400:
                problem_of(answer, answer.status_code)
                assert await attacker.state() == before, shown
            elif operation.method == "POST":
                generation = answer.json()["generation_id"]
                await stop_it(attacker.client, generation)


def wrong_bodies(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The body with each wrong value in each place."""
    found = [{**body, field: value} for field in body for value in WRONG_VALUES]
    for field in {"files", "env"} & body.keys():
        found += [{**body, field: {"name": value}} for value in WRONG_VALUES]
        found += [{**body, field: {str(value)[:3_000]: "x"}} for value in WRONG_VALUES]
    if "command" in body:
        found += [{**body, "command": [value]} for value in WRONG_VALUES]
    for field in body.get("health", ()):
        found += [{**body, "health": {**body["health"], field: value}} for value in WRONG_VALUES]
    return found


async def stop_it(client: httpx.AsyncClient, generation: str) -> None:
    """What was not wrong after all has been launched: end it."""
    await client.delete(f"/api/v1/generations/{generation}/preview")
    async with client.stream("GET", f"/api/v1/generations/{generation}/preview/logs/stream") as answer:
        async for _ in answer.aiter_raw():
            pass


async def test_an_unknown_parameter_is_400_naming_those_that_are_allowed(attacker: Attacker) -> None:
    async with attacker.untouched():
        for operation in attacker.operations:
            content = json.dumps(BODIES[str(operation)]).encode() if operation.takes_body else None
            detail = problem_of(await attacker.ask(operation, query="?colour=blue", content=content), 400)["detail"]
            assert "'colour'" in detail
            assert all(name in detail for name in operation.parameters)


async def test_any_value_of_any_parameter_is_taken_or_refused(attacker: Attacker) -> None:
    values = (
        *("", "%00", "a%00b", "%ff%fe", "%ED%A0%80", "x" * 5_000, "-1", "0", "1e999", "nan", "9" * 500),
        *("%D9%A3", "true", "null", "[]", "%27%3B--", "%25", "%zz", "%", "*", "%2a%2a%2a%2a", "(a%2B)%2B$", ",", ",,,"),
        *("prv_" + "0" * 26, "k3f9a2-1", "start", "now", "k3f9a2-" + "9" * 19, "%F0%9F%90%99", "%E2%80%AE", "%5C", "_"),
    )
    async with attacker.untouched():
        for operation in (o for o in attacker.operations if o.method == "GET"):
            for name in operation.parameters:
                for value in values:
                    answer = await attacker.ask(operation, query=f"?{name}={value}")
                    assert answer.status_code < 500, (operation, name, value, answer.text)
                    if answer.status_code >= 400:
                        problem_of(answer, answer.status_code)


async def test_another_method_is_405(attacker: Attacker) -> None:
    async with attacker.untouched():
        for path in sorted({operation.path for operation in attacker.operations}):
            allowed = {operation.method for operation in attacker.operations if operation.path == path}
            for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - allowed:
                wrong = Operation(method, path, (), takes_body=False)
                answer = await attacker.ask(wrong, content=b"{}")
                problem_of(answer, 405)
                assert allowed <= set(answer.headers["allow"].replace(" ", "").split(","))


async def test_a_body_that_is_too_large_is_413(attacker: Attacker) -> None:
    content = json.dumps(recipe(files={"a": "x" * 500_000})).encode()
    async with attacker.untouched():
        for operation in (o for o in attacker.operations if o.takes_body):
            problem_of(await attacker.ask(operation, content=content), 413)
    assert await get(attacker.client, attacker.generation)


async def test_a_network_is_refused_where_the_operator_gives_none(database_url: str) -> None:
    async with (
        server_running(database_url, preview_network="false") as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as client,
    ):
        url = f"/api/v1/generations/{new_generation()}/preview"
        assert (
            "TAILRACE_PREVIEW_NETWORK" in problem_of(await client.post(url, json=recipe(network=True)), 422)["detail"]
        )
        assert (await client.get(url)).status_code == 404
