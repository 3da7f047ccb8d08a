"""Every operation of the OpenAPI documents, called with what they allow and with what they do not: the answer is one
that the document describes, and never a 5xx.

Schemathesis makes the requests from the documents as they are served. It knows nothing of what there is, so most of
its requests are aimed at tasks, runs and previews that exist, and at the positions of their log; long waits are cut
short. In `make test` the examples are few and always the same. TAILRACE_TEST_SCHEMA_EXAMPLES=500 makes so many for
each operation, at random.
"""

import json
import os
import re
from collections.abc import Iterator
from typing import Any, TypeAlias

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import ProjectConfig, ProjectsConfig, SchemathesisConfig
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation, BaseSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from services.cli import SERVICES
from shared.edge.auth.scopes import SCOPES
from tests.support.contract import ANSWER_SECONDS, Served, check_problem, served
from tests.support.tokens import JWT, bearing, token

AnyCase: TypeAlias = Case[Any]
AnyOperation: TypeAlias = APIOperation[Any, Any, Any, Any]

DOCUMENTS = (*SERVICES, "stream-tickets")
GIVEN = os.environ.get("TAILRACE_TEST_SCHEMA_EXAMPLES")
EXAMPLES = int(GIVEN or "8")  # of right requests; of wrong ones half as many
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
LONGEST_WAIT = 0.05  # seconds
PROGRAM = {"kind": "static", "entry": "", "command": [], "files": {"index.html": "a page"}, "health": {"path": "/"}}
NODE_UPDATE = {"type": "node_update", "node": "n", "iteration": 1}
MESSAGE = {"type": "custom.said", "text": "t", "number": 1}

# The operations of one document share the server, so an example that failed need not fail again: no shrinking.
many = settings(
    max_examples=EXAMPLES,
    derandomize=GIVEN is None,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
few = settings(many, max_examples=max(1, EXAMPLES // 2))


class World:
    """What there is for requests to be about. Ids that answers tell of are added."""

    def __init__(self, url: str) -> None:
        self.headers = bearing(token("ann", "acme", SCOPES))
        self.leases: dict[str, str] = {}
        self.epoch = ""
        self.ids: dict[str, list[str]] = {
            "session_id": ["session"],
            "worker": ["w1", "queen"],
            "generation_id": ["page", "none"],
            "task_id": [],
            "run_id": [],
        }
        with httpx.Client(base_url=url, headers=self.headers, timeout=ANSWER_SECONDS) as client:
            self._fill(client)

    def _fill(self, client: httpx.Client) -> None:
        def post(path: str, body: Any = None, **headers: str) -> Any:
            return client.post(f"/api/v1/{path}", json=body, headers=headers).raise_for_status().json()

        for number in range(4):
            self.ids["task_id"].append(post("tasks", {"title": f"task {number}", "status": "running"})["id"])
            run = {"task": "t", "mode": "queued", "runner": "schemas", "session_id": "session"}
            post("runs", {**run, "task_id": self.ids["task_id"][number]})
            leased = post("runs/lease", {"runners": ["schemas"]})
            run_id, lease = leased["run"]["id"], leased["lease"]["token"]
            self.ids["run_id"].append(run_id)
            self.leases[run_id] = lease
            post(f"runs/{run_id}/events", {"events": [NODE_UPDATE] * 3}, **{"tailrace-lease": lease})
        post(f"runs/{run_id}/finish", {"status": "completed"}, **{"tailrace-lease": lease})
        post("sessions/session/events", {"events": [MESSAGE, {"type": "client_output_delta", "stream_id": "queen"}]})
        post("generations/page/preview", PROGRAM)
        self.epoch = client.get("/api/v1/runs").json()["as_of"].partition("-")[0]

    def learn(self, answer: Any) -> None:
        """Remember the runs and tasks that an answer shows, the last few."""
        for found in re.findall(r'"id":"((?:task|run)_[0-9a-z]{26})"', answer):
            known = self.ids[found.partition("_")[0] + "_id"]
            known[:] = [*known[:4], *(other for other in known[4:] if other != found), found][:12]


@pytest.fixture(scope="module")
def tailrace(postgres_url: str) -> Iterator[Served]:
    quotas = {"previews_per_tenant": 2, "runs_inline_capacity": 2, "preview_check_seconds": 1}
    with served(postgres_url, **JWT, **quotas, lease_seconds=3600) as server:
        yield server


@pytest.fixture(scope="module")
def world(tailrace: Served) -> Iterator[World]:
    """Afterwards the service is well, and nothing was an error to it."""
    yield World(tailrace.url)
    assert httpx.get(f"{tailrace.url}/ready").status_code == 200
    output = "".join(tailrace.server.output)
    assert " ERROR " not in output, output[-3_000:]


def document(server: Served, name: str) -> BaseSchema:
    """The document as it is served. Of a stream that goes on for ever two events are read: so many each has."""
    project = ProjectConfig(max_stream_events=2, request_timeout=ANSWER_SECONDS)
    config = SchemathesisConfig(projects=ProjectsConfig(default=project))
    url = f"{server.url}/api/v1/{name}/schema/openapi.json"
    found = requests.get(url, timeout=ANSWER_SECONDS).json()
    schema = schemathesis.openapi.from_dict(_without_slow_patterns(found), config=config)
    schema.validate()
    return schema


def _without_slow_patterns(part: Any) -> Any:
    """Schemathesis makes one regular expression of a pattern and a length, which takes minutes for 100,000 characters.
    Without the pattern some texts are wrong, and refused.
    """
    if isinstance(part, dict):
        slow = isinstance(part.get("maxLength"), int) and part["maxLength"] > 500
        return {name: _without_slow_patterns(inner) for name, inner in part.items() if not (slow and name == "pattern")}
    return [_without_slow_patterns(inner) for inner in part] if isinstance(part, list) else part


def operations(schema: BaseSchema) -> list[AnyOperation]:
    found = list(schema.get_all_operations())
    assert all(isinstance(one, Ok) for one in found)
    return [one.ok() for one in found if isinstance(one, Ok)]


# ── aiming ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def aim(case: AnyCase, world: World, number: int) -> dict[str, str]:
    """Turn most requests to what exists; the headers to send. `number` chooses among what there is."""
    headers = {**world.headers, "accept": _accepted(case, number)}
    if number % 4:
        for name in case.path_parameters or {}:
            known = world.ids[name]
            if case.method == "DELETE" and len(known) > 4:
                known = known[4:]  # the first are for all other operations
            case.path_parameters[name] = known[number % len(known)]
        lease = world.leases.get((case.path_parameters or {}).get("run_id", ""))
        if lease is not None and "Tailrace-Lease" in (case.headers or {}):
            headers["tailrace-lease"] = lease
    if number % 4 and isinstance(case.query.get("run"), list):
        case.query["run"] = world.ids["run_id"][: 1 + number % 3]
    for values, name in ((case.query, "after"), (case.query, "until"), (case.headers, "Last-Event-ID")):
        if number % 4 and "-" in str((values or {}).get(name)):
            values[name] = f"{world.epoch}-{number % 30}"
    _hurry(case, headers)
    if isinstance(case.body, dict) and number % 4:
        _mend(case, case.body, number)
    return headers


def _accepted(case: AnyCase, number: int) -> str:
    content = case.operation.definition.raw["responses"].get("200", {}).get("content", {"*/*": {}})
    accepted: list[str] = list(content)
    return accepted[number % len(accepted)]


def _hurry(case: AnyCase, headers: dict[str, str]) -> None:
    """Nothing comes of a long wait."""
    if _is_number(case.query.get("wait")):
        case.query["wait"] = LONGEST_WAIT
    if isinstance(case.body, dict) and _is_number(case.body.get("wait_seconds")):
        case.body["wait_seconds"] = LONGEST_WAIT
    if "wait=" in str(case.headers):
        headers["prefer"] = "wait=0"


def _is_number(value: Any) -> bool:
    try:
        return float(value) > LONGEST_WAIT
    except (TypeError, ValueError):
        return False


def _mend(case: AnyCase, body: dict[str, Any], number: int) -> None:
    """What no schema says: events are those of the event schema, and a program is one that can run."""
    if "events" in body and case.meta is not None and case.meta.generation.mode.is_positive:
        body["events"] = [NODE_UPDATE if "run_id" in case.path_parameters else MESSAGE] * (1 + number % 3)
        if number % 3:  # else a producer's number is one that nobody expects
            body.pop("producer", None)
            body.pop("producer_seq", None)
    if case.path == "/api/v1/stream-tickets" and case.meta is not None and case.meta.generation.mode.is_positive:
        body["path"] = "/api/v1/runs/stream"
    if {"kind", "files"} <= body.keys():
        body |= PROGRAM


# ── the tests ──────────────────────────────────────────────────────────────────────────────────────────────────────


def call(server: Served, world: World, case: AnyCase, number: int) -> None:
    headers = aim(case, world, number)
    answer = case.call(base_url=server.url, headers=headers, timeout=ANSWER_SECONDS)
    if answer.status_code == 503:  # there is no room just now, which is an answer, if it says when to come back
        assert answer.headers["retry-after"]
    checks = [check for check in CHECKS if check is not not_a_server_error or answer.status_code != 503]
    case.validate_response(answer, checks=checks, headers=headers)
    if answer.status_code >= 400:
        media_type, request_id = answer.headers["content-type"][0], answer.headers["x-request-id"][0]
        check_problem(answer.status_code, media_type, answer.content, request_id)
    world.learn(answer.content.decode())


@pytest.mark.parametrize("name", DOCUMENTS)
def test_right_requests_get_the_answers_that_are_documented(tailrace: Served, world: World, name: str) -> None:
    for operation in operations(document(tailrace, name)):

        @many
        @given(case=operation.as_strategy(GenerationMode.POSITIVE), number=st.integers(0, 999))
        def ask(case: AnyCase, number: int) -> None:
            call(tailrace, world, case, number)

        ask()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_wrong_requests_get_the_refusals_that_are_documented(tailrace: Served, world: World, name: str) -> None:
    for operation in operations(document(tailrace, name)):
        if not operation.query and not operation.body and not operation.headers:
            continue  # nothing to be wrong about

        @few
        @given(case=operation.as_strategy(GenerationMode.NEGATIVE), number=st.integers(0, 999))
        def ask(case: AnyCase, number: int) -> None:
            call(tailrace, world, case, number)

        ask()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_request_without_a_token_gets_the_refusal_that_is_documented(tailrace: Served, name: str) -> None:
    schema = document(tailrace, name)
    secured = [operation for operation in operations(schema) if operation.definition.raw.get("security")]
    assert secured
    for operation in secured:
        case = operation.Case(path_parameters={parameter.name: "x" for parameter in operation.path_parameters})
        answer = case.call(base_url=tailrace.url, timeout=ANSWER_SECONDS)
        assert answer.status_code == 401
        case.validate_response(answer, checks=CHECKS)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_reference_of_a_document_leads_somewhere(tailrace: Served, name: str) -> None:
    text = requests.get(f"{tailrace.url}/api/v1/{name}/schema/openapi.json", timeout=ANSWER_SECONDS).text
    components = json.loads(text)["components"]
    references = set(re.findall(r'"\$ref":"#/components/([^"]+)"', text))
    assert references
    for reference in references:
        kind, _, found = reference.partition("/")
        assert found in components[kind], reference
