"""Polling: the same frames as JSON or one a line, at once or after a wait. DESIGN.md 4.4."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.integration.test_positions import begin_epoch
from tests.support.contract import (
    ANSWER_SECONDS,
    RUNS,
    Frame,
    Served,
    ended_run,
    finish,
    head_of,
    metric,
    problem_of,
    read_to_end,
    stored,
    types_of,
)
from tests.support.server import append, lease

NDJSON = {"accept": "application/x-ndjson"}


async def poll(client: httpx.AsyncClient, url: str, **parameters: Any) -> tuple[list[Frame], dict[str, Any]]:
    """The frames, and what stands beside them."""
    answer = await client.get(url, params=parameters)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].partition(";")[0] == "application/json"
    body = answer.json()
    return [Frame.of_json(frame) for frame in body.pop("data")], body


async def lines(client: httpx.AsyncClient, url: str, **parameters: Any) -> list[Frame]:
    answer = await client.get(url, params=parameters, headers=NDJSON)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].partition(";")[0] == "application/x-ndjson"
    assert answer.text.endswith("\n")
    return [Frame.of_json(json.loads(line)) for line in answer.text.splitlines()]


async def test_polling_returns_the_same_frames_as_the_stream(client: httpx.AsyncClient) -> None:
    run_id = await ended_run(client)
    expected = stored(await read_to_end(client, f"{RUNS}/{run_id}/stream"))
    epoch, head = await head_of(client)
    frames, beside = await poll(client, f"{RUNS}/{run_id}/events")
    assert frames == expected
    assert beside == {"head": f"{epoch}-{head}", "next": f"{epoch}-{head}", "ended": "completed"}


async def test_ndjson_is_one_frame_a_line_and_a_bookmark_last(client: httpx.AsyncClient) -> None:
    run_id = await ended_run(client)
    epoch, head = await head_of(client)
    frames = await lines(client, f"{RUNS}/{run_id}/events")
    assert frames[:-1] == (await poll(client, f"{RUNS}/{run_id}/events"))[0]
    assert frames[-1] == Frame(f"{epoch}-{head}", {"type": "bookmark"})
    after = await lines(client, f"{RUNS}/{run_id}/events", after=frames[-1].id)
    assert types_of(after) == ["bookmark"]


async def test_ndjson_reads_beyond_one_page(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client)
    for _ in range(3):
        (await append(client, run_id, token, 1_000)).raise_for_status()
    await finish(client, run_id, token)
    frames = await lines(client, f"{RUNS}/{run_id}/events")
    assert len(frames) == 2 + 3_000 + 1 + 1
    assert [frame.seq for frame in frames[:-1]] == sorted({frame.seq for frame in frames[:-1]})
    _, head = await head_of(client)
    feed = await lines(client, f"{RUNS}/events", after="start", types="node_*")
    assert len(feed) > 3_000
    assert feed[-1].seq == head


async def test_next_leads_through_everything_page_by_page(client: httpx.AsyncClient) -> None:
    run_id = await ended_run(client, 10)
    everything, _ = await poll(client, f"{RUNS}/{run_id}/events")
    for limit in (1, 3, 13, 1_000):
        seen: list[Frame] = []
        after = "start"
        while True:
            frames, beside = await poll(client, f"{RUNS}/{run_id}/events", after=after, limit=limit)
            assert len(frames) <= limit
            seen += frames
            after = beside["next"]
            if beside["ended"]:
                break
        assert seen == everything


async def test_next_moves_on_where_types_hide_everything(client: httpx.AsyncClient) -> None:
    run_id = await ended_run(client, 1_000)
    epoch, head = await head_of(client)
    frames, beside = await poll(client, f"{RUNS}/{run_id}/events", types="error")
    assert frames == []
    assert beside["next"] == beside["head"] == f"{epoch}-{head}"
    frames, _ = await poll(client, f"{RUNS}/{run_id}/events", types="status")
    assert types_of(frames) == ["status"] * 3


async def test_until_leaves_out_what_comes_after_it(client: httpx.AsyncClient) -> None:
    run_id = await ended_run(client)
    everything, _ = await poll(client, f"{RUNS}/{run_id}/events")
    url = f"{RUNS}/{run_id}/events"
    frames, beside = await poll(client, url, after=everything[0].id, until=everything[3].id)
    assert frames == everything[1:4]
    assert beside["next"] == everything[3].id
    assert await lines(client, url, after=everything[0].id, until=everything[3].id) == [
        *everything[1:4],
        Frame(everything[3].id, {"type": "bookmark"}),
    ]
    problem_of(await client.get(url, params={"until": "yesterday"}), 400)
    problem_of(await client.get(url, params={"until": "now"}), 400)


async def test_next_never_goes_back_behind_after(client: httpx.AsyncClient) -> None:
    run_id = await ended_run(client)
    everything, _ = await poll(client, f"{RUNS}/{run_id}/events")
    url = f"{RUNS}/{run_id}/events"
    frames, beside = await poll(client, url, after=everything[4].id, until=everything[1].id)
    assert frames == []
    assert beside["next"] == everything[4].id
    assert (await lines(client, url, after=everything[4].id, until=everything[1].id))[0].id == everything[4].id


async def test_a_long_poll_wakes_when_something_is_published(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client)
    epoch, head = await head_of(client)
    for media in ({}, NDJSON):
        url = f"{RUNS}/{run_id}/events?wait=60&after={epoch}-{head}&types=node_update"
        async with asyncio.timeout(ANSWER_SECONDS):  # far less than it would wait
            waiting = asyncio.create_task(client.get(url, headers=media))
            await ended_run(client, 1)  # somebody else's events wake nobody
            assert not waiting.done()
            await append(client, run_id, token, 2)
            answer = await waiting
        found = [json.loads(line) for line in answer.text.splitlines()[:2]] if media else answer.json()["data"]
        assert [frame["event"]["iteration"] for frame in found] == [1, 2]
        head += 6
    await finish(client, run_id, token)


async def test_a_long_poll_on_the_feed_wakes_too(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(ANSWER_SECONDS):
        epoch, head = await head_of(client)
        waiting = asyncio.create_task(client.get(f"{RUNS}/events?wait=60&after={epoch}-{head}"))
        run_id, token = await lease(client)
        assert (await waiting).json()["data"][0]["event"]["run_id"] == run_id
    await finish(client, run_id, token)


async def test_a_long_poll_is_answered_at_once_when_there_is_something_or_nothing_can_come(
    client: httpx.AsyncClient,
) -> None:
    run_id = await ended_run(client)
    running_id, token = await lease(client)
    async with asyncio.timeout(ANSWER_SECONDS):
        assert len((await poll(client, f"{RUNS}/{running_id}/events", wait=60))[0]) == 2
        epoch, head = await head_of(client)
        frames, beside = await poll(client, f"{RUNS}/{run_id}/events", wait=60, after=f"{epoch}-{head}")
        assert (frames, beside["ended"]) == ([], "completed")
        problem_of(await client.get(f"{RUNS}/{running_id}/events?wait=60&after=zzzzzz-1"), 410)
        frames, _ = await poll(client, f"{RUNS}/{running_id}/events", wait=60, after="zzzzzz-1", on_reset="reset")
        assert types_of(frames) == ["reset", "status", "status"]
    await finish(client, running_id, token)


async def test_a_long_poll_that_wakes_with_the_end_says_that_it_ended(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client)
    epoch, head = await head_of(client)
    async with asyncio.timeout(ANSWER_SECONDS):
        url = f"{RUNS}/{run_id}/events"
        waiting = asyncio.create_task(poll(client, url, wait=60, after=f"{epoch}-{head}", types="node_update"))
        await finish(client, run_id, token)
        frames, beside = await waiting
        assert frames == []
        frames, beside = await poll(client, url, wait=60, after=beside["next"], types="node_update")
    assert (frames, beside["ended"]) == ([], "completed")


async def test_a_wait_that_nothing_interrupts_ends_empty(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client)
    epoch, head = await head_of(client)
    frames, beside = await poll(client, f"{RUNS}/{run_id}/events", after=f"{epoch}-{head}", wait=0.2)
    assert frames == []
    assert beside == {"head": f"{epoch}-{head}", "next": f"{epoch}-{head}", "ended": None}
    await finish(client, run_id, token)


async def test_a_position_that_needs_a_reset_is_410_or_a_reset_frame_first(client: httpx.AsyncClient) -> None:
    run_id = await ended_run(client)
    url = f"{RUNS}/{run_id}/events"
    everything, _ = await poll(client, url)
    for headers in ({}, NDJSON):
        problem = problem_of(await client.get(url, params={"after": "zzzzzz-9"}, headers=headers), 410)
        assert (problem["reason"], problem["requested"]) == ("epoch_changed", "zzzzzz-9")
    frames, _ = await poll(client, url, after="zzzzzz-9", on_reset="reset")
    assert types_of(frames[:1]) == ["reset"]
    assert frames[1:] == everything
    assert frames[0].event["requested"] == "zzzzzz-9"
    of_lines = await lines(client, url, after="zzzzzz-9", on_reset="reset")
    assert of_lines[:-1] == frames


async def test_polling_starts_where_the_stream_would(client: httpx.AsyncClient) -> None:
    run_id = await ended_run(client)
    epoch, head = await head_of(client)
    frames, beside = await poll(client, f"{RUNS}/events")
    assert (frames, beside["next"]) == ([], f"{epoch}-{head}")
    assert len((await poll(client, f"{RUNS}/{run_id}/events"))[0]) == 6
    assert (await poll(client, f"{RUNS}/{run_id}/events", after="now"))[0] == []
    frames, _ = await poll(client, f"{RUNS}/events", run=run_id, after="start")
    assert len(frames) == 6
    answer = await client.get(f"{RUNS}/{run_id}/events", headers={"last-event-id": str(frames[4].id)})
    assert len(answer.json()["data"]) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("limit", value) for value in ("0", "-1", "1001", "ten", "", "nan", "inf", "1e400", "9" * 400, "1.5")),
        *(("wait", value) for value in ("-1", "61", "soon", "nan", "")),
        ("on_reset", "explode"),
        ("types", "bogus"),
        ("lossless", "1"),
    ],
)
async def test_a_parameter_out_of_bounds_is_400_and_named(client: httpx.AsyncClient, name: str, value: str) -> None:
    run_id = await ended_run(client, 0)
    for url in (f"{RUNS}/{run_id}/events", f"{RUNS}/events"):
        assert name in problem_of(await client.get(url, params={name: value}), 400)["detail"].replace("type ", "types ")


async def test_a_log_that_is_restored_during_a_long_poll_is_told_of_like_any_other_reset(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    run_id, token = await lease(client)
    for number, after in enumerate(("now", "head", "now", "head")):
        epoch, head = await head_of(client)
        position = f"{epoch}-{head}" if after == "head" else "now"
        url = f"{RUNS}/{run_id}/events?wait=60&after={position}&on_reset={'reset' if number < 2 else 'error'}"
        readers = await metric(client, "tailrace_tails", service="runs")
        async with asyncio.timeout(ANSWER_SECONDS):
            waiting = asyncio.create_task(client.get(url))
            while await metric(client, "tailrace_tails", service="runs") <= readers:
                pass
            await begin_epoch(tailrace.database_url, f"poll{number}")
            answer = await waiting
        if number < 2:
            frames = [Frame.of_json(frame) for frame in answer.raise_for_status().json()["data"]]
            assert types_of(frames) == ["reset", "status", "status"]
            assert frames[0].event["reason"] == "epoch_changed"
        else:
            problem = problem_of(answer, 410)
            assert (problem["reason"], problem["requested"]) == ("epoch_changed", f"{epoch}-{head}")
    await finish(client, run_id, token)
