"""The `openai` runner against an endpoint that speaks the protocol over a real socket, well and badly."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from services.runs import openai
from services.runs.model import Run
from services.runs.openai import Endpoint, OpenAiRunner, UpstreamError
from tests.support.fake_endpoint import Asked, FakeEndpoint, Reply, fake_endpoint
from tests.support.postgres import fresh_database
from tests.support.runs import (
    SECONDS,
    client_fixture,
    create,
    ended,
    listed,
    polled,
)
from tests.support.server import Server, running

pytestmark = pytest.mark.asyncio(loop_scope="module")
client = client_fixture()
KEY = "sk-very-secret-0123456789"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def endpoint() -> AsyncIterator[FakeEndpoint]:
    seed = random.randrange(2**32)
    print("seed", seed)
    async with fake_endpoint(seed) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(postgres_url: str, endpoint: FakeEndpoint) -> AsyncIterator[Server]:
    settings = {"openai_base_url": endpoint.url, "openai_model": "model-x", "openai_api_key": KEY, "log_level": "debug"}
    async with fresh_database(postgres_url) as url, running(url, **settings) as started:
        yield started


async def start(client: httpx.AsyncClient, task: str, **body: Any) -> str:
    run_id: str = (await create(client, task=task, runner="openai", **body))["id"]
    return run_id


def updates(events: list[Any], worker: str) -> list[Any]:
    return [event for event in events if event["type"] == "node_update" and event.get("worker_id") == worker]


# ── through the service ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("crlf", [False, True])
async def test_real_counts_come_from_the_usage_and_the_output_from_the_reviewer(
    client: httpx.AsyncClient, endpoint: FakeEndpoint, crlf: bool
) -> None:
    word = f"usage-{crlf}"
    texts = {"supervisor": "one part", "writer": "Ein längerer Entwurf 🦆", "reviewer": "Der fertige Text, süß 🦆."}
    counts = {"supervisor": (100, 10), "writer": (200, 20), "reviewer": (300, 30)}
    endpoint.scripts[word] = lambda asked, _: Reply(texts[asked.role], counts[asked.role], crlf=crlf)
    run = await ended(client, await start(client, word))
    assert (run["status"], run["output"]) == ("completed", texts["reviewer"])
    assert (run["tokens_in"], run["tokens_out"]) == (600, 60)
    for worker, role in (("supervisor", "supervisor"), ("writer-1", "writer"), ("reviewer", "reviewer")):
        last = updates(run["events"], worker)[-1]
        assert last == {**last, "phase": "done", "node": role, "model": "model-x", "snippet": texts[role]}
        assert (last["tokens_in"], last["tokens_out"], last.get("estimated", False)) == (*counts[role], False)
    assert [asked.role for asked in endpoint.about(word)] == ["supervisor", "writer", "reviewer"]
    asked = endpoint.about(word)[0]
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.body == {**asked.body, "model": "model-x", "stream": True, "stream_options": {"include_usage": True}}
    shown = await listed(client, run["id"])
    assert (shown["tokens_in"], shown["tokens_out"], shown["snippet"]) == (600, 60, texts["reviewer"])


async def test_counts_that_the_endpoint_does_not_give_are_estimated_and_marked(
    client: httpx.AsyncClient, endpoint: FakeEndpoint
) -> None:
    endpoint.scripts["no-usage"] = lambda asked, _: Reply("word " * 40 + "end", usage=None)
    run = await ended(client, await start(client, "no-usage"))
    assert run["status"] == "completed"
    assert all(update["estimated"] for update in run["events"] if update["type"] == "node_update")
    assert 30 <= updates(run["events"], "reviewer")[-1]["tokens_out"] <= 100
    assert run["tokens_out"] > 0
    assert run["tokens_in"] > 0


async def test_partial_snippets_come_while_it_generates(client: httpx.AsyncClient, endpoint: FakeEndpoint) -> None:
    endpoint.scripts["partial"] = lambda asked, _: Reply("wörd " * 30 + "end", pause=0.02)
    run = await ended(client, await start(client, "partial"))
    for worker in ("supervisor", "writer-1", "reviewer"):
        generating = [update for update in updates(run["events"], worker) if update["phase"] == "generate"]
        partial = [update for update in generating if update.get("estimated")]  # the endpoint counts only at the end
        assert partial, worker
        snippets = [update["snippet"] for update in partial]
        assert all(("wörd " * 30 + "end").startswith(snippet) for snippet in snippets)
        assert [len(s) for s in snippets] == sorted({len(s) for s in snippets})
        counts = [update["tokens_out"] for update in partial]
        assert counts == sorted(counts)


async def test_writers_work_in_parallel(client: httpx.AsyncClient, endpoint: FakeEndpoint) -> None:
    barrier = asyncio.Barrier(6)

    def script(asked: Asked, _: int) -> Reply:
        return Reply(together=barrier) if asked.role == "writer" else Reply("a\nb\nc")

    endpoint.scripts["parallel"] = script
    run = await ended(client, await start(client, "parallel", workers=6))
    assert run["status"] == "completed"
    assert endpoint.most_open >= 6
    assert {event["worker_id"] for event in run["events"] if event["type"] == "node_update"} == {
        "supervisor",
        "reviewer",
        *(f"writer-{number}" for number in range(1, 7)),
    }
    assert run["tokens_out"] == 8 * 22


async def test_a_cancelled_run_closes_its_connections_upstream(
    client: httpx.AsyncClient, endpoint: FakeEndpoint
) -> None:
    endpoint.scripts["cancelled"] = lambda asked, _: Reply(
        "a\nb", fault="stall" if asked.role == "writer" else "", faultless=2
    )
    run_id = await start(client, "cancelled", workers=3)
    async with asyncio.timeout(SECONDS):
        await endpoint.until(lambda: len(endpoint.about("cancelled")) == 4)
        writers = [asked for asked in endpoint.about("cancelled") if asked.role == "writer"]
        await asyncio.gather(*(asked.begun.wait() for asked in writers))
        assert not any(asked.left.is_set() for asked in writers)
        began = asyncio.get_running_loop().time()
        assert (await client.post(f"/api/v1/runs/{run_id}/cancel")).status_code == 202
        await asyncio.gather(*(asked.left.wait() for asked in writers))
        took = asyncio.get_running_loop().time() - began
    print("upstream was left after", round(took, 3), "s")
    assert took < 5  # a second is promised; this machine may be busy
    run = await ended(client, run_id)
    assert run["status"] == "cancelled"


async def test_a_run_whose_time_is_up_closes_its_connection_upstream(
    client: httpx.AsyncClient, endpoint: FakeEndpoint
) -> None:
    endpoint.scripts["endless"] = lambda asked, _: Reply(fault="stall")
    run = await ended(client, await start(client, "endless", timeout_seconds=0.5))
    assert run["status"] == "timed_out"
    async with asyncio.timeout(5):  # long before its lease would be renewed in vain
        await endpoint.about("endless")[0].left.wait()


async def test_what_may_go_better_another_time_is_tried_again_and_told(
    client: httpx.AsyncClient, endpoint: FakeEndpoint
) -> None:
    replies = [
        Reply(status=429, headers={"retry-after": "1"}, body={"error": {"message": "slow down, please"}}),
        Reply(fault="malformed"),
        Reply("fine"),
    ]
    endpoint.scripts["again"] = lambda asked, count: replies[count] if asked.role == "supervisor" else Reply("fine")
    run = await ended(client, await start(client, "again"))
    assert (run["status"], run["output"], run["error"]) == ("completed", "fine", None)
    told = [event for event in run["events"] if event["type"] == "error"]
    assert [(e["fatal"], e["code"], e["attempt"], e["node"]) for e in told] == [
        (False, "upstream_429", 1, "supervisor"),
        (False, "upstream_malformed", 2, "supervisor"),
    ]
    assert "slow down, please" in told[0]["message"]


async def test_what_always_fails_ends_the_run_with_the_endpoints_own_words(
    client: httpx.AsyncClient, endpoint: FakeEndpoint
) -> None:
    endpoint.scripts["broken"] = lambda asked, _: Reply(status=500, body={"error": {"message": "the GPU is on fire"}})
    endpoint.scripts["denied"] = lambda asked, _: Reply(status=400, body={"error": {"message": "no such\0model"}})
    broken, denied = await start(client, "broken"), await start(client, "denied")
    run = await ended(client, broken)
    assert run["status"] == "failed"
    assert "the GPU is on fire" in run["error"]
    assert "500" in run["error"]
    assert len(endpoint.about("broken")) == openai.ATTEMPTS
    told = [event for event in run["events"] if event["type"] == "error"]
    assert [(e["fatal"], e["attempt"]) for e in told] == [(False, number) for number in range(1, openai.ATTEMPTS)]
    assert run["events"][-1]["error"] == run["error"]
    run = await ended(client, denied)
    assert run["status"] == "failed"
    assert "model" in run["error"]
    assert len(endpoint.about("denied")) == 1  # it would go no better another time


async def test_the_first_writer_that_fails_ends_the_others(client: httpx.AsyncClient, endpoint: FakeEndpoint) -> None:
    barrier = asyncio.Barrier(3)

    def script(asked: Asked, _: int) -> Reply:
        if asked.role != "writer":
            return Reply("one\ntwo\nthree")
        if asked.prompt.endswith("two"):
            return Reply(status=403, body="Forbidden here", together=barrier)
        return Reply(fault="stall", together=barrier)

    endpoint.scripts["siblings"] = script
    run = await ended(client, await start(client, "siblings", workers=3))
    assert run["status"] == "failed"
    assert "Forbidden here" in run["error"]
    async with asyncio.timeout(SECONDS):
        for asked in endpoint.about("siblings"):
            if asked.role == "writer" and not asked.prompt.endswith("two"):
                await asked.left.wait()


async def test_a_text_with_nul_or_beyond_an_event_is_still_a_result(
    client: httpx.AsyncClient, endpoint: FakeEndpoint
) -> None:
    endpoint.scripts["nul"] = lambda asked, _: Reply("a\0b")
    endpoint.scripts["huge"] = lambda asked, _: Reply("字" * 190_000 if asked.role == "reviewer" else "x")
    nul, huge = await start(client, "nul"), await start(client, "huge")
    run = await ended(client, nul)
    assert (run["status"], run["output"]) == ("completed", "a\ufffdb")
    run = await ended(client, huge)
    assert run["status"] == "completed"
    assert set(run["output"]) == {"字"}
    assert len(run["output"]) > 60_000


async def test_the_key_appears_in_no_event_error_or_log(
    server: Server, client: httpx.AsyncClient, endpoint: FakeEndpoint
) -> None:
    endpoint.scripts["echo"] = lambda asked, _: Reply(
        status=401, body={"error": {"message": f"wrong key: {asked.headers['authorization']}"}}
    )
    endpoint.scripts["echo-later"] = lambda asked, _: Reply(fault="error", body=f"wrong key {KEY}")
    first, second = await start(client, "echo"), await start(client, "echo-later")
    run = await ended(client, first)
    assert run["status"] == "failed"
    assert "wrong key" in run["error"]
    run = await ended(client, second)
    assert "wrong key" in run["error"]
    everything = [
        *(await polled(client, "/api/v1/runs/events", after="start")),
        (await client.get("/api/v1/runs")).text,
    ]
    assert len(everything) > 10
    assert KEY not in str(everything)
    assert KEY not in (await client.get("/metrics")).text
    assert KEY not in "".join(server.output)


async def test_a_key_that_no_header_can_hold_is_not_told_either(postgres_url: str, endpoint: FakeEndpoint) -> None:
    settings = {
        "openai_base_url": endpoint.url,
        "openai_model": "m",
        "openai_api_key": f"{KEY}\n",
        "log_level": "debug",
    }
    async with (
        fresh_database(postgres_url) as url,
        running(url, **settings) as server,
        httpx.AsyncClient(base_url=server.url, timeout=SECONDS) as client,
    ):
        run = await ended(client, await start(client, "newline"))
        assert run["status"] == "completed"  # a file that ends in a newline is no reason to fail
        assert KEY not in str(run)
    assert KEY not in "".join(server.output)


@pytest.mark.parametrize("given", [{}, {"openai_base_url": "http://127.0.0.1:1/v1"}])
async def test_a_missing_setting_is_said_at_creation(postgres_url: str, given: dict[str, str]) -> None:
    wanted = {"openai_base_url", "openai_model"} - set(given)
    async with (
        fresh_database(postgres_url) as url,
        running(url, **given) as server,
        httpx.AsyncClient(base_url=server.url, timeout=SECONDS) as client,
    ):
        body = {"task": "work", "runner": "openai"}
        for path, more in (("", {}), ("", {"mode": "queued"}), ("/batch", {"count": 3})):
            answer = await client.post(f"/api/v1/runs{path}", json={**body, **more})
            assert answer.status_code == 422
            assert answer.headers["content-type"].startswith("application/problem+json")
            for name in ("openai_base_url", "openai_model"):
                assert (f"TAILRACE_{name.upper()}" in answer.json()["detail"]) is (name in wanted)
        assert (await client.get("/api/v1/runs")).json()["data"] == []
        runners = (await client.get("/api/v1/runs/runners")).json()["data"]
        assert [runner["name"] for runner in runners] == ["sample", "openai"]
        assert runners[0]["missing"] is None
        for name in ("openai_base_url", "openai_model"):
            assert (f"TAILRACE_{name.upper()}" in runners[1]["missing"]) is (name in wanted)


# ── the runner by itself, with a shorter patience ──────────────────────────────────────────────────────────────


class Recorder:
    """A Reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.errors: list[tuple[str, str, bool, int]] = []

    async def node(self, node: str, **fields: Any) -> None:
        self.nodes.append({"node": node, **fields})

    async def error(self, code: str, message: str, *, fatal: bool, attempt: int, node: str | None = None) -> None:
        self.errors.append((code, message, fatal, attempt))


def a_run(task: str, workers: int = 1) -> Run:
    from datetime import UTC, datetime

    from services.runs.steps import NewRun, fresh

    new = NewRun(tenant="t", owner="o", task=task, mode="inline", runner="openai", workers=workers)
    return fresh("run_x", new, datetime.now(UTC))


@pytest.mark.parametrize(
    "fault",
    [
        (Reply(fault="malformed"), "upstream_malformed", "not understood"),
        (Reply(fault="error", body="overloaded, sorry"), "upstream_error", "overloaded, sorry"),
        (Reply(fault="error_text", body="overloaded, sorry"), "upstream_error", "overloaded, sorry"),
        (Reply(fault="cut_off"), "upstream_connection", "connection"),
        (Reply(fault="ended"), "upstream_cut_off", "before it was complete"),
        (Reply(fault="stall"), "upstream_timeout", "in time"),
        (Reply(fault="silent"), "upstream_timeout", "in time"),
        (Reply(status=500, body="<html>gateway</html>"), "upstream_500", "gateway"),
        (Reply(status=503, body={"error": "busy"}), "upstream_503", "busy"),
        (Reply(status=429, body={"detail": "x"}), "upstream_429", "detail"),
    ],
    ids=lambda value: value[0].fault or str(value[0].status),
)
@pytest.mark.parametrize("recovers", [True, False])
async def test_every_fault_is_tried_again_then_told(
    endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch, fault: tuple[Reply, str, str], *, recovers: bool
) -> None:
    reply, code, words = fault
    monkeypatch.setattr(openai, "TIMEOUT", httpx.Timeout(0.25, connect=10))
    word = f"fault-{code}-{reply.fault}-{recovers}."
    endpoint.scripts[word] = lambda asked, count: (
        reply if asked.role == "supervisor" and (count == 0 or not recovers) else Reply("fine")
    )
    recorder = Recorder()
    runner = OpenAiRunner(Endpoint(endpoint.url, "m", KEY), back_off=(0.001, 0.002))
    if recovers:
        assert await runner(a_run(word), recorder) == "fine"
    else:
        with pytest.raises(UpstreamError, match=words) as failed:
            await runner(a_run(word), recorder)
        assert failed.value.code == code
    announced = 1 if recovers else openai.ATTEMPTS - 1
    assert [(c, f, a) for c, _, f, a in recorder.errors] == [(code, False, n) for n in range(1, announced + 1)]
    assert all(words in message for _, message, _, _ in recorder.errors)


async def test_an_endpoint_that_is_not_there_is_a_failed_connection() -> None:
    recorder = Recorder()
    runner = OpenAiRunner(Endpoint("http://127.0.0.1:1/v1", "m", KEY), back_off=(0.001, 0.002))
    with pytest.raises(UpstreamError, match="connection to the endpoint failed"):
        await runner(a_run("nobody"), recorder)
    assert len(recorder.errors) == openai.ATTEMPTS - 1


async def test_an_endpoint_shows_no_key() -> None:
    assert KEY not in repr(Endpoint("http://x", "m", KEY))
    assert KEY not in str(Endpoint("http://x", "m", KEY))


async def test_retry_after_is_honoured_but_not_without_bound() -> None:
    conversation = openai._Conversation(
        Endpoint("http://x", "m"), (0.001, 0.002), httpx.AsyncClient(), a_run("x"), Recorder()
    )
    assert conversation._pause(1, 3.0) == 3.0
    assert conversation._pause(1, 86_400.0) == 30.0
    assert conversation._pause(1, None) < 0.01
