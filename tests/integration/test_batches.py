"""Batches: several runs of one kind, started one after the other."""

import asyncio
from datetime import datetime
from typing import Any

import httpx
import pytest

from tests.support.postgres import fresh_database
from tests.support.runs import SECONDS, client_fixture, ended, server_fixture, sse
from tests.support.server import running

pytestmark = pytest.mark.asyncio(loop_scope="module")
server = server_fixture()
client = client_fixture()


async def batch(client: httpx.AsyncClient, **body: Any) -> list[Any]:
    """A batch's runs, in the order of the answer."""
    body = {"task": "many", "params": {"step_seconds": 0, "words": 1}, **body}
    answer = await client.post("/api/v1/runs/batch", json=body)
    assert answer.status_code == 202, answer.text
    runs: list[Any] = answer.json()["data"]
    return runs


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


async def all_ended(client: httpx.AsyncClient, runs: list[Any]) -> list[Any]:
    return [await ended(client, run["id"]) for run in runs]


async def test_as_many_start_as_were_asked_for(client: httpx.AsyncClient) -> None:
    runs = await batch(client, count=5, stagger_ms=0, session_id="batch", workers=2)
    assert len({run["id"] for run in runs}) == 5
    assert {(run["status"], run["session_id"], run["workers"]) for run in runs} == {("queued", "batch", 2)}
    assert {run["status"] for run in await all_ended(client, runs)} == {"completed"}


async def test_a_hundred_are_listed_in_their_order(client: httpx.AsyncClient) -> None:
    runs = await batch(client, count=100, stagger_ms=0, runner="nobody", mode="queued", task_id="hundred")
    listed = (await client.get("/api/v1/runs?task_id=hundred&limit=500")).json()["data"]
    assert [run["id"] for run in listed] == [run["id"] for run in reversed(runs)]


async def test_each_starts_its_stagger_after_the_one_before(client: httpx.AsyncClient) -> None:
    runs = await batch(client, count=4, stagger_ms=150)
    due = [run["start_after"] for run in runs]
    assert due[0] is None
    created = moment(runs[0]["created_at"])
    assert [round((moment(at) - created).total_seconds() * 1000) for at in due[1:]] == [150, 300, 450]
    done = await all_ended(client, runs)
    for run in done[1:]:
        assert moment(run["started_at"]) >= moment(run["start_after"])
    starts = [moment(run["started_at"]) for run in done]
    assert starts == sorted(starts)


async def test_300_ms_lie_between_two_unless_told(client: httpx.AsyncClient) -> None:
    runs = await batch(client, count=2, runner="nobody", mode="queued")
    took = moment(runs[1]["start_after"]) - moment(runs[0]["created_at"])
    assert took.total_seconds() == pytest.approx(0.3)


async def test_no_worker_gets_a_run_before_its_time(client: httpx.AsyncClient) -> None:
    runs = await batch(client, count=2, stagger_ms=60_000, runner="early", mode="queued")
    body = {"runners": ["early"], "worker": "w"}
    first, second = [await client.post("/api/v1/runs/lease", json=body) for _ in range(2)]
    assert first.json()["run"]["id"] == runs[0]["id"]
    assert second.status_code == 204
    assert (await client.post(f"/api/v1/runs/{runs[1]['id']}/cancel")).json()["run"]["status"] == "cancelled"


async def test_a_worker_that_waits_gets_each_when_it_is_due(client: httpx.AsyncClient) -> None:
    runs = await batch(client, count=3, stagger_ms=100, runner="waiting", mode="queued")
    body = {"runners": ["waiting"], "worker": "w", "wait_seconds": 20}
    leased = [(await client.post("/api/v1/runs/lease", json=body)).json()["run"] for _ in range(3)]
    assert [run["id"] for run in leased] == [run["id"] for run in runs]
    assert all(moment(run["started_at"]) >= moment(run["start_after"]) for run in leased[1:])


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"count": 0},
        {"count": 101},
        {"count": "many"},
        {"count": 3, "stagger_ms": -1},
        {"count": 3, "stagger_ms": 60_001},
    ],
)
async def test_what_is_beyond_the_limits_is_refused(client: httpx.AsyncClient, wrong: dict[str, Any]) -> None:
    answer = await client.post("/api/v1/runs/batch", json={"task": "many", **wrong})
    assert answer.status_code == 400
    assert ("stagger_ms" if "stagger_ms" in wrong else "count") in answer.json()["detail"]


async def test_a_batch_for_a_runner_that_is_not_here_is_refused_whole(client: httpx.AsyncClient) -> None:
    body = {"task": "many", "count": 3, "runner": "nowhere", "mode": "inline"}
    assert (await client.post("/api/v1/runs/batch", json=body)).status_code == 422
    openai = await client.post("/api/v1/runs/batch", json={**body, "runner": "openai"})
    assert openai.status_code == 422
    assert "TAILRACE_OPENAI_BASE_URL" in openai.json()["detail"]
    assert (await client.get("/api/v1/runs?runner=nowhere")).json()["data"] == []


async def test_a_batch_survives_the_death_of_the_service_between_two_starts(postgres_url: str) -> None:
    async with fresh_database(postgres_url) as url, running(url, lease_seconds=1) as server:
        async with (
            httpx.AsyncClient(base_url=server.url, timeout=SECONDS) as client,
            sse(client, "/api/v1/runs/stream?types=status") as feed,
        ):
            await feed.until(lambda message: message.event == "live")
            runs = await batch(client, count=4, stagger_ms=400)
            await feed.until(lambda message: '"running"' in message.data and runs[1]["id"] in message.data)
            await server.kill()
        await server.start()
        async with httpx.AsyncClient(base_url=server.url, timeout=SECONDS) as client:
            done = await asyncio.gather(*(ended(client, run["id"]) for run in runs))
            assert {run["status"] for run in done} == {"completed"}
            assert all(moment(run["started_at"]) >= moment(run["start_after"]) for run in done[1:])
            assert len((await client.get("/api/v1/runs")).json()["data"]) == 4
