"""Workers anywhere: leases, appends and their precedence, cancelling, and the sweeper. DESIGN.md 6."""

import asyncio
from datetime import datetime
from typing import Any

import httpx
import pytest

from tests.support.contract import (
    ANSWER_SECONDS,
    IMPOSSIBLE_RUN,
    NO_SUCH_RUN,
    RUNS,
    Frame,
    Served,
    events_of,
    finish,
    problem_of,
    read_until,
    read_until_live,
    sql,
    status_of,
    stored,
)
from tests.support.server import append, lease, running, sse


async def submit(client: httpx.AsyncClient, runner: str, **more: Any) -> str:
    """A new queued run."""
    body = {"task": "work", "mode": "queued", "runner": runner, **more}
    created = await client.post(RUNS, json=body)
    assert created.status_code == 202, created.text
    return str(created.json()["id"])


async def take(client: httpx.AsyncClient, runner: str, **more: Any) -> httpx.Response:
    return await client.post(f"{RUNS}/lease", json={"runners": [runner], "worker": "w", **more})


async def batch(
    client: httpx.AsyncClient, run_id: str, token: str, first: int, count: int = 1, *, producer: str = "p"
) -> httpx.Response:
    """Events first … first + count - 1 of a producer; each says its number."""
    events = [{"type": "node_update", "node": "n", "iteration": (first + place) % 2**53} for place in range(count)]
    body = {"events": events, "producer": producer, "producer_seq": first}
    return await client.post(f"{RUNS}/{run_id}/events", json=body, headers={"tailrace-lease": token})


async def renew(client: httpx.AsyncClient, run_id: str, token: str) -> httpx.Response:
    return await client.post(f"{RUNS}/{run_id}/lease/renew", headers={"tailrace-lease": token})


async def iterations(client: httpx.AsyncClient, run_id: str) -> list[int]:
    return [f.event["iteration"] for f in await events_of(client, run_id, types="node_update")]


# ── taking ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_worker_gets_the_run_that_has_waited_longest_and_a_lease(client: httpx.AsyncClient) -> None:
    first, second = await submit(client, "oldest"), await submit(client, "oldest")
    answer = await take(client, "oldest", worker="machine-7/1")
    assert answer.status_code == 200
    body = answer.json()
    assert (body["run"]["id"], body["run"]["status"], body["run"]["attempt"], body["cancel"]) == (
        first,
        "running",
        1,
        False,
    )
    assert body["lease"]["token"]
    assert datetime.fromisoformat(body["lease"]["expires_at"]) > datetime.fromisoformat(body["run"]["started_at"])
    told = (await events_of(client, first))[-1].event
    assert (told["status"], told["worker"]) == ("running", "machine-7/1")
    assert (await take(client, "oldest")).json()["run"]["id"] == second
    assert body["lease"]["token"] not in (await client.get(f"{RUNS}/{first}")).text


async def test_without_a_queued_run_the_answer_is_204(client: httpx.AsyncClient) -> None:
    await submit(client, "somebody-elses")
    answer = await take(client, "nobody")
    assert (answer.status_code, answer.content) == (204, b"")


async def test_a_worker_of_several_runners_gets_runs_of_each(client: httpx.AsyncClient) -> None:
    runs = {await submit(client, "several-a"), await submit(client, "several-b")}
    body = {"runners": ["several-a", "several-b"], "worker": "w"}
    assert {(await client.post(f"{RUNS}/lease", json=body)).json()["run"]["id"] for _ in runs} == runs


async def test_a_waiting_worker_wakes_when_a_run_is_queued(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(ANSWER_SECONDS):  # far less than it would wait
        waiting = asyncio.create_task(take(client, "patient", wait_seconds=60))
        await client.get("/health")
        run_id = await submit(client, "patient")
        assert (await waiting).json()["run"]["id"] == run_id


async def test_workers_that_race_get_different_runs(client: httpx.AsyncClient) -> None:
    runs = {await submit(client, "race") for _ in range(8)}
    answers = await asyncio.gather(*(take(client, "race") for _ in range(12)))
    given = [answer.json()["run"]["id"] for answer in answers if answer.status_code == 200]
    assert sorted(given) == sorted(runs)
    assert len(answers) - len(given) == 4


async def test_waiting_workers_that_race_for_one_run_share_nothing(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(ANSWER_SECONDS):
        waiting = [asyncio.create_task(take(client, "rare", wait_seconds=1)) for _ in range(5)]
        await client.get("/health")
        await submit(client, "rare")
        codes = sorted([(await task).status_code for task in waiting])
    assert codes == [200, 204, 204, 204, 204]


# ── appending: what comes before what ──────────────────────────────────────────────────────────────────────────


async def test_an_append_is_stored_and_answered_with_its_position(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client)
    body = (await batch(client, run_id, token, 1, 3)).raise_for_status().json()
    assert body == {
        "stored": 3,
        "position": (await events_of(client, run_id))[-1].id,
        "next_producer_seq": 4,
        "cancel": False,
    }
    assert (await append(client, run_id, token, 2)).json()["next_producer_seq"] is None
    assert await iterations(client, run_id) == [1, 2, 3, 1, 2]


async def test_a_repeat_is_acknowledged_and_not_stored_twice_even_after_the_end(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client)
    first = (await batch(client, run_id, token, 1, 3)).json()
    for _ in range(2):
        again = (await batch(client, run_id, token, 1, 3)).raise_for_status().json()
        assert again == {**first, "stored": 0}
    assert (await batch(client, run_id, token, 2)).json()["stored"] == 0  # a part of it too
    await finish(client, run_id, token)
    after = (await batch(client, run_id, token, 1, 3)).raise_for_status().json()
    assert (after["stored"], after["next_producer_seq"], after["cancel"]) == (0, 4, True)
    # also from a worker whose lease is another's by now: the question is whether it is stored, and it is
    assert (await batch(client, run_id, "another", 1, 3)).status_code == 200
    assert await iterations(client, run_id) == [1, 2, 3]


async def test_a_lost_lease_is_403_also_where_the_run_has_ended_or_numbers_are_missing(
    client: httpx.AsyncClient,
) -> None:
    run_id, token = await lease(client)
    await batch(client, run_id, token, 1)
    for first in (2, 9):
        problem_of(await batch(client, run_id, "another", first), 403)
    problem_of(await append(client, run_id, "another"), 403)
    problem_of(await renew(client, run_id, "another"), 403)
    problem_of(await finish(client, run_id, "another"), 403)
    await finish(client, run_id, token)
    for first in (2, 9):
        problem_of(await batch(client, run_id, "another", first), 403)
    problem_of(await renew(client, run_id, "another"), 403)
    problem_of(await finish(client, run_id, "another"), 403)
    assert await iterations(client, run_id) == [1]


@pytest.mark.parametrize("token", [None, "", "é", "\xff" * 10, "x" * 5_000, "'; DROP TABLE runs.runs --"])
async def test_a_token_that_is_none_is_403(client: httpx.AsyncClient, token: str | None) -> None:
    run_id, held = await lease(client)
    headers = [] if token is None else [(b"tailrace-lease", token.encode("latin-1"))]
    for path, body in (
        ("lease/renew", None),
        ("events", {"events": [{"type": "node_update", "node": "n"}]}),
        ("finish", {"status": "completed"}),
    ):
        problem_of(await client.post(f"{RUNS}/{run_id}/{path}", json=body, headers=headers), 403)
    assert (await finish(client, run_id, held)).status_code == 200


async def test_a_finished_run_is_409_for_its_own_worker_before_a_hole_is(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client)
    await batch(client, run_id, token, 1)
    await finish(client, run_id, token)
    for answer in (
        await batch(client, run_id, token, 2),
        await batch(client, run_id, token, 9),
        await append(client, run_id, token),
        await renew(client, run_id, token),
        await finish(client, run_id, token, "failed"),
    ):
        problem = problem_of(answer, 409)
        assert problem["run_status"] == "completed"
        assert "expected_producer_seq" not in problem
    assert len(await events_of(client, run_id)) == 4


async def test_a_hole_is_409_with_the_number_that_is_expected(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client)
    assert problem_of(await batch(client, run_id, token, 5), 409)["expected_producer_seq"] == 1
    await batch(client, run_id, token, 1, 3)
    for first in (5, 2**62):
        assert problem_of(await batch(client, run_id, token, first), 409)["expected_producer_seq"] == 4
    assert (await batch(client, run_id, token, 4)).json()["next_producer_seq"] == 5
    assert await iterations(client, run_id) == [1, 2, 3, 4]
    await finish(client, run_id, token)


async def test_of_a_partial_overlap_the_new_part_is_stored(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client)
    await batch(client, run_id, token, 1, 3)
    body = (await batch(client, run_id, token, 2, 4)).raise_for_status().json()
    assert (body["stored"], body["next_producer_seq"]) == (2, 6)
    assert await iterations(client, run_id) == [1, 2, 3, 4, 5]
    await finish(client, run_id, token)


async def test_producers_count_apart_and_may_begin_at_zero(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client)
    other, other_token = await lease(client)
    assert (await batch(client, run_id, token, 0, 2, producer="a")).json()["next_producer_seq"] == 2
    assert (await batch(client, run_id, token, 1, 2, producer="b")).json()["next_producer_seq"] == 3
    assert (await batch(client, other, other_token, 1, producer="a")).json()["stored"] == 1
    assert (await batch(client, run_id, token, 0, 2, producer="a")).json()["stored"] == 0
    for done, lease_token in ((run_id, token), (other, other_token)):
        await finish(client, done, lease_token)


async def test_the_same_batch_sent_many_times_at_once_is_stored_once(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client)
    answers = await asyncio.gather(*(batch(client, run_id, token, 1, 5) for _ in range(10)))
    assert sorted(answer.json()["stored"] for answer in answers) == [0] * 9 + [5]
    assert await iterations(client, run_id) == [1, 2, 3, 4, 5]
    await finish(client, run_id, token)


async def test_one_wrong_event_and_nothing_of_the_request_is_stored(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client)
    good = {"type": "node_update", "node": "n"}
    for wrong in ({"type": "status", "status": "completed"}, {"type": "node_update"}, {**good, "colour": 1}, {}):
        body = {"events": [good, wrong], "producer": "p", "producer_seq": 1}
        answer = await client.post(f"{RUNS}/{run_id}/events", json=body, headers={"tailrace-lease": token})
        assert problem_of(answer, 400)["detail"].startswith("events[1]")
    assert len(await events_of(client, run_id)) == 2
    assert (await batch(client, run_id, token, 1)).json()["stored"] == 1  # its numbers were not used up
    await finish(client, run_id, token)


async def test_a_snippet_is_cut_to_200_characters_between_them(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client)
    body = {"events": [{"type": "node_update", "node": "n", "snippet": "🌊" * 500}]}
    (await client.post(f"{RUNS}/{run_id}/events", json=body, headers={"tailrace-lease": token})).raise_for_status()
    assert (await events_of(client, run_id))[-1].event["snippet"] == "🌊" * 200
    assert (await client.get(f"{RUNS}/{run_id}")).json()["snippet"] == "🌊" * 200
    await finish(client, run_id, token)


# ── finishing ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_same_finish_again_is_acknowledged(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client)
    first = (await finish(client, run_id, token, "failed", error="out of paper")).raise_for_status().json()
    assert (first["run"]["status"], first["run"]["error"], first["cancel"]) == ("failed", "out of paper", True)
    again = (await finish(client, run_id, token, "failed", error="out of paper")).raise_for_status().json()
    assert again == first
    assert len(await events_of(client, run_id)) == 3


async def test_no_such_run_is_the_same_404_for_an_impossible_id(client: httpx.AsyncClient) -> None:
    details = set()
    for run_id in (NO_SUCH_RUN, IMPOSSIBLE_RUN):
        for answer in (
            await renew(client, run_id, "t"),
            await append(client, run_id, "t"),
            await finish(client, run_id, "t"),
            await client.post(f"{RUNS}/{run_id}/cancel"),
            await client.get(f"{RUNS}/{run_id}"),
        ):
            details.add(problem_of(answer, 404)["detail"])
    assert len(details) == 1


# ── cancelling ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_queued_run_is_cancelled_at_once_and_given_to_nobody(client: httpx.AsyncClient) -> None:
    run_id = await submit(client, "cancel-queued")
    async with sse(client, f"{RUNS}/{run_id}/stream") as stream:
        await read_until_live(stream)
        answer = await client.post(f"{RUNS}/{run_id}/cancel")
        assert (answer.status_code, answer.json()["run"]["status"]) == (202, "cancelled")
        assert (await read_until(stream, lambda f: f.type == "stream_end"))[-1].event["status"] == "cancelled"
    assert (await take(client, "cancel-queued")).status_code == 204
    again = await client.post(f"{RUNS}/{run_id}/cancel")
    assert (again.status_code, again.json()["run"]["status"]) == (202, "cancelled")
    assert len(await events_of(client, run_id)) == 2


async def test_a_running_run_is_cancelling_and_every_answer_to_its_worker_says_so(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client)
    assert (await renew(client, run_id, token)).json()["cancel"] is False
    await batch(client, run_id, token, 1)
    for _ in range(2):
        answer = await client.post(f"{RUNS}/{run_id}/cancel")
        assert (answer.status_code, answer.json()["run"]["status"]) == (202, "cancelling")
    assert (await renew(client, run_id, token)).json()["cancel"] is True
    assert (await batch(client, run_id, token, 1)).json()["cancel"] is True  # a repeat
    assert (await batch(client, run_id, token, 2)).json()["cancel"] is True
    ended = (await finish(client, run_id, token, "cancelled")).json()
    assert (ended["cancel"], ended["run"]["status"]) == (True, "cancelled")
    statuses = [f.event["status"] for f in await events_of(client, run_id, types="status")]
    assert statuses == ["queued", "running", "cancelling", "cancelled"]


async def test_a_worker_that_was_done_before_it_heard_may_still_complete(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client)
    await client.post(f"{RUNS}/{run_id}/cancel")
    assert (await finish(client, run_id, token)).json()["run"]["status"] == "completed"


async def test_cancelling_an_ended_run_is_409_with_its_status(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client)
    await finish(client, run_id, token)
    assert problem_of(await client.post(f"{RUNS}/{run_id}/cancel"), 409)["run_status"] == "completed"
    assert len(await events_of(client, run_id)) == 3


async def test_an_inline_run_stops_when_cancelled(client: httpx.AsyncClient) -> None:
    body = {"task": "t", "params": {"step_seconds": 60}}
    run_id = (await client.post(RUNS, json=body)).raise_for_status().json()["id"]
    async with sse(client, f"{RUNS}/{run_id}/stream") as stream:
        await read_until(stream, lambda frame: frame.type == "node_update")
        await client.post(f"{RUNS}/{run_id}/cancel")
        seen = await read_until(stream, lambda frame: frame.type == "stream_end")
    assert seen[-1].event["status"] == "cancelled"


# ── the sweeper ────────────────────────────────────────────────────────────────────────────────────────────────


def shape(frames: list[Frame]) -> list[tuple[str, Any, Any]]:
    """What a run went through: (status, its value, attempt) and (error, fatal, attempt)."""
    return [
        (f.type, f.event["status" if f.type == "status" else "fatal"], f.event["attempt"])
        for f in frames
        if f.type in ("status", "error")
    ]


async def test_a_lease_that_is_not_renewed_expires_and_the_run_is_tried_again_until_its_last_attempt(
    database_url: str,
) -> None:
    async with (
        running(database_url, lease_seconds=0.3) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as client,
        asyncio.timeout(ANSWER_SECONDS),
    ):
        run_id, first = await lease(client, max_attempts=2)
        async with sse(client, f"{RUNS}/{run_id}/stream") as stream:
            seen = await read_until(stream, lambda f: f.event.get("status") == "queued" and f.event["attempt"] == 2)
            for answer in (
                await append(client, run_id, first),
                await renew(client, run_id, first),
                await finish(client, run_id, first),
            ):
                problem_of(answer, 403)
            again = (await take(client, "test", wait_seconds=10)).json()
            assert (again["run"]["id"], again["run"]["attempt"]) == (run_id, 2)
            assert again["lease"]["token"] != first
            seen += await read_until(stream, lambda f: f.type == "stream_end")
        assert shape(seen) == [
            ("status", "queued", 1),
            ("status", "running", 1),
            ("error", False, 1),
            ("status", "queued", 2),
            ("status", "running", 2),
            ("error", True, 2),
            ("status", "failed", 2),
        ]
        assert all(f.event["message"] for f in seen if f.type == "error")
        run = (await client.get(f"{RUNS}/{run_id}")).json()
        assert (run["status"], run["attempt"]) == ("failed", 2)
        assert "lease" in run["error"]


async def test_a_cancelling_run_whose_worker_vanished_is_cancelled(database_url: str) -> None:
    async with (
        running(database_url, lease_seconds=0.3) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as client,
    ):
        run_id, _ = await lease(client)
        await client.post(f"{RUNS}/{run_id}/cancel")
        async with sse(client, f"{RUNS}/{run_id}/stream") as stream:
            seen = await read_until(stream, lambda frame: frame.type == "stream_end")
        assert shape(seen)[-2:] == [("status", "cancelling", 1), ("status", "cancelled", 1)]


async def test_renewing_keeps_a_lease_beyond_its_first_period(database_url: str) -> None:
    async with (
        running(database_url, lease_seconds=1.0) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as client,
        asyncio.timeout(ANSWER_SECONDS),
    ):
        run_id, token = await lease(client)
        begin = datetime.fromisoformat((await client.get(f"{RUNS}/{run_id}")).json()["started_at"])
        before = begin
        while True:
            renewed = (await renew(client, run_id, token)).raise_for_status().json()
            expires = datetime.fromisoformat(renewed["lease"]["expires_at"])
            assert expires > before
            before = expires
            assert renewed["lease"]["token"] == token
            if (expires - begin).total_seconds() > 2.5:
                break
            await client.get(f"{RUNS}/{run_id}/events?after=now&wait=0.1")  # a while
        assert await status_of(client, run_id) == "running"
        (await append(client, run_id, token)).raise_for_status()
        assert (await client.get(f"{RUNS}/{run_id}")).json()["attempt"] == 1
        await finish(client, run_id, token)


async def test_a_lease_ends_by_the_databases_clock_even_before_the_sweeper_comes(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    run_id, token = await lease(client, runner="clock")
    async with sql(tailrace.database_url) as database:
        update = "UPDATE runs.runs SET lease_expires_at = clock_timestamp() - interval '1 ms' WHERE id = $1"
        await database.execute(update, run_id)
    answers = await asyncio.gather(append(client, run_id, token), renew(client, run_id, token))
    for answer in answers:
        problem_of(answer, 403)
    async with asyncio.timeout(ANSWER_SECONDS):
        again = (await take(client, "clock", wait_seconds=15)).json()
    assert again["run"]["attempt"] == 2
    await finish(client, run_id, again["lease"]["token"])


async def test_a_run_that_takes_longer_than_it_may_is_timed_out(database_url: str) -> None:
    async with (
        running(database_url, lease_seconds=2) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as client,
    ):
        run_id, token = await lease(client, timeout_seconds=0.2)
        async with sse(client, f"{RUNS}/{run_id}/stream") as stream:
            seen = await read_until(stream, lambda frame: frame.type == "stream_end")
        assert shape(seen)[-2:] == [("error", True, 1), ("status", "timed_out", 1)]
        assert problem_of(await append(client, run_id, token), 409)["run_status"] == "timed_out"


async def test_a_second_attempts_producer_counts_on_where_the_first_left_off(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    run_id, token = await lease(client, runner="count-on")
    await batch(client, run_id, token, 1, 2)
    async with sql(tailrace.database_url) as database:
        await database.execute("UPDATE runs.runs SET lease_expires_at = now() WHERE id = $1", run_id)
    async with asyncio.timeout(ANSWER_SECONDS):
        again = (await take(client, "count-on", wait_seconds=15)).json()["lease"]["token"]
    assert problem_of(await batch(client, run_id, again, 5), 409)["expected_producer_seq"] == 3
    assert (await batch(client, run_id, again, 3)).json()["stored"] == 1
    await finish(client, run_id, again)
    assert stored(await events_of(client, run_id))[-1].event["attempt"] == 2


async def test_a_run_tried_again_tells_that_its_first_events_are_trimmed(database_url: str) -> None:
    async with (
        running(database_url, lease_seconds=0.3) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as client,
        asyncio.timeout(ANSWER_SECONDS),
    ):
        run_id, _ = await lease(client)
        async with sse(client, f"{RUNS}/{run_id}/stream") as stream:
            seen = await read_until(stream, lambda f: f.event.get("status") == "queued" and f.event["attempt"] == 2)
        assert (await client.get(f"{RUNS}/{run_id}")).json()["events_trimmed"] is False
        async with sql(database_url) as database:
            await database.execute("UPDATE runs.retained SET oldest = $1", seen[-1].seq)
            await database.execute("DELETE FROM runs.events WHERE seq < $1", seen[-1].seq)
        assert (await client.get(f"{RUNS}/{run_id}")).json()["events_trimmed"] is True
