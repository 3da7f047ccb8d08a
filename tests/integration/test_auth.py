"""Who may: every operation wants a token, and one that is for it. The operations are read off the OpenAPI documents."""

from collections.abc import Iterator
from typing import Any

import httpx
import jwt
import pytest
from msgspec import Struct

from services.cli import SERVICES
from shared.edge.auth.scopes import _GRANTED_BY, SCOPES
from tests.support.contract import Served, problem_of, served
from tests.support.tokens import AUDIENCE, ISSUER, JWT, SECRET, client_of, token

RUNS = "/api/v1/runs"
METHODS = ("get", "post", "put", "patch", "delete", "head")
OTHER_SECRET = "another secret, which nobody here knows of"


class Operation(Struct, frozen=True):
    """One of the OpenAPI documents, with something in the place of each parameter, and the scopes that will do."""

    method: str
    path: str
    scopes: tuple[str, ...]

    @property
    def url(self) -> str:
        return self.path.replace("{", "x").replace("}", "x")


@pytest.fixture(scope="module")
def tailrace(postgres_url: str) -> Iterator[Served]:
    with served(postgres_url, **JWT) as server:
        yield server


@pytest.fixture(scope="module")
def operations(tailrace: Served) -> list[Operation]:
    """All of them; the documents themselves need no token."""
    found = []
    with httpx.Client(base_url=tailrace.url) as client:
        for name in (*SERVICES, "stream-tickets"):
            document = client.get(f"/api/v1/{name}/schema/openapi.json").raise_for_status().json()
            for path, item in document["paths"].items():
                for method in set(METHODS) & set(item):
                    security = item[method].get("security")
                    if security is not None:
                        scopes = tuple(scope for way in security for scope in way["token"])
                        found.append(Operation(method.upper(), path, scopes))
    assert len(found) > 40
    return found


async def status_of(client: httpx.AsyncClient, operation: Operation) -> int:
    """A stream's body would not end."""
    async with client.stream(operation.method, operation.url) as answer:
        return answer.status_code


async def test_every_operation_wants_a_token(tailrace: Served, operations: list[Operation]) -> None:
    async with client_of(tailrace.url) as client:
        for operation in operations:
            answer = await client.request(operation.method, operation.url)
            problem_of(answer, 401)
            assert answer.headers["www-authenticate"] == 'Bearer realm="tailrace"', operation


async def test_every_operation_wants_one_of_its_scopes(tailrace: Served, operations: list[Operation]) -> None:
    for operation in operations:
        granted = {grants for scope in operation.scopes for grants in _GRANTED_BY[scope]}
        others = [scope for scope in SCOPES if scope not in granted]
        async with client_of(tailrace.url, token(scopes=others)) as client:
            if not operation.scopes:
                assert await status_of(client, operation) not in (401, 403), operation
                continue
            answer = await client.request(operation.method, operation.url)
            document = problem_of(answer, 403)
            assert document["scope"] == " ".join(operation.scopes)
            assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]
        for scope in operation.scopes:
            async with client_of(tailrace.url, token(scopes=[scope])) as client:
                assert await status_of(client, operation) not in (401, 403), (operation, scope)


async def test_what_is_the_same_for_everybody_needs_no_token(tailrace: Served) -> None:
    async with client_of(tailrace.url) as client:
        for name in SERVICES:
            for path in ("schema/openapi.json", "schema/events.json", "ready"):
                (await client.get(f"/api/v1/{name}/{path}")).raise_for_status()
        for path in ("/", "/health", "/ready", "/metrics"):
            (await client.get(path)).raise_for_status()


def _signed(claims: dict[str, Any], key: Any = SECRET, algorithm: str = "HS256") -> str:
    return jwt.encode({"iss": ISSUER, "aud": AUDIENCE, "sub": "a", "tenant": "t", **claims}, key, algorithm)


BAD = {
    "no token at all": "nonsense",
    "expired": token(seconds=-1),
    "another's signature": _signed({"exp": 4e9}, OTHER_SECRET),
    "no signature": _signed({"exp": 4e9}, None, "none"),
    "another algorithm": _signed({"exp": 4e9}, SECRET * 2, "HS512"),
    "another issuer": token(iss="https://other.example"),
    "another audience": token(aud="other"),
    "without an end": token(exp=None),
    "without a tenant": _signed({"exp": 4e9, "tenant": None}),
    "without a bearer": _signed({"exp": 4e9, "sub": ""}),
    "not yet": token(nbf=4e9),
}


@pytest.mark.parametrize("kind", BAD)
async def test_a_bad_token_is_refused_in_a_sentence_that_does_not_show_it(tailrace: Served, kind: str) -> None:
    async with client_of(tailrace.url, BAD[kind]) as client:
        answer = await client.get(RUNS)
        problem_of(answer, 401)
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]
        assert BAD[kind] not in answer.text
        assert SECRET not in answer.text


async def test_a_token_goes_on_its_own_and_by_its_own_scheme(tailrace: Served) -> None:
    good = token()
    async with client_of(tailrace.url) as client:
        assert (await client.get(RUNS, headers={"authorization": f"bearer  {good}"})).is_success
        problem_of(await client.get(RUNS, headers={"authorization": f"Basic {good}"}), 401)
        problem_of(await client.get(RUNS, headers={"authorization": good}), 401)
        problem_of(await client.get(RUNS, headers=[("authorization", f"Bearer {good}")] * 2), 400)


@pytest.mark.parametrize("name", ["access_token", "token", "Authorization", "jwt", "after", "whatever"])
async def test_a_token_in_an_address_is_refused(tailrace: Served, name: str) -> None:
    """Also beside a good header, and under whatever name: it is in a log somewhere already."""
    good = token()
    async with client_of(tailrace.url, good) as client:
        for path in (RUNS, f"{RUNS}/stream", "/api/v1/tasks/stream"):
            answer = await client.get(path, params={name: good})
            assert "stream-tickets" in problem_of(answer, 400)["detail"]
            assert good not in answer.text


async def test_a_token_is_good_for_the_rows_of_its_tenant_and_is_their_owner(tailrace: Served) -> None:
    async with client_of(tailrace.url, token("ann", "acme")) as client:
        created = (await client.post("/api/v1/tasks", json={"title": "t"})).raise_for_status().json()
        assert (created["tenant"], (await client.get("/api/v1/tasks")).json()["data"][0]["id"]) == (
            "acme",
            created["id"],
        )
    async with client_of(tailrace.url, token("bob", "acme")) as client:
        assert (await client.get(f"/api/v1/tasks/{created['id']}")).is_success
    async with client_of(tailrace.url, token("ann", "other")) as client:
        problem_of(await client.get(f"/api/v1/tasks/{created['id']}"), 404)


async def test_a_service_reads_what_all_tenants_have_and_writes_only_its_own(tailrace: Served) -> None:
    tasks = {}
    for tenant in ("one", "two"):
        async with client_of(tailrace.url, token("x", tenant)) as client:
            tasks[tenant] = (await client.post("/api/v1/tasks", json={"title": tenant})).json()["id"]
    async with client_of(tailrace.url, token("s", "service", ["feed:consume", "tasks:write"])) as client:
        listed = {task["id"] for task in (await client.get("/api/v1/tasks", params={"limit": 500})).json()["data"]}
        assert set(tasks.values()) <= listed
        for task_id in tasks.values():
            assert (await client.get(f"/api/v1/tasks/{task_id}")).is_success
            problem_of(await client.patch(f"/api/v1/tasks/{task_id}", json={"title": "no"}), 404)
            problem_of(await client.delete(f"/api/v1/tasks/{task_id}"), 404)


async def test_an_idempotency_key_is_the_bearers_own(tailrace: Served) -> None:
    """Somebody else's answer would tell what they did."""
    ids = set()
    for sub, tenant in (("ann", "acme"), ("bob", "acme"), ("ann", "other")):
        async with client_of(tailrace.url, token(sub, tenant)) as client:
            for _ in range(2):
                answer = await client.post("/api/v1/tasks", json={"title": "k"}, headers={"idempotency-key": "shared"})
                ids.add((sub, tenant, answer.json()["id"]))
    assert len(ids) == 3
