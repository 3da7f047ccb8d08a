"""What one can do to a run from outside: retry, delete, give input; its time limit; asking twice; waiting."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.support.postgres import fresh_database
from tests.support.runs import (
    SECONDS,
    client_fixture,
    create,
    detail,
    ended,
    events_of,
    finish,
    is_event,
    listed,
    names,
    polled,
    server_fixture,
    socket_stream,
    sse,
    work,
)
from tests.support.server import Server, lease, running

pytestmark = pytest.mark.asyncio(loop_scope="module")
server = server_fixture(lease_seconds=5, runs_inline_capacity=8)
client = client_fixture()

NOBODY = "run_01j00000000000000000000000"
SLOW = {"step_seconds": 60}


# ── retry ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_retry_is_a_new_run_like_the_old_one(client: httpx.AsyncClient) -> None:
    body = {"task": "try", "workers": 2, "session_id": "s", "task_id": "t", "max_attempts": 2, "timeout_seconds": 60}
    old = await create(client, **body, params={"step_seconds": 0, "words": 1, "fail": "no luck"})
    assert (await ended(client, old["id"]))["status"] == "failed"
    answer = await client.post(f"/api/v1/runs/{old['id']}/retry")
    assert answer.status_code == 202
    new = answer.json()
    assert answer.headers["location"] == f"/api/v1/runs/{new['id']}"
    assert new["id"] != old["id"]
    assert (new["retry_of"], new["attempt"]) == (old["id"], 1)
    for field in ("task", "runner", "workers", "session_id", "task_id", "params", "timeout_seconds", "max_attempts"):
        assert new[field] == old[field], field
    run = await ended(client, new["id"])
    assert (run["status"], run["error"]) == ("failed", "no luck")
    assert (await detail(client, old["id"]))["status"] == "failed"
    events = {event["run_id"] for event in await polled(client, f"/api/v1/runs/{new['id']}/events")}
    assert events == {new["id"]}


async def test_a_run_that_goes_on_is_not_retried(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client, runner="retrying")
    answer = await client.post(f"/api/v1/runs/{run_id}/retry")
    assert (answer.status_code, answer.json()["run_status"]) == (422, "running")
    await finish(client, run_id, token)
    assert (await client.post(f"/api/v1/runs/{NOBODY}/retry")).status_code == 404


async def test_the_same_retry_sent_again_is_one_run(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client, runner="retried-once")
    await finish(client, run_id, token)
    key = {"idempotency-key": "retry-1"}
    answers = await asyncio.gather(*(client.post(f"/api/v1/runs/{run_id}/retry", headers=key) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1


# ── delete ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def finished_run(client: httpx.AsyncClient, runner: str, **body: Any) -> tuple[str, str]:
    """A run with events of every sort; its id and its lease's token."""
    run_id, token = await lease(client, runner=runner, **body)
    events = [
        {"type": "node_update", "node": "writer", "worker_id": "w", "snippet": f"secret of {run_id}"},
        {"type": "client_output_delta", "text": f"secret of {run_id}"},
    ]
    answer = await work(client, run_id, token, events, producer="p", producer_seq=1)
    assert answer.status_code == 200
    await finish(client, run_id, token, output=f"secret of {run_id}")
    return run_id, token


async def test_a_deleted_run_is_gone_from_every_read(server: Server, client: httpx.AsyncClient) -> None:
    run_id, _ = await finished_run(client, "deleted", session_id="deleted")
    other, _ = await finished_run(client, "kept", session_id="deleted")
    feed, session = "/api/v1/runs/events", "/api/v1/sessions/deleted/events"
    assert run_id in str(await polled(client, feed, after="start"))
    assert (await client.delete(f"/api/v1/runs/{run_id}")).status_code == 204
    for path in (f"/api/v1/runs/{run_id}", f"/api/v1/runs/{run_id}/events", f"/api/v1/runs/{run_id}/stream"):
        assert (await client.get(path)).status_code == 404, path
    assert run_id not in (await client.get("/api/v1/runs?limit=500")).text
    for stored in (
        await polled(client, feed, after="start"),
        await polled(client, session, after="start", types="*"),
        await polled(client, "/api/v1/sessions/deleted/workers/w/events"),
    ):
        assert names([event for event in stored if event.get("run_id") == run_id]) in (["deleted"], [])
        assert f"secret of {run_id}" not in str(stored)
        assert f"secret of {other}" in str(stored)
    assert (await client.get("/api/v1/runs/events", params={"run": run_id})).status_code == 404
    lines = await client.get(feed, params={"after": "start"}, headers={"accept": "application/x-ndjson"})
    assert f"secret of {run_id}" not in lines.text
    async with sse(client, "/api/v1/runs/stream?after=start") as stream:
        assert f"secret of {run_id}" not in str(await stream.until(is_event("live")))
    async with socket_stream(server, "/api/v1/runs/stream?after=start") as frames:
        assert f"secret of {run_id}" not in str(await frames.until(lambda event: event["type"] == "live"))
    assert (await client.delete(f"/api/v1/runs/{run_id}")).status_code == 404


async def test_a_warm_tail_forgets_a_deleted_run_and_its_readers_hear_of_it(
    server: Server, client: httpx.AsyncClient
) -> None:
    async with (
        sse(client, "/api/v1/runs/stream") as feed,
        socket_stream(server, "/api/v1/runs/stream") as socket,
        sse(client, "/api/v1/sessions/warm/stream?types=*") as session,
    ):
        await feed.until(is_event("live"))
        await socket.until(lambda event: event["type"] == "live")
        await session.until(is_event("live"))
        position = (await client.get("/api/v1/runs?limit=1")).json()["as_of"]
        run_id, _ = await finished_run(client, "warm", session_id="warm")
        await feed.until(is_event("status", status="completed", run_id=run_id))
        assert (await client.delete(f"/api/v1/runs/{run_id}")).status_code == 204
        # the tails of these three hold its events: whoever comes now must not get them
        async with sse(client, "/api/v1/runs/stream", headers={"last-event-id": position}) as late:
            stored = events_of(await late.until(is_event("live")))
        assert [event["type"] for event in stored if event["run_id"] == run_id] == ["deleted"]
        for seen in (
            events_of(await feed.until(is_event("deleted", run_id=run_id))),
            [f["event"] for f in await socket.until(lambda e: e["type"] == "deleted" and e["run_id"] == run_id)],
            events_of(await session.until(is_event("deleted", run_id=run_id))),
        ):
            assert seen[-1]["run_id"] == run_id
        # and they go on as before, without a repetition
        next_id, _ = await finished_run(client, "warm", session_id="warm")
        seen = events_of(await feed.until(is_event("status", status="completed", run_id=next_id)))
        assert {event["run_id"] for event in seen} == {next_id}
        assert names(seen) == ["status", "status", "node_update", "client_output_delta", "status"]


async def test_readers_of_another_process_forget_a_deleted_run_too(postgres_url: str) -> None:
    async with (
        fresh_database(postgres_url) as url,
        running(url) as one,
        running(url) as two,
        httpx.AsyncClient(base_url=one.url, timeout=SECONDS) as here,
        httpx.AsyncClient(base_url=two.url, timeout=SECONDS) as there,
        sse(there, "/api/v1/runs/stream") as feed,
    ):
        await feed.until(is_event("live"))
        position = (await there.get("/api/v1/runs?limit=1")).json()["as_of"]
        for _ in range(3):
            run_id, _ = await finished_run(here, "elsewhere")
            await feed.until(is_event("status", status="completed", run_id=run_id))
            assert (await here.delete(f"/api/v1/runs/{run_id}")).status_code == 204
            await feed.until(is_event("deleted", run_id=run_id))
            async with sse(there, f"/api/v1/runs/stream?after={position}") as late:
                stored = events_of(await late.until(is_event("live")))
            assert set(names(stored)) == {"deleted"}
        next_id, _ = await finished_run(here, "elsewhere")
        seen = events_of(await feed.until(is_event("status", status="completed", run_id=next_id)))
        assert names(seen) == ["status", "status", "node_update", "client_output_delta", "status"]


async def test_a_run_that_goes_on_is_not_deleted(client: httpx.AsyncClient) -> None:
    queued = await create(client, runner="nobody-takes-it", mode="queued")
    run_id, token = await lease(client, runner="active")
    for active, status in ((queued["id"], "queued"), (run_id, "running")):
        answer = await client.delete(f"/api/v1/runs/{active}")
        assert (answer.status_code, answer.json()["run_status"]) == (409, status)
    await client.post(f"/api/v1/runs/{run_id}/cancel")
    assert (await client.delete(f"/api/v1/runs/{run_id}")).json()["run_status"] == "cancelling"
    await finish(client, run_id, token, status="cancelled")
    assert (await client.delete(f"/api/v1/runs/{run_id}")).status_code == 204
    assert (await client.delete("/api/v1/runs/run_nonsense")).status_code == 404


# ── input ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given", "received"),
    [("Blue", {"text": "Blue"}), ({"colour": ["blue", 1]}, {"data": {"input": {"colour": ["blue", 1]}}})],
)
async def test_a_run_waits_for_input_and_goes_on_with_it(
    client: httpx.AsyncClient, given: Any, received: dict[str, Any]
) -> None:
    run_id, token = await lease(client, runner="asking", session_id="asking")
    url = f"/api/v1/runs/{run_id}"
    early = await client.post(f"{url}/input", json={"input": given})
    assert (early.status_code, early.json()["run_status"]) == (409, "running")
    asked = await work(client, run_id, token, [{"type": "client_input_requested", "prompt": "Which colour?"}])
    assert asked.status_code == 200
    assert (await detail(client, run_id))["status"] == "waiting_input"
    async with sse(client, f"{url}/stream") as stream:
        await stream.until(is_event("live"))
        answer = await client.post(f"{url}/input", json={"input": given})
        assert (answer.status_code, answer.json()["run"]["status"]) == (202, "running")
        told = events_of(await stream.until(is_event("status", status="running")))
    assert names(told) == ["client_input_received", "status"]
    assert {name: told[0].get(name) for name in received} == received
    assert (told[0]["run_id"], told[0]["session_id"]) == (run_id, "asking")
    assert (await client.post(f"{url}/input", json={"input": given})).status_code == 409
    await finish(client, run_id, token)
    assert (await client.post(f"{url}/input", json={"input": given})).status_code == 409
    run = await detail(client, run_id)
    statuses = [event["status"] for event in run["events"] if event["type"] == "status"]
    assert statuses == ["queued", "running", "waiting_input", "running", "completed"]
    session = await polled(client, "/api/v1/sessions/asking/events", after="start", types="client_input_*")
    assert names(session)[-2:] == ["client_input_requested", "client_input_received"]


async def test_input_given_twenty_times_at_once_is_taken_once(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client, runner="asked-once")
    await work(client, run_id, token, [{"type": "client_input_requested"}])
    url = f"/api/v1/runs/{run_id}/input"
    answers = await asyncio.gather(*(client.post(url, json={"input": str(n)}) for n in range(20)))
    assert sorted(answer.status_code for answer in answers) == [202, *[409] * 19]
    await finish(client, run_id, token)


async def test_a_worker_cannot_answer_itself_and_a_waiting_run_can_be_cancelled(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client, runner="self-service")
    assert (await work(client, run_id, token, [{"type": "client_input_received"}])).status_code == 400
    await work(client, run_id, token, [{"type": "client_input_requested"}])
    cancelled = await client.post(f"/api/v1/runs/{run_id}/cancel")
    assert cancelled.json()["run"]["status"] == "cancelling"
    assert (await client.post(f"/api/v1/runs/{run_id}/input", json={"input": "x"})).status_code == 409
    await finish(client, run_id, token, status="cancelled")
    assert (await client.post(f"/api/v1/runs/{NOBODY}/input", json={"input": "x"})).status_code == 404
    assert (await client.post(f"/api/v1/runs/{run_id}/input", json={})).status_code == 400


async def test_the_status_that_says_it_waits_counts_the_tokens_before_it(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client, runner="counting")
    events = [{"type": "node_update", "node": "n", "tokens_out": 7}, {"type": "client_input_requested"}]
    await work(client, run_id, token, events)
    told = (await detail(client, run_id))["events"][-1]
    assert (told["status"], told["tokens_out"]) == ("waiting_input", 7)
    await finish(client, run_id, token)


# ── time ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_run_that_takes_too_long_is_timed_out(client: httpx.AsyncClient) -> None:
    inline = await create(client, params=SLOW, timeout_seconds=0.3)
    leased, token = await lease(client, runner="late", timeout_seconds=0.3)
    for run_id in (inline["id"], leased):
        run = await ended(client, run_id)
        assert run["status"] == "timed_out"
        assert "0.3 s" in run["error"]
        error, last = run["events"][-2:]
        assert (error["type"], error["fatal"], error["code"]) == ("error", True, "timeout")
        assert (last["type"], last["status"]) == ("status", "timed_out")
        assert run["finished_at"] is not None
    for late in (await work(client, leased, token, [{"type": "node_update", "node": "n"}]),
                 await finish(client, leased, token)):  # fmt: skip
        assert late.status_code == 409
        assert late.json()["run_status"] == "timed_out"
    retried = (await client.post(f"/api/v1/runs/{leased}/retry")).json()
    assert (retried["status"], retried["timeout_seconds"]) == ("queued", 0.3)


async def test_waiting_for_input_takes_time_as_well(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client, runner="patient", timeout_seconds=1)
    await work(client, run_id, token, [{"type": "client_input_requested"}])
    assert (await ended(client, run_id))["status"] == "timed_out"


async def test_a_run_in_time_is_left_alone(client: httpx.AsyncClient) -> None:
    run = await create(client, timeout_seconds=60)
    assert (await ended(client, run["id"]))["status"] == "completed"


@pytest.mark.parametrize("seconds", [0, -1, "soon", 7 * 86_400 + 1])
async def test_a_time_limit_that_is_none_is_refused(client: httpx.AsyncClient, seconds: Any) -> None:
    answer = await client.post("/api/v1/runs", json={"task": "x", "timeout_seconds": seconds})
    assert answer.status_code == 400
    assert "timeout_seconds" in answer.text


# ── asking twice ───────────────────────────────────────────────────────────────────────────────────────────────


async def keyed(client: httpx.AsyncClient, key: str, path: str = "", **more: Any) -> httpx.Response:
    body = {"task": "once", "params": {"step_seconds": 0, "words": 1}, **more}
    return await client.post(f"/api/v1/runs{path}", json=body, headers={"idempotency-key": key})


@pytest.mark.parametrize("mode", ["inline", "queued"])
async def test_the_same_request_with_the_same_key_gets_the_same_answer(client: httpx.AsyncClient, mode: str) -> None:
    first = await keyed(client, f"same-{mode}", mode=mode)
    await ended(client, first.json()["id"])
    again = await keyed(client, f"same-{mode}", mode=mode)
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert again.headers["location"] == first.headers["location"]
    # field order and white space are not the body
    raw = f'{{ "params" : {{"words":1,"step_seconds":0}}, "mode":"{mode}", "task":"once" }}'
    headers = {"idempotency-key": f"same-{mode}", "content-type": "application/json"}
    assert (await client.post("/api/v1/runs", content=raw, headers=headers)).json() == first.json()


async def test_twenty_at_once_are_one_run_though_there_is_room_for_eight(client: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(keyed(client, "twenty", task="twenty", params=SLOW) for _ in range(20)))
    made = {answer.json()["id"] for answer in answers if answer.status_code == 201}
    assert len(made) == 1
    assert {answer.status_code for answer in answers} <= {201, 429}  # 429: it came before the first was stored
    again = await keyed(client, "twenty", task="twenty", params=SLOW)
    assert (again.status_code, again.json()["id"]) == (201, *made)
    runs = (await client.get("/api/v1/runs?limit=500")).json()["data"]
    assert len([run for run in runs if run["task"] == "twenty"]) == 1
    run_id = made.pop()
    await client.post(f"/api/v1/runs/{run_id}/cancel")
    await ended(client, run_id)


async def test_a_repeat_is_answered_when_there_is_no_room_left(postgres_url: str) -> None:
    async with (
        fresh_database(postgres_url) as url,
        running(url, runs_inline_capacity=1) as server,
        httpx.AsyncClient(base_url=server.url, timeout=SECONDS) as client,
    ):
        first = await keyed(client, "room", params=SLOW)
        assert first.status_code == 201
        full = await keyed(client, "another-room", params=SLOW)
        assert full.status_code == 429
        assert int(full.headers["retry-after"]) > 0
        again = await keyed(client, "room", params=SLOW)
        assert (again.status_code, again.json()) == (201, first.json())
        assert (await keyed(client, "room", params=SLOW, task="other")).status_code == 422


async def test_a_key_belongs_to_one_body_and_one_operation(client: httpx.AsyncClient) -> None:
    first = await keyed(client, "body")
    other = await keyed(client, "body", task="another")
    assert other.status_code == 422
    assert other.headers["content-type"].startswith("application/problem+json")
    assert "'body'" in other.json()["detail"]
    batch = await keyed(client, "body", path="/batch", count=2, stagger_ms=0)
    assert batch.status_code == 202
    again = await keyed(client, "body", path="/batch", count=2, stagger_ms=0)
    assert again.json() == batch.json()
    assert first.json()["id"] not in [run["id"] for run in batch.json()["data"]]


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
async def test_a_key_that_is_none_is_refused(client: httpx.AsyncClient, key: str) -> None:
    assert (await keyed(client, key)).status_code == 400


async def test_a_refused_request_does_not_use_its_key_up(client: httpx.AsyncClient) -> None:
    assert (await keyed(client, "refused", runner="nowhere")).status_code == 422
    assert (await keyed(client, "refused")).status_code == 201


async def test_the_answer_is_remembered_over_a_restart_and_by_other_processes(postgres_url: str) -> None:
    async with fresh_database(postgres_url) as url, running(url) as one, running(url) as two:
        async with (
            httpx.AsyncClient(base_url=one.url, timeout=SECONDS) as here,
            httpx.AsyncClient(base_url=two.url, timeout=SECONDS) as there,
        ):
            answers = await asyncio.gather(*(keyed(c, "both", mode="queued") for c in (here, there) * 10))
            assert {answer.status_code for answer in answers} == {202}
            assert len({answer.json()["id"] for answer in answers}) == 1
        await one.kill()
        await one.start()
        async with httpx.AsyncClient(base_url=one.url, timeout=SECONDS) as here:
            again = await keyed(here, "both", mode="queued")
            assert again.json() == answers[0].json()
            assert (await keyed(here, "both", mode="queued", task="another")).status_code == 422


# ── waiting ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_request_may_wait_for_the_end(client: httpx.AsyncClient) -> None:
    body = {"task": "soon", "params": {"step_seconds": 0.01, "words": 3}}
    for mode, status in (("inline", 201), ("queued", 202)):
        answer = await client.post("/api/v1/runs", json={**body, "mode": mode}, headers={"prefer": "wait=20"})
        assert answer.status_code == status
        assert answer.headers["preference-applied"] == "wait=20"
        run = answer.json()
        assert (run["status"], run["output"]) == ("completed", "This is a")
        assert run["snippet"]
        etag = (await client.get(f"/api/v1/runs/{run['id']}")).headers["etag"]
        assert answer.headers["etag"] == etag


async def test_waiting_ends_when_its_time_does(client: httpx.AsyncClient) -> None:
    body = {"task": "later", "params": SLOW}
    answer = await client.post("/api/v1/runs", json=body, headers={"prefer": "respond-async, wait=0"})
    assert (answer.status_code, answer.json()["status"]) == (201, "running")
    await client.post(f"/api/v1/runs/{answer.json()['id']}/cancel")
    for wrong in ("wait=soon", "wait=", "wait=-1", "wait=1.5"):
        refused = await client.post("/api/v1/runs", json=body, headers={"prefer": wrong})
        assert refused.status_code == 400, wrong


async def test_a_repeated_request_waits_for_the_same_run(client: httpx.AsyncClient) -> None:
    body = {"task": "twice", "params": {"step_seconds": 0.02, "words": 5}}
    headers = {"prefer": "wait=20", "idempotency-key": "wait-twice"}
    answers = await asyncio.gather(*(client.post("/api/v1/runs", json=body, headers=headers) for _ in range(3)))
    assert {answer.json()["status"] for answer in answers} == {"completed"}
    assert len({answer.json()["id"] for answer in answers}) == 1


async def test_a_repeated_request_that_waits_for_a_run_which_is_deleted_gets_it_as_it_was_made(
    client: httpx.AsyncClient,
) -> None:
    body, key = (
        {"task": "gone", "params": {"step_seconds": 0, "words": 1}},
        {"idempotency-key": "wait-for-what-is-gone"},
    )
    made = await client.post("/api/v1/runs", json=body, headers=key)
    await client.post("/api/v1/runs", json=body, headers={**key, "prefer": "wait=20"})
    assert (await client.delete(f"/api/v1/runs/{made.json()['id']}")).status_code == 204
    again = await client.post("/api/v1/runs", json=body, headers={**key, "prefer": "wait=1"})
    assert (again.status_code, again.json()) == (made.status_code, made.json())


# ── lists ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_list_shows_what_the_service_has_kept(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client, runner="summed")
    async with sse(client, f"/api/v1/runs/{run_id}/stream?types=node_update") as stream:
        for number, (node, worker, tokens) in enumerate(
            [("supervisor", "s", 5), ("writer", "a", 10), ("writer", "b", 20), ("supervisor", "s", 6)], start=1
        ):
            event = {"type": "node_update", "node": node, "worker_id": worker, "tokens_in": 100, "tokens_out": tokens}
            await work(client, run_id, token, [{**event, "snippet": f"said {number}"}])
            await stream.until(is_event("node_update", snippet=f"said {number}"))
    shown = await listed(client, run_id)
    full = await detail(client, run_id)
    for field in set(shown):
        assert full[field] == shown[field], field
    assert (shown["tokens_in"], shown["tokens_out"], shown["snippet"]) == (300, 36, "said 3")
    assert (shown["attempt"], shown["max_attempts"]) == (1, 3)
    last = full["events"][-1]
    assert shown["last_activity_at"][:19] == last["ts"][:19] or shown["last_activity_at"] >= last["ts"]
    assert shown["last_position"] == (await client.get("/api/v1/runs?limit=1")).json()["as_of"]
    await finish(client, run_id, token)


async def test_another_attempt_is_counted_and_its_tokens_are_added(postgres_url: str) -> None:
    async with (
        fresh_database(postgres_url) as url,
        running(url, lease_seconds=0.5) as server,
        httpx.AsyncClient(base_url=server.url, timeout=SECONDS) as client,
    ):
        run_id, token = await lease(client, runner="dying")
        event = {"type": "node_update", "node": "writer", "worker_id": "w", "tokens_out": 50, "snippet": "first"}
        await work(client, run_id, token, [event])
        async with sse(client, f"/api/v1/runs/{run_id}/stream") as stream:
            told = events_of(await stream.until(is_event("status", status="queued", attempt=2)))
        error = told[-2]
        assert (error["type"], error["fatal"], error["code"]) == ("error", False, "lease_lost")
        assert (await listed(client, run_id))["attempt"] == 2
        again = await client.post("/api/v1/runs/lease", json={"runners": ["dying"], "worker": "w", "wait_seconds": 5})
        token = again.json()["lease"]["token"]
        await work(client, run_id, token, [{**event, "tokens_out": 7, "snippet": "second"}])
        shown = await listed(client, run_id)
        assert (shown["tokens_out"], shown["snippet"], shown["attempt"]) == (57, "second", 2)
