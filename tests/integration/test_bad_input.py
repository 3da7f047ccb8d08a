"""Wrong input, on every route there is: a problem document that names the fault, never a 5xx, and nothing is stored.

The routes come from the services' own OpenAPI documents, so that a new one is asked the same questions. One that takes
a body needs an example of a right one in BODIES, which is then broken in every way.
"""

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import pytest_asyncio
from msgspec import Struct

from tests.support.contract import (
    ANSWER_SECONDS,
    IMPOSSIBLE_RUN,
    NO_SUCH_RUN,
    RUNS,
    Served,
    check_problem,
    events_of,
    problem_of,
    read_to_end,
    socket,
    sql,
    stored,
)
from tests.support.server import lease
from tests.support.tasks import NO_SUCH_TASK, TASKS, create

SETTINGS = {"lease_seconds": 3600, "body_bytes": 400_000}  # leases do not run out meanwhile, which would store events

NODE_UPDATE = {
    "type": "node_update",
    "node": "writer",
    "agent": "a",
    "worker_id": "w1",
    "iteration": 1,
    "phase": "write",
    "tokens_in": 1,
    "tokens_out": 2,
    "elapsed_ms": 3,
    "model": "m",
    "attempt": 1,
    "snippet": "s",
}
TASK = {
    "title": "t",
    "kind": "k",
    "status": "running",
    "progress": {"done": 1, "total": 2, "unit": "u", "message": "m"},
    "steps": [{"name": "n", "status": "done", "message": "m", "started_at": "2026-01-02T03:04:05Z"}],
    "result": {"key": "value"},
    "error": "e",
    "attempt": 2,
    "generation_id": "g",
}
ERROR = {"type": "error", "fatal": False, "code": "c", "message": "m", "attempt": 1, "node": "n"}
BODIES: dict[str, dict[str, Any]] = {
    f"POST {RUNS}": {
        "task": "t",
        "mode": "queued",
        "runner": "bad-input",
        "workers": 1,
        "session_id": "s",
        "task_id": "t",
        "params": {"key": "value"},
        "timeout_seconds": 60,
        "max_attempts": 3,
    },
    f"POST {RUNS}/lease": {"runners": ["nobody-has-this"], "worker": "w", "wait_seconds": 0},
    f"POST {RUNS}/{{run_id}}/events": {"events": [NODE_UPDATE, ERROR], "producer": "p", "producer_seq": 1},
    f"POST {RUNS}/{{run_id}}/finish": {"status": "completed", "error": "e", "output": "o"},
    f"POST {RUNS}/{{run_id}}/input": {"input": "an answer"},
    f"POST {RUNS}/batch": {
        "task": "t",
        "mode": "queued",
        "runner": "bad-input",
        "workers": 1,
        "session_id": "s",
        "task_id": "t",
        "params": {"key": "value"},
        "timeout_seconds": 60,
        "max_attempts": 3,
        "count": 1,
        "stagger_ms": 0,
    },
    "POST /api/v1/sessions/{session_id}/events": {
        "events": [{"type": "client_output_delta", "stream_id": "queen", "text": "t"}],
        "producer": "p",
        "producer_seq": 1,
    },
    f"POST {TASKS}": TASK,
    f"PATCH {TASKS}/{{task_id}}": TASK,
}
APPEND = f"POST {RUNS}/{{run_id}}/events"
ENDS = (f"POST {RUNS}/{{run_id}}/finish", f"POST {TASKS}/{{task_id}}/cancel", f"DELETE {TASKS}/{{task_id}}")

NO_OBJECT = {
    "nothing": b"",
    "half an object": b'{"task":',
    "an unclosed text": b'{"task":"',
    "null": b"null",
    "an array": b"[]",
    "a text": b'"text"',
    "a number": b"12",
    "true": b"true",
    "NaN": b"NaN",
    "bytes": b"\xff\xfe\x00\x01",
    "bytes in a text": b'{"task":"\xff"}',
    "a surrogate's bytes in a text": b'{"title":"\xed\xa0\x80"}',
    "bytes in a name": b'{"\xff":1}',
    "two objects": b"{}{}",
    "no fields": b"{}",
    "a form": b"task=t&mode=queued",
    "deep arrays": b"[" * 100_000,
    "deep arrays, closed": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 50_000,
}
WRONG_VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1.5,
    10**30,
    10**400,
    -(10**30),
    1e308,
    2**63,
    2**64,
    "",
    "text",
    "x" * 200_000,
    "a\0b",
    "\0",
    "\ud800",  # json.dumps writes the escape
    "a\udfff",
    "\u202e\ufeff\u2028",
    [],
    ["a\0b"],
    [None],
    [[[[]]]],
    {},
    {"": None},
    {"a\0b": "\0"},
    {"\ud800": 1},
]


def nested(depth: int) -> Any:
    """Arrays in arrays: what a recursive encoder or decoder falls over."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


class Operation(Struct, frozen=True):
    """A method on a path of the OpenAPI document."""

    method: str
    path: str
    parameters: tuple[str, ...]
    takes_body: bool

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def body(self) -> Any:
        return copy.deepcopy(BODIES[str(self)]) if self.takes_body else None


class Stored(Struct, frozen=True):
    """All that a refused request must leave as it was."""

    heads: tuple[int, int]
    events: tuple[int, int]
    rows: tuple[str | None, str | None]


class Attacker:
    """Sends wrong requests, and checks of each that it was refused as it should and left nothing behind."""

    def __init__(self, client: httpx.AsyncClient, database: Any) -> None:
        self.client = client
        self.operations: list[Operation] = []
        self._database = database
        self.last: Stored | None = None  # as it was found last; None: something was taken since
        self.run_id = self.task_id = self._token = ""

    async def prepare(self) -> None:
        """A run that is leased and a task, for the routes that need one; the routes."""
        self.last = None
        self.run_id, self._token = await lease(self.client, runner=f"bad-input-{id(self)}")
        self.task_id = (await create(self.client))["id"]
        if not self.operations:
            self.operations = [*await self._documented(RUNS), *await self._documented(TASKS)]

    async def _documented(self, base: str) -> list[Operation]:
        document = (await self.client.get(f"{base}/schema/openapi.json")).raise_for_status().json()
        assert document["openapi"].startswith("3.1")
        return [
            Operation(
                method.upper(),
                path,
                tuple(p["name"] for p in operation.get("parameters", ()) if p["in"] == "query"),
                "requestBody" in operation,
            )
            for path, item in document["paths"].items()
            for method, operation in item.items()
        ]

    def with_body(self) -> Iterator[Operation]:
        return (operation for operation in self.operations if operation.takes_body)

    async def stored(self) -> Stored:
        row = await self._database.fetchrow(
            """SELECT (SELECT head FROM runs.log), (SELECT head FROM tasks.log),
               (SELECT count(*) FROM runs.events), (SELECT count(*) FROM tasks.events),
               (SELECT md5(string_agg(r::text, '' ORDER BY id)) FROM runs.runs r),
               (SELECT md5(string_agg(t::text, '' ORDER BY id)) FROM tasks.tasks t)"""
        )
        self.last = Stored((row[0], row[1]), (row[2], row[3]), (row[4], row[5]))
        return self.last

    async def ask(
        self,
        operation: Operation,
        *,
        content: bytes | AsyncIterator[bytes] | None = None,
        subject_id: str | None = None,
        query: str = "",
        headers: Iterable[tuple[bytes, bytes]] = (),
        media_type: bytes | None = b"application/json",
    ) -> httpx.Response:
        """The answer; of one that goes on for ever only its head."""
        given = {name.lower() for name, _ in headers}
        sent = [(b"tailrace-lease", self._token.encode())] if b"tailrace-lease" not in given else []
        if media_type is not None and operation.method in ("POST", "PATCH"):
            sent.append((b"content-type", media_type))
        path = operation.path.replace("{run_id}", self.run_id if subject_id is None else subject_id)
        url = path.replace("{task_id}", self.task_id if subject_id is None else subject_id) + query
        async with (
            asyncio.timeout(ANSWER_SECONDS),
            self.client.stream(operation.method, url, content=content, headers=[*sent, *headers]) as answer,
        ):
            if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                await answer.aread()
            return answer

    async def refused(self, operation: Operation, status: int | set[int], **request: Any) -> dict[str, Any]:
        """The problem document; the request has changed nothing."""
        before = self.last or await self.stored()
        answer = await self.ask(operation, **request)
        expected = {status} if isinstance(status, int) else status
        assert answer.status_code in expected, f"{operation} {_show(request)}: {answer.status_code} {_text(answer)}"
        problem = problem_of(answer, answer.status_code)
        assert len(answer.content) < 10_000, f"{operation}: a refusal should not be longer than what it refuses"
        assert await self.stored() == before, f"{operation} {_show(request)}"
        return problem

    async def survived(self, operation: Operation, **request: Any) -> None:
        """Refused properly, or taken because it was not wrong after all. GETs: see `untouched`."""
        before = None if operation.method == "GET" else self.last or await self.stored()
        answer = await self.ask(operation, **request)
        shown = f"{operation} {_show(request)}: {answer.status_code} {_text(answer)}"
        assert answer.status_code < 500, shown
        if answer.status_code >= 400:
            problem_of(answer, answer.status_code)
            assert before is None or await self.stored() == before, shown
            return
        self.last = None
        if operation.takes_body:
            for base in (RUNS, TASKS):
                readable = await self.client.get(base, params={"limit": 3})
                assert readable.status_code == 200, f"what was taken cannot be read: {shown}"
        if str(operation) in ENDS:
            await self.prepare()  # that run or task is over now

    @asynccontextmanager
    async def untouched(self) -> AsyncIterator[None]:
        """Nothing of what the block asks changes anything."""
        before = await self.stored()
        yield
        assert await self.stored() == before


def _show(request: dict[str, Any]) -> str:
    return str({name: str(value)[:200] for name, value in request.items()})


def _text(answer: httpx.Response) -> str:
    return answer.text[:300] if answer.is_closed and hasattr(answer, "_content") else "(a stream)"


@pytest_asyncio.fixture
async def attacker(client: httpx.AsyncClient, tailrace: Served) -> AsyncIterator[Attacker]:
    """Afterwards the service is well, and nothing was an error to it."""
    async with sql(tailrace.database_url) as database:
        attacker = Attacker(client, database)
        await attacker.prepare()
        yield attacker
    assert (await client.get("/ready")).status_code == 200
    output = "".join(tailrace.server.output)
    tailrace.server.output.clear()
    assert " ERROR " not in output, output[-3_000:]


# ── every route ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_every_route_that_takes_a_body_has_an_example_here_and_the_example_is_right(attacker: Attacker) -> None:
    assert {str(operation) for operation in attacker.with_body()} == BODIES.keys()
    for operation in attacker.with_body():
        answer = await attacker.ask(operation, content=json.dumps(operation.body).encode())
        # the run does not wait for input: the state refuses what the body allows
        right = (409,) if operation.path.endswith("/input") else (200, 201, 202, 204)
        assert answer.status_code in right, answer.text


async def test_a_body_that_is_no_object_is_400(attacker: Attacker) -> None:
    for operation in attacker.with_body():
        for content in NO_OBJECT.values():
            if content == b"{}" and operation.method == "PATCH":
                continue  # a patch that changes nothing
            await attacker.refused(operation, 400, content=content)


async def test_an_unknown_field_is_400_naming_it_and_those_that_are_allowed(attacker: Attacker) -> None:
    for operation in attacker.with_body():
        body = {**operation.body, "colour": "blue"}
        detail = (await attacker.refused(operation, 400, content=json.dumps(body).encode()))["detail"]
        assert "colour" in detail, detail
        assert all(field in detail for field in BODIES[str(operation)]), detail


async def test_a_missing_field_is_400_naming_it(attacker: Attacker) -> None:
    for operation, field in (
        (f"POST {RUNS}", "task"),
        (f"POST {RUNS}/lease", "runners"),
        (f"POST {RUNS}/{{run_id}}/events", "events"),
        (f"POST {RUNS}/{{run_id}}/finish", "status"),
        (f"POST {TASKS}", "title"),
    ):
        (known,) = [o for o in attacker.with_body() if str(o) == operation]
        body = {name: value for name, value in known.body.items() if name != field}
        assert field in (await attacker.refused(known, 400, content=json.dumps(body).encode()))["detail"]


async def test_a_wrong_value_of_any_field_is_refused_and_never_a_fault_of_the_service(attacker: Attacker) -> None:
    for operation in attacker.with_body():
        for field in BODIES[str(operation)]:
            for value in WRONG_VALUES:
                content = json.dumps({**operation.body, field: value}).encode()
                await attacker.survived(operation, content=content)


async def test_a_wrong_value_in_an_event_is_refused_and_never_a_fault_of_the_service(attacker: Attacker) -> None:
    (operation,) = [o for o in attacker.with_body() if str(o) == APPEND]
    for event in (NODE_UPDATE, ERROR):
        for field in event:
            for value in WRONG_VALUES:
                content = json.dumps({"events": [NODE_UPDATE, {**event, field: value}]}).encode()
                await attacker.survived(operation, content=content)
    for wrong in WRONG_VALUES:
        await attacker.survived(operation, content=json.dumps({"events": [wrong]}).encode())
        await attacker.survived(operation, content=json.dumps({"events": [{**ERROR, str(wrong)[:50]: 1}]}).encode())
    for name in ("tenant", "run_id", "ts"):  # the service's own words
        event = {**NODE_UPDATE, name: "default"}
        assert (
            name in (await attacker.refused(operation, 400, content=json.dumps({"events": [event]}).encode()))["detail"]
        )


async def test_a_lone_surrogate_is_400_wherever_it_stands(attacker: Attacker) -> None:
    for operation in attacker.with_body():
        for field, value in operation.body.items():
            if isinstance(value, str):
                for text in ("\ud800", "a\udfffb", "\udc00\ud800"):
                    content = json.dumps({**operation.body, field: text}).encode()
                    await attacker.refused(operation, 400, content=content)


async def test_deep_nesting_is_no_fault_of_the_service(attacker: Attacker) -> None:
    for operation in attacker.with_body():
        for depth in (50, 500, 900, 990, 1_100, 20_000):
            arrays = b"[" * depth + b"]" * depth
            objects = b'{"a":' * depth + b"1" + b"}" * depth
            for field in BODIES[str(operation)]:
                others = json.dumps({k: v for k, v in operation.body.items() if k != field}).encode()[:-1]
                for deep in (arrays, objects, b'{"a":' + arrays + b"}"):
                    await attacker.survived(operation, content=b'%b,"%b":%b}' % (others, field.encode(), deep))


async def test_numbers_beyond_measure_are_no_fault_of_the_service(attacker: Attacker) -> None:
    numbers = [
        b"1e400",
        b"-1e400",
        b"9" * 5_000,
        b"1e" + b"9" * 500,
        b"0." + b"0" * 500 + b"1",
        b"-0",
        b"NaN",
        b"Infinity",
    ]
    for operation in attacker.with_body():
        for field in BODIES[str(operation)]:
            others = json.dumps({k: v for k, v in operation.body.items() if k != field}).encode()[:-1]
            for number in numbers:
                for value in (number, b'{"a":%b}' % number, b"[%b]" % number):
                    await attacker.survived(operation, content=b'%b,"%b":%b}' % (others, field.encode(), value))
    (operation,) = [o for o in attacker.with_body() if str(o) == APPEND]
    for field in ("iteration", "tokens_in", "tokens_out", "elapsed_ms", "attempt"):
        for number in (*numbers, str(2**63).encode(), str(2**64).encode(), str(10**30).encode()):
            content = b'{"events":[{"type":"node_update","node":"n","%b":%b}]}' % (field.encode(), number)
            await attacker.survived(operation, content=content)


async def test_counters_that_add_up_beyond_measure_are_no_fault_of_the_service(attacker: Attacker) -> None:
    (operation,) = [o for o in attacker.with_body() if str(o) == APPEND]
    for worker in "abc":
        event = {**NODE_UPDATE, "worker_id": worker, "tokens_in": 2**63 - 1, "tokens_out": 2**63 - 1}
        await attacker.survived(operation, content=json.dumps({"events": [event]}).encode())
    (listing,) = [o for o in attacker.operations if str(o) == f"GET {RUNS}"]
    assert (await attacker.ask(listing)).status_code == 200


async def test_what_was_taken_can_be_read_on_every_transport(attacker: Attacker, tailrace: Served) -> None:
    (operation,) = [o for o in attacker.with_body() if str(o) == APPEND]
    for field in ("iteration", "tokens_in", "elapsed_ms", "worker_id", "node", "model", "snippet"):
        for value in (2**53 - 1, 2**53, 2**63, 2**64, 10**30, "a\0b", "\u2028\x7f\r\n\x1b[31m", "\U0001f30a" * 300):
            content = json.dumps({"events": [{"type": "node_update", "node": "n", field: value}]}).encode()
            await attacker.survived(operation, content=content)
    run_id, client = attacker.run_id, attacker.client
    (stopping,) = [o for o in attacker.with_body() if o.path.endswith("/finish")]
    assert (await attacker.ask(stopping, content=b'{"status":"completed"}')).status_code == 200
    expected = stored(await read_to_end(client, f"{RUNS}/{run_id}/stream"))
    assert len(expected) > 10
    assert await events_of(client, run_id) == expected
    for subprotocol in ("tailrace.v1", "tailrace.v1.msgpack"):
        async with socket(f"{tailrace.websocket_url}{RUNS}/{run_id}/stream", subprotocol=subprotocol) as opened:
            assert stored(await opened.until_type("stream_end")) == expected
    assert (await client.get(f"{RUNS}/{run_id}")).json()["events"] == [frame.event for frame in expected]


async def test_a_body_that_is_too_large_is_413_however_it_comes(attacker: Attacker) -> None:
    large = b'{"task":"' + b"x" * 500_000 + b'"}'

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(large), 50_000):
            yield large[start : start + 50_000]

    for operation in attacker.with_body():
        await attacker.refused(operation, 413, content=large)
        await attacker.refused(operation, 413, content=chunks())


async def test_an_event_that_is_too_large_is_413(attacker: Attacker) -> None:
    (operation,) = [o for o in attacker.with_body() if str(o) == APPEND]
    content = json.dumps({"events": [NODE_UPDATE, {**NODE_UPDATE, "model": "x" * 300_000}]}).encode()
    assert "bytes" in (await attacker.refused(operation, 413, content=content))["detail"]


async def test_too_many_events_at_once_are_400(attacker: Attacker) -> None:
    (operation,) = [o for o in attacker.with_body() if str(o) == APPEND]
    event = {"type": "node_update", "node": "n"}
    for events in ([], [event] * 1_001):
        assert (
            "events"
            in (await attacker.refused(operation, 400, content=json.dumps({"events": events}).encode()))["detail"]
        )


async def test_another_content_type_is_415_naming_the_right_one(attacker: Attacker) -> None:
    for operation in attacker.with_body():
        content = json.dumps(operation.body).encode()
        for media_type in (
            b"text/plain",
            b"application/x-www-form-urlencoded",
            b"multipart/form-data; boundary=x",
            b"application/msgpack",
            b"application/jsonp",
            b"nonsense",
            b"\xff",
            None,
        ):
            problem = await attacker.refused(operation, 415, content=content, media_type=media_type)
            assert "application/json" in problem["detail"]
        for fine in (b"application/json; charset=utf-8", b"Application/JSON"):
            await attacker.survived(operation, content=content, media_type=fine)


async def test_another_method_is_405_naming_those_that_are_allowed(attacker: Attacker) -> None:
    paths = {operation.path for operation in attacker.operations}
    for path in sorted(paths):
        allowed = {operation.method for operation in attacker.operations if operation.path == path}
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - allowed:
            if any(_covers(other.path, path) and other.method == method for other in attacker.operations):
                continue  # /runs/stream is also /runs/{run_id}
            wrong = Operation(method, path, (), takes_body=False)
            before = await attacker.stored()
            answer = await attacker.ask(wrong, content=b"{}")
            problem_of(answer, 405)
            assert allowed <= set(answer.headers["allow"].replace(" ", "").split(","))
            assert await attacker.stored() == before


def _covers(template: str, path: str) -> bool:
    """Whether a path without places is one of those that a template stands for."""
    parts, others = template.split("/"), path.split("/")
    places = ("{run_id}", "{task_id}")
    return len(parts) == len(others) and all(p == o or p in places for p, o in zip(parts, others, strict=True))


async def test_an_unknown_parameter_is_400_naming_it_and_those_that_are_allowed(attacker: Attacker) -> None:
    for operation in attacker.operations:
        content = json.dumps(operation.body).encode() if operation.takes_body else None
        problem = await attacker.refused(operation, 400, content=content, query="?colour=blue")
        assert "'colour'" in problem["detail"]
        assert all(name in problem["detail"] for name in operation.parameters)


async def test_any_value_of_any_parameter_is_taken_or_refused(attacker: Attacker) -> None:
    values = (
        *("", "%00", "a%00b", "%ff%fe", "%ED%A0%80", "x" * 5_000, "-1", "0", "1e999", "nan", "9" * 500),
        *("%D9%A3", "true", "null", "[]", "%27%3B--", "%25", "%zz", "%", "*", "%2a%2a%2a%2a", "(a%2B)%2B$", ",", ",,,"),
        *("run_" + "0" * 26, "k3f9a2-1", "start", "now", "k3f9a2-" + "9" * 19, "%F0%9F%90%99", "%E2%80%AE"),
    )
    async with attacker.untouched():
        for operation in attacker.operations:
            for name in operation.parameters:
                for value in values:
                    await attacker.survived(operation, query=f"?{name}={value}")


@pytest.mark.parametrize(
    "subject_id",
    [
        *(NO_SUCH_RUN, NO_SUCH_TASK, IMPOSSIBLE_RUN, "run_%00", "task_%00", "%00", "%ff", "..%2f..", "x" * 5_000),
        *("%F0%9F%90%99", "%27", "RUN_0", "-"),
    ],
)
async def test_what_there_is_not_is_404_in_the_same_words_everywhere(attacker: Attacker, subject_id: str) -> None:
    for operation in attacker.operations:
        if "{run_id}" in operation.path or "{task_id}" in operation.path:
            content = json.dumps(operation.body).encode() if operation.takes_body else None
            problem = await attacker.refused(operation, 404, content=content, subject_id=subject_id)
            if "%2f" not in subject_id:
                assert problem["detail"] == f"There is no such {'run' if '{run_id}' in operation.path else 'task'}."


async def test_strange_headers_are_no_fault_of_the_service(attacker: Attacker) -> None:
    names = (
        *(b"last-event-id", b"tailrace-lease", b"if-none-match", b"if-match", b"idempotency-key", b"accept"),
        *(b"x-request-id", b"origin", b"cookie"),
    )
    values = (b"", b"\xff\xfe", b"x" * 5_000, b"'\"<>", b"*", b"9" * 500)
    for operation in attacker.operations:
        content = json.dumps(operation.body).encode() if operation.takes_body else None
        for name in names:
            for value in values:
                await attacker.survived(operation, content=content, headers=[(name, value)])


async def test_a_callers_request_id_comes_back_if_it_is_a_decent_one(client: httpx.AsyncClient) -> None:
    url = f"{RUNS}/{NO_SUCH_RUN}"
    assert problem_of(await client.get(url, headers={"x-request-id": "abc-1.2_3"}), 404)["request_id"] == "abc-1.2_3"
    for indecent in ("", "a b", "<script>", "x" * 81, "é"):
        answer = await client.get(url, headers=[(b"x-request-id", indecent.encode())])
        assert problem_of(answer, 404)["request_id"] not in (indecent, "")


async def test_a_url_that_there_is_not_is_404(client: httpx.AsyncClient) -> None:
    for path in (
        f"{RUNS}/{NO_SUCH_RUN}/nothing",
        f"{RUNS}/a/b/c/d",
        "/api/v1/nothing",
        "/api/v2/runs",
        "/x",
    ):
        for method in ("GET", "POST", "DELETE"):
            problem_of(await client.request(method, path), 404)


# ── what is worth its own sentence ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        ({"task": ""}, 400, "task"),
        ({"task": "t", "mode": "later"}, 400, "mode"),
        ({"task": "t", "workers": 0}, 400, "workers"),
        ({"task": "t", "workers": "one"}, 400, "workers"),
        ({"task": "t", "max_attempts": 0}, 400, "max_attempts"),
        ({"task": "t", "timeout_seconds": 0}, 400, "timeout_seconds"),
        ({"task": "t", "params": []}, 400, "params"),
        ({"task": "t", "runner": "with space"}, 400, "runner"),
        ({"task": "t", "runner": "nobody"}, 422, "sample"),
        ({"task": "t", "session_id": "a\nb"}, 400, "session_id"),
        ({"task": "a\0b"}, 400, "task"),
    ],
)
async def test_creating_a_run_names_the_field_at_fault(
    attacker: Attacker, body: dict[str, Any], status: int, named: str
) -> None:
    (operation,) = [o for o in attacker.with_body() if str(o) == f"POST {RUNS}"]
    assert named in (await attacker.refused(operation, status, content=json.dumps(body).encode()))["detail"]


async def test_a_number_without_its_producer_or_the_reverse_is_400(attacker: Attacker) -> None:
    (operation,) = [o for o in attacker.with_body() if str(o) == APPEND]
    for half in ({"producer": "p"}, {"producer_seq": 1}):
        content = json.dumps({"events": [NODE_UPDATE], **half}).encode()
        assert "producer_seq" in (await attacker.refused(operation, 400, content=content))["detail"]


async def test_the_services_own_words_cannot_be_said_by_a_worker(attacker: Attacker) -> None:
    (operation,) = [o for o in attacker.with_body() if str(o) == APPEND]
    for name in ("status", "hello", "live", "gap", "reset", "stream_end", "bookmark"):
        content = json.dumps({"events": [{"type": name, "status": "completed"}]}).encode()
        detail = (await attacker.refused(operation, 400, content=content))["detail"]
        assert "node_update" in detail
        assert "error" in detail


async def test_a_broken_request_does_not_take_its_neighbours_with_it(attacker: Attacker) -> None:
    (create,) = [o for o in attacker.with_body() if str(o) == f"POST {RUNS}"]
    good, bad = json.dumps(create.body).encode(), json.dumps({**create.body, "params": {"n": 10**30}}).encode()
    before = await attacker.stored()
    answers = await asyncio.gather(*(attacker.ask(create, content=good if n % 2 else bad) for n in range(20)))
    taken = [answer for answer in answers if answer.status_code == 202]
    assert [answer.status_code for answer in answers[1::2]] == [202] * 10
    assert (await attacker.stored()).heads[0] == before.heads[0] + len(taken)
    for answer in answers:
        if answer.status_code != 202:
            check_problem(400, answer.headers["content-type"], answer.content, answer.headers["x-request-id"])
