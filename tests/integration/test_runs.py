"""The runs service as its users meet it: create, list, look, and the summaries a list shows. DESIGN.md 4.5 and 6."""

import asyncio
import re
from datetime import datetime
from typing import Any

import httpx
import pytest

from tests.support.contract import (
    ANSWER_SECONDS,
    NO_SUCH_RUN,
    RUNS,
    ended_run,
    events_of,
    finish,
    head_of,
    problem_of,
    read_to_end,
    read_until,
    read_until_live,
    stored,
    types_of,
)
from tests.support.server import append, lease, running, sse

FAST = {"step_seconds": 0, "words": 3}


async def create(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    """A run, as the answer shows it."""
    answer = await client.post(RUNS, json={"task": "Say something", **body})
    assert answer.status_code in (201, 202), answer.text
    run: dict[str, Any] = answer.json()
    return run


async def updates(client: httpx.AsyncClient, run_id: str, token: str, *events: dict[str, Any]) -> None:
    body = {"events": [{"type": "node_update", **event} for event in events]}
    (await client.post(f"{RUNS}/{run_id}/events", json=body, headers={"tailrace-lease": token})).raise_for_status()


# ── creating ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_sample_run_is_watched_from_start_to_end(client: httpx.AsyncClient) -> None:
    run = await create(client, params=FAST)
    seen = await read_to_end(client, f"{RUNS}/{run['id']}/stream")
    assert seen[0].type == "hello"
    assert seen[-1].type == "stream_end"
    assert types_of(seen).count("live") == 1
    assert types_of(stored(seen)) == ["status", "status", *["node_update"] * 5, "status"]
    assert [f.event["status"] for f in seen if f.type == "status"] == ["queued", "running", "completed"]
    assert "sample" in seen[-3].event.get("snippet", "") + stored(seen)[2].event["snippet"]  # it says what it is


async def test_inline_is_running_when_201_is_answered(client: httpx.AsyncClient) -> None:
    answer = await client.post(RUNS, json={"task": "t", "params": {"step_seconds": 60}})
    assert answer.status_code == 201
    run = answer.json()
    assert (run["mode"], run["status"], run["runner"]) == ("inline", "running", "sample")
    assert re.fullmatch(r"run_[0-7][0-9a-hjkmnp-tv-z]{25}", run["id"])
    assert answer.headers["location"] == f"{RUNS}/{run['id']}"
    assert (await client.get(answer.headers["location"])).json()["id"] == run["id"]
    (await client.post(f"{RUNS}/{run['id']}/cancel")).raise_for_status()


async def test_queued_is_answered_with_202_and_waits(client: httpx.AsyncClient) -> None:
    answer = await client.post(RUNS, json={"task": "t", "mode": "queued", "runner": "waits"})
    assert answer.status_code == 202
    run = answer.json()
    assert (run["mode"], run["status"], run["started_at"]) == ("queued", "queued", None)
    assert [f.event["status"] for f in await events_of(client, run["id"])] == ["queued"]


async def test_a_queued_run_of_a_built_in_runner_is_taken_by_the_service(client: httpx.AsyncClient) -> None:
    run = await create(client, mode="queued", runner="sample", params=FAST)
    assert (await read_to_end(client, f"{RUNS}/{run['id']}/stream"))[-1].event["status"] == "completed"


async def test_a_run_is_shown_with_everything_it_was_created_with(client: httpx.AsyncClient) -> None:
    given = {
        "task": "Ünïcödé ☃ \u2028",
        "mode": "queued",
        "runner": "shown",
        "workers": 7,
        "session_id": "a session with ☃",
        "task_id": "task_x",
        "params": {"deep": [{"er": None}], "ü": 1.5},
        "timeout_seconds": 12.5,
        "max_attempts": 9,
    }
    run = await create(client, **given)
    assert {name: run[name] for name in given} == given
    epoch, head = await head_of(client)
    assert {
        name: run[name] for name in ("attempt", "tokens_in", "tokens_out", "snippet", "error", "last_position")
    } == {
        "attempt": 1,
        "tokens_in": 0,
        "tokens_out": 0,
        "snippet": None,
        "error": None,
        "last_position": f"{epoch}-{head}",
    }
    detail = (await client.get(f"{RUNS}/{run['id']}")).json()
    assert {name: detail[name] for name in run} == run
    assert detail["events"][0]["session_id"] == given["session_id"]


async def test_at_capacity_an_inline_run_is_429_with_a_time_and_nothing_is_stored(database_url: str) -> None:
    async with (
        running(database_url, runs_inline_capacity=1) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as client,
    ):
        first = await create(client, params={"step_seconds": 60})
        answer = await client.post(RUNS, json={"task": "t"})
        problem_of(answer, 429)
        assert int(answer.headers["retry-after"]) > 0
        assert len((await client.get(RUNS)).json()["data"]) == 1
        later = await create(client, mode="queued", params=FAST)  # this waits for the place
        async with sse(client, f"{RUNS}/{later['id']}/stream") as stream:
            await read_until_live(stream)
            (await client.post(f"{RUNS}/{first['id']}/cancel")).raise_for_status()
            assert (await read_until(stream, lambda f: f.type == "stream_end"))[-1].event["status"] == "completed"


async def test_a_runner_that_fails_says_why(client: httpx.AsyncClient) -> None:
    run = await create(client, params={**FAST, "fail": "out of paper"})
    end = stored(await read_to_end(client, f"{RUNS}/{run['id']}/stream"))[-1].event
    assert (end["status"], end["error"]) == ("failed", "out of paper")
    assert (await client.get(f"{RUNS}/{run['id']}")).json()["error"] == "out of paper"


@pytest.mark.parametrize("params", [{"step_seconds": "soon"}, {"words": []}, {"words": {}}, {"step_seconds": None}])
async def test_params_that_a_runner_cannot_use_fail_the_run_not_the_service(
    client: httpx.AsyncClient, params: dict[str, Any]
) -> None:
    run = await create(client, params=params)
    assert stored(await read_to_end(client, f"{RUNS}/{run['id']}/stream"))[-1].event["status"] == "failed"
    assert (await client.get("/ready")).status_code == 200


# ── listing ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_list_is_newest_first_page_by_page(client: httpx.AsyncClient) -> None:
    ids = [(await create(client, mode="queued", runner="paged", session_id="paged"))["id"] for _ in range(7)]
    seen: list[str] = []
    cursor, pages = "", 0
    while True:
        query: dict[str, Any] = {"session_id": "paged", "limit": 3, **({"cursor": cursor} if cursor else {})}
        page = (await client.get(RUNS, params=query)).raise_for_status().json()
        assert page.keys() == {"data", "next_cursor", "as_of"}
        seen += [run["id"] for run in page["data"]]
        pages += 1
        if page["next_cursor"] is None:
            break
        assert len(page["data"]) == 3
        cursor = page["next_cursor"]
    assert seen == ids[::-1]
    assert pages == 3


async def test_a_list_holds_fifty_unless_told_and_filters_by_field(client: httpx.AsyncClient) -> None:
    for number in range(51):
        await create(client, mode="queued", runner="fifty", task_id=f"task_{number % 2}")
    assert len((await client.get(RUNS)).json()["data"]) == 50
    expected: list[tuple[dict[str, Any], int]] = [
        ({"runner": "fifty", "limit": 500}, 51),
        ({"runner": "fifty", "task_id": "task_0", "limit": 500}, 26),
        ({"runner": "fifty", "status": "running"}, 0),
        ({"runner": "fifty", "mode": "inline"}, 0),
        ({"session_id": "never heard of"}, 0),
    ]
    for query, count in expected:
        page = (await client.get(RUNS, params=query)).raise_for_status().json()
        assert len(page["data"]) == count
        assert page["as_of"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("limit", "0"), ("limit", "501"), ("limit", "2.5"), ("cursor", "x"), ("cursor", ""), ("kind", "x")],
)
async def test_a_list_refuses_what_makes_no_sense(client: httpx.AsyncClient, name: str, value: str) -> None:
    assert name in problem_of(await client.get(RUNS, params={name: value}), 400)["detail"]


async def test_following_the_feed_from_as_of_misses_nothing_and_repeats_nothing(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client, session_id="as-of")
    await append(client, run_id, token, 2)
    page = (await client.get(RUNS, params={"session_id": "as-of"})).json()
    (row,) = page["data"]
    assert row["last_position"] == (await events_of(client, run_id))[-1].id
    assert row["last_position"] == page["as_of"]
    await append(client, run_id, token, 3)
    await finish(client, run_id, token)
    async with sse(client, f"{RUNS}/stream?after={page['as_of']}&run={run_id}") as stream:
        assert types_of(stored(await read_until_live(stream))) == ["node_update"] * 3 + ["status"]


async def test_a_list_and_its_as_of_are_one_snapshot_however_busy_it_is(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client, session_id="snapshot")
    done = asyncio.Event()

    async def work() -> None:
        for _ in range(60):
            await append(client, run_id, token)
        done.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(work())
        while not done.is_set():
            page = (await client.get(RUNS, params={"session_id": "snapshot"})).json()
            seqs = [int(text.partition("-")[2]) for text in (page["data"][0]["last_position"], page["as_of"])]
            assert seqs[0] <= seqs[1]  # a row newer than its list would be missed by nobody, but shown twice
            frames = await events_of(client, run_id, after=page["as_of"], until=page["as_of"])
            assert frames == []
    await finish(client, run_id, token)


# ── one run ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_run_comes_with_its_stored_events(client: httpx.AsyncClient) -> None:
    run_id = await ended_run(client)
    detail = (await client.get(f"{RUNS}/{run_id}")).json()
    frames = await events_of(client, run_id)
    assert detail["events"] == [frame.event for frame in frames]
    assert detail["events_trimmed"] is False
    assert detail["last_position"] == frames[-1].id
    times = [datetime.fromisoformat(detail[name]) for name in ("created_at", "started_at", "finished_at")]
    assert times == sorted(times)


async def test_a_run_with_more_events_than_fit_says_where_to_read_on(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client)
    for _ in range(2):
        await append(client, run_id, token, 700)
    detail = (await client.get(f"{RUNS}/{run_id}")).json()
    headers = {"accept": "application/x-ndjson"}
    rest = await client.get(f"{RUNS}/{run_id}/events", params={"after": detail["events_next"]}, headers=headers)
    assert len(detail["events"]) + len(rest.text.splitlines()) - 1 == 1_402
    await finish(client, run_id, token)


async def test_a_run_that_has_not_changed_is_304(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client)
    first = await client.get(f"{RUNS}/{run_id}")
    etag = first.headers["etag"]
    same = await client.get(f"{RUNS}/{run_id}", headers={"if-none-match": etag})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
    assert (await client.get(f"{RUNS}/{run_id}", headers={"if-none-match": f'"other", {etag}'})).status_code == 304
    await append(client, run_id, token)
    changed = await client.get(f"{RUNS}/{run_id}", headers={"if-none-match": etag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != etag
    await finish(client, run_id, token)


async def test_a_run_that_there_is_not_is_404(client: httpx.AsyncClient) -> None:
    problem_of(await client.get(f"{RUNS}/{NO_SUCH_RUN}"), 404)


# ── what a list shows of the work ──────────────────────────────────────────────────────────────────────────────


async def test_tokens_are_summed_over_workers_and_attempts_from_cumulative_counters(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client)
    await updates(
        client,
        run_id,
        token,
        {"node": "n", "worker_id": "a", "tokens_in": 5, "tokens_out": 10},
        {"node": "n", "worker_id": "a", "tokens_in": 5, "tokens_out": 30},
        {"node": "n", "worker_id": "b", "tokens_in": 1, "tokens_out": 2},
        {"node": "n", "worker_id": "a", "tokens_out": 20},  # late: a counter does not run backwards
        {"node": "n", "worker_id": "a", "attempt": 2, "tokens_in": 3, "tokens_out": 4},
    )
    await finish(client, run_id, token)
    run = (await client.get(f"{RUNS}/{run_id}")).json()
    assert (run["tokens_in"], run["tokens_out"]) == (5 + 1 + 3, 30 + 2 + 4)
    end = run["events"][-1]
    assert (end["tokens_in"], end["tokens_out"]) == (9, 36)


@pytest.mark.parametrize(
    ("nodes", "snippet"),
    [
        (["supervisor", "writer", "supervisor", "finish"], "writer says"),
        (["writer", "reviewer", "system"], "reviewer says"),
        (["supervisor", "system", "finish"], "finish says"),
        ([], None),
    ],
)
async def test_the_snippet_is_the_last_of_a_node_that_works_on_the_result(
    client: httpx.AsyncClient, nodes: list[str], snippet: str | None
) -> None:
    run_id, token = await lease(client, session_id=f"snippet {nodes}")
    if nodes:
        await updates(client, run_id, token, *({"node": node, "snippet": f"{node} says"} for node in nodes))
    (row,) = (await client.get(RUNS, params={"session_id": f"snippet {nodes}"})).json()["data"]
    assert row["snippet"] == snippet
    await finish(client, run_id, token)


async def test_output_and_error_are_kept_with_the_run(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client)
    await finish(client, run_id, token, "failed", error="out of ☃", output="half of it")
    run = (await client.get(f"{RUNS}/{run_id}")).json()
    assert (run["status"], run["error"], run["output"]) == ("failed", "out of ☃", "half of it")
    assert run["finished_at"] is not None


# ── the service itself ─────────────────────────────────────────────────────────────────────────────────────────


async def test_health_ready_and_metrics_answer(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health")).json() == {"status": "alive"}
    for path in ("/ready", "/api/v1/runs/ready"):
        answer = await client.get(path)
        assert answer.status_code == 200
        assert {state.partition(":")[0] for state in answer.json()["checks"].values()} == {"ok"}
    assert "tailrace_log_head" in (await client.get("/metrics")).text


async def test_the_openapi_document_and_the_event_schema_are_served(client: httpx.AsyncClient) -> None:
    document = (await client.get(f"{RUNS}/schema/openapi.json")).raise_for_status().json()
    assert document["openapi"].startswith("3.1")
    assert {f"{RUNS}/{{run_id}}/stream", f"{RUNS}/stream", f"{RUNS}/{{run_id}}/events"} <= document["paths"].keys()
    schema = (await client.get(f"{RUNS}/schema/events.json")).raise_for_status().json()
    described = {name for one in schema["$defs"].values() for name in one["properties"].get("type", {}).get("enum", ())}
    assert {"status", "node_update", "error"} <= described
    assert "snippet" in schema["$defs"]["NodeUpdate"]["properties"]


async def test_two_processes_on_one_database_are_one_service(database_url: str) -> None:
    async with (
        running(database_url) as here,
        running(database_url) as there,
        httpx.AsyncClient(base_url=here.url, timeout=30) as client,
        httpx.AsyncClient(base_url=there.url, timeout=30) as other,
        asyncio.timeout(ANSWER_SECONDS),
    ):
        run_id, token = await lease(client)
        async with sse(other, f"{RUNS}/{run_id}/stream") as stream:
            await read_until_live(stream)
            for worker in (client, other) * 10:
                (await append(worker, run_id, token, 2)).raise_for_status()
            (await finish(other, run_id, token)).raise_for_status()
            seen = stored(await read_until(stream, lambda frame: frame.type == "stream_end"))
        assert seen == (await events_of(client, run_id))[2:]
        assert len(seen) == 41
