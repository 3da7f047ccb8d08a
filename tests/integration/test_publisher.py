"""Publishing with the Python client: nothing twice, nothing lost, in order, over cuts and refusals."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import pytest_asyncio

from shared.client import Client, Conflict, Forbidden, Published, Publisher, Refused, publish
from tests.integration.client_support import in_time
from tests.integration.test_slow_readers import events_of_all
from tests.support.contract import ANSWER_SECONDS, RUNS, Served, events_of, finish
from tests.support.cutting_proxy import CuttingProxy, cutting_proxy, up_to
from tests.support.scripted_server import Reply, ScriptedServer, answer, problem, scripted
from tests.support.server import lease, running

pytestmark = pytest.mark.usefixtures("quick_backoff")


@pytest_asyncio.fixture
async def proxy(tailrace: Served) -> AsyncIterator[CuttingProxy]:
    async with cutting_proxy(tailrace.url) as opened:
        yield opened


@pytest_asyncio.fixture
async def through(proxy: CuttingProxy) -> AsyncIterator[Client]:
    """A client that reaches the module's server through the proxy."""
    async with Client(proxy.url) as client:
        yield client


def numbered(number: int, **more: Any) -> dict[str, Any]:
    return {"type": "custom.n", "n": number, **more}


async def numbers_in(client: httpx.AsyncClient, session: str) -> list[int]:
    """What the session holds, by ndjson: however much it is."""
    answer = await client.get(
        f"/api/v1/sessions/{session}/events",
        params={"after": "start", "types": "custom.*"},
        headers={"accept": "application/x-ndjson"},
    )
    lines = [json.loads(line) for line in answer.raise_for_status().text.splitlines()]
    return [line["event"]["n"] for line in lines if line["event"]["type"] == "custom.n"]


# ── once, and in order ─────────────────────────────────────────────────────────────────────────────────────────


async def test_what_is_published_is_stored_and_its_position_told(client: httpx.AsyncClient, through: Client) -> None:
    async with Publisher(through, "/api/v1/sessions/told/events") as publisher:
        first = await publisher.publish(numbered(1))
        second = await publisher.publish(numbered(2))
    assert isinstance(first, Published)
    page = (await client.get("/api/v1/sessions/told/events?after=start&types=*")).json()
    assert [frame["id"] for frame in page["data"]] == [first.position, second.position]


async def test_what_is_published_meanwhile_goes_out_together(client: httpx.AsyncClient, tailrace: Served) -> None:
    async with Client(tailrace.url) as plain, Publisher(plain, "/api/v1/sessions/together/events") as publisher:
        results = await asyncio.gather(*(publisher.publish(numbered(n)) for n in range(2_000)))
    assert await numbers_in(client, "together") == list(range(2_000))
    assert len({result.position for result in results}) == 4  # requests, of 500 events each


@pytest.mark.parametrize("seed", range(4))
async def test_nothing_is_lost_or_stored_twice_over_cuts_in_requests_and_answers(
    client: httpx.AsyncClient, proxy: CuttingProxy, through: Client, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "MAX_EVENTS", 20)  # many requests
    dice = random.Random(f"publish {seed}")
    session = f"cuts-{seed}"
    proxy.requests = up_to(dice, 60_000)
    proxy.answers = lambda: dice.choice([0, 0, 100, 400, 2_000])  # the request arrives, its answer does not
    async with Publisher(through, f"/api/v1/sessions/{session}/events") as publisher:

        async def say(numbers: range) -> None:
            for number in numbers:
                await publisher.publish(numbered(number))

        async with in_time():
            await asyncio.gather(*(say(range(start, start + 20)) for start in range(0, 1_000, 20)))
    stored = await numbers_in(client, session)
    assert sorted(stored) == list(range(1_000))
    for start in range(0, 1_000, 20):  # of each who published, in order
        assert [n for n in stored if start <= n < start + 20] == list(range(start, start + 20))
    assert proxy.cuts > 10


async def test_nothing_is_lost_or_stored_twice_over_kill_9(database_url: str) -> None:
    async with running(database_url) as server, Client(server.url) as client, asyncio.timeout(ANSWER_SECONDS * 2):
        async with Publisher(client, "/api/v1/sessions/killed/events") as publisher:
            for start in (0, 1_000):
                publishing = [asyncio.create_task(publisher.publish(numbered(start + n))) for n in range(1_000)]
                await publishing[100]
                await server.kill()
                await server.start()
            await asyncio.gather(*publishing)
        async with httpx.AsyncClient(base_url=server.url) as http:
            assert await numbers_in(http, "killed") == list(range(2_000))


async def test_going_on_under_a_name_stores_what_is_new(client: httpx.AsyncClient, through: Client) -> None:
    url = "/api/v1/sessions/again/events"
    async with Publisher(through, url, producer="p") as first:
        for number in range(3):
            await first.publish(numbered(number))
    async with Publisher(through, url, producer="p", first_seq=first.next_seq) as second:
        await second.publish(numbered(3))
    assert (first.next_seq, second.next_seq) == (4, 5)
    assert await numbers_in(client, "again") == [0, 1, 2, 3]


async def test_a_name_that_was_used_before_is_noticed_and_not_taken_for_stored(
    client: httpx.AsyncClient, through: Client
) -> None:
    url = "/api/v1/sessions/used/events"
    async with Publisher(through, url, producer="p") as first:
        await asyncio.gather(*(first.publish(numbered(n)) for n in range(3)))
    async with Publisher(through, url, producer="p") as second:
        results = await asyncio.gather(*(second.publish(numbered(10 + n)) for n in range(5)), return_exceptions=True)
        await second.publish(numbered(15))
    assert [type(result) for result in results] == [Conflict] * 3 + [Published] * 2
    assert "has used the numbers 1 to 3 before" in str(results[0])
    assert await numbers_in(client, "used") == [0, 1, 2, 13, 14, 15]


# ── refusals ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_refused_event_takes_no_others_with_it_and_leaves_no_hole(
    client: httpx.AsyncClient, through: Client
) -> None:
    async with Publisher(through, "/api/v1/sessions/refused/events") as publisher:
        wrong = {3, 50, 51, 99}
        results = await asyncio.gather(
            *(publisher.publish(numbered(n) if n not in wrong else {"type": "no such type"}) for n in range(100)),
            return_exceptions=True,
        )
        after = await publisher.publish(numbered(100))
    assert {n for n, result in enumerate(results) if isinstance(result, Refused)} == wrong
    assert "type must be one of" in str(results[3])
    right = [n for n in range(101) if n not in wrong]
    assert await numbers_in(client, "refused") == right
    assert publisher.next_seq == len(right) + 1
    assert after.position


async def test_a_batch_that_is_too_large_for_the_server_is_sent_in_parts(database_url: str) -> None:
    async with running(database_url, body_bytes=20_000) as server, Client(server.url) as client:
        async with Publisher(client, "/api/v1/sessions/large/events") as publisher:
            results = await asyncio.gather(
                *(publisher.publish(numbered(n, pad="x" * 1_000 * (30 if n == 7 else 1))) for n in range(100)),
                return_exceptions=True,
            )
        assert [n for n, result in enumerate(results) if not isinstance(result, Published)] == [7]
        assert isinstance(results[7], Refused)
        assert results[7].status == 413
        async with httpx.AsyncClient(base_url=server.url) as http:
            assert await numbers_in(http, "large") == [n for n in range(100) if n != 7]


async def test_events_of_a_run_need_its_lease(client: httpx.AsyncClient, through: Client) -> None:
    run_id, token = await lease(client)
    url = f"{RUNS}/{run_id}/events"
    async with Publisher(through, url) as without:
        with pytest.raises(Forbidden):
            await without.publish({"type": "node_update", "node": "n"})
    async with Publisher(through, url, headers={"Tailrace-Lease": token}) as holder:
        assert (await holder.publish({"type": "node_update", "node": "n"})).cancel is False
        (await client.post(f"{RUNS}/{run_id}/cancel")).raise_for_status()
        assert (await holder.publish({"type": "node_update", "node": "n"})).cancel is True
        await finish(client, run_id, token, "cancelled")
        with pytest.raises(Conflict, match="has ended already"):
            await holder.publish({"type": "node_update", "node": "n"})
    assert [frame.type for frame in await events_of_all(client, run_id)].count("node_update") == 2
    assert (await events_of(client, run_id))[-1].event["status"] == "cancelled"


async def test_a_hole_is_told_once_and_then_closed(client: httpx.AsyncClient, through: Client) -> None:
    async with Publisher(through, "/api/v1/sessions/hole/events", producer="p", first_seq=7) as publisher:
        with pytest.raises(Conflict) as hole:
            await publisher.publish(numbered(7))
        await publisher.publish(numbered(1))
    assert hole.value.problem["expected_producer_seq"] == 1
    assert await numbers_in(client, "hole") == [1]


def bodies(server: ScriptedServer) -> list[tuple[str, int, list[int]]]:
    """Of each request: producer, first number, events."""
    parsed = [json.loads(asked.body) for asked in server.asked]
    return [(body["producer"], body["producer_seq"], [event["n"] for event in body["events"]]) for body in parsed]


@asynccontextmanager
async def publishing(
    server: ScriptedServer, on_retry: Callable[[Exception], None] | None = None
) -> AsyncIterator[Publisher]:
    """A publisher named `p`."""
    async with Client(server.url) as client, Publisher(client, "/x", producer="p", on_retry=on_retry) as publisher:
        yield publisher


def stored(count: int, next_seq: int) -> Reply:
    return answer({"stored": count, "position": f"e-{next_seq - 1}", "next_producer_seq": next_seq})


async def test_after_a_refusal_the_numbers_go_on_without_a_hole() -> None:
    async with (
        scripted(stored(1, 2), problem(400, "no"), problem(404, "no"), stored(1, 3)) as server,
        publishing(server) as publisher,
    ):
        for number in range(4):
            try:
                await publisher.publish(numbered(number))
            except Refused:
                assert number in (1, 2)
    assert bodies(server) == [("p", 1, [0]), ("p", 2, [1]), ("p", 2, [2]), ("p", 2, [3])]


async def test_numbers_that_may_yet_be_used_by_a_lost_request_are_not_used_again() -> None:
    """The lost request may be stored after the refusal, and would swallow the next event under the same number."""
    async with (
        scripted(stored(1, 2), Reply(0), problem(403, "lost"), stored(1, 2)) as server,
        publishing(server) as publisher,
    ):
        await publisher.publish(numbered(0))
        with pytest.raises(Forbidden):
            await publisher.publish(numbered(1))
        await publisher.publish(numbered(2))
        assert publisher.next_seq == 2
    *same, (producer, number, events) = bodies(server)
    assert same == [("p", 1, [0]), ("p", 2, [1]), ("p", 2, [1])]
    assert (number, events) == (1, [2])
    assert producer == publisher.producer
    assert producer.startswith("p/")


async def test_a_repeat_of_its_own_is_taken_for_stored() -> None:
    async with scripted(Reply(0), stored(0, 2)) as server, publishing(server) as publisher:
        assert (await publisher.publish(numbered(1))).position == "e-1"
    assert bodies(server) == [("p", 1, [1])] * 2


@pytest.mark.parametrize("trouble", [problem(408, "x"), problem(425, "x"), problem(429, "x"), problem(503, "x")])
async def test_what_may_go_better_is_sent_again_until_it_is_stored(trouble: Reply) -> None:
    retried: list[Exception] = []
    async with scripted(*[trouble] * 5, stored(1, 2)) as server, publishing(server, retried.append) as publisher:
        await publisher.publish(numbered(1))
    assert len(retried) == 5
    assert bodies(server) == [("p", 1, [1])] * 6


# ── room, and leaving ──────────────────────────────────────────────────────────────────────────────────────────


async def test_publishing_waits_while_the_buffer_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "MAX_BYTES", 1_000)
    async with asyncio.timeout(ANSWER_SECONDS), scripted(Reply(then="hang")) as server, Client(server.url) as client:
        publisher = Publisher(client, "/x", buffer_bytes=3_000)
        waiting = [asyncio.create_task(publisher.publish(numbered(n, pad="x" * 900))) for n in range(10)]
        await server.until_asked(1)
        assert publisher._bytes <= 3_000
        assert len(publisher._pending) <= 3
        await publisher.abort()
        results = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(result) for result in results} == {asyncio.CancelledError, RuntimeError}
    assert len(results) == 10


async def test_an_event_larger_than_the_buffer_goes_through_alone(client: httpx.AsyncClient, through: Client) -> None:
    async with Publisher(through, "/api/v1/sessions/huge/events", buffer_bytes=1_000) as publisher:
        await asyncio.gather(*(publisher.publish(numbered(n, pad="x" * 5_000)) for n in range(5)))
    assert await numbers_in(client, "huge") == [0, 1, 2, 3, 4]


async def test_closing_sends_what_is_pending(client: httpx.AsyncClient, through: Client) -> None:
    publisher = Publisher(through, "/api/v1/sessions/closing/events", buffer_bytes=10_000)
    publishing = [asyncio.create_task(publisher.publish(numbered(n, pad="x" * 500))) for n in range(100)]
    await asyncio.sleep(0)
    await publisher.aclose()
    await asyncio.gather(*publishing)
    assert await numbers_in(client, "closing") == list(range(100))
    with pytest.raises(RuntimeError, match="closed"):
        await publisher.publish(numbered(1))


async def test_a_wait_that_is_cancelled_does_not_take_the_event_back(
    client: httpx.AsyncClient, through: Client
) -> None:
    async with Publisher(through, "/api/v1/sessions/unwaited/events") as publisher:
        publishing = [asyncio.create_task(publisher.publish(numbered(n))) for n in range(10)]
        await asyncio.sleep(0)
        publishing[4].cancel()
    results = await asyncio.gather(*publishing, return_exceptions=True)
    assert isinstance(results[4], asyncio.CancelledError)
    assert await numbers_in(client, "unwaited") == list(range(10))


async def test_being_cancelled_gives_up_and_leaves_no_task() -> None:
    async with asyncio.timeout(ANSWER_SECONDS), scripted(Reply(then="hang")) as server, Client(server.url) as client:

        async def work() -> None:
            async with Publisher(client, "/x") as publisher:
                await publisher.publish(numbered(1))

        working = asyncio.create_task(work())
        await server.until_asked(1)
        working.cancel()
        await asyncio.wait([working])
        assert working.cancelled()
        await server.until_left()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_closing_that_is_cancelled_gives_up() -> None:
    async with asyncio.timeout(ANSWER_SECONDS), scripted(Reply(then="hang")) as server, Client(server.url) as client:
        publisher = Publisher(client, "/x")
        publishing = asyncio.create_task(publisher.publish(numbered(1)))
        await server.until_asked(1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(publisher.aclose(), 0.05)
        await asyncio.wait([publishing])
        assert publishing.cancelled()
