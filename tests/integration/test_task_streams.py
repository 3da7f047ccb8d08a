"""Streams of tasks: the newest snapshot, at a pace, to the end. DESIGN.md 4.1, 4.2 and 5.

Over SSE, a WebSocket of their own (as JSON and MessagePack) and /ws alike, wherever the transports can differ.
"""

import asyncio
import itertools
import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.support.contract import ANSWER_SECONDS, Frame, Served, metric, problem_of, socket, sql, types_of
from tests.support.postgres import FAST, OwnPostgres, fresh_database
from tests.support.runs import stalling
from tests.support.server import ROOT, Server, running
from tests.support.tasks import (
    NDJSON,
    SINGLE,
    TASKS,
    TRANSPORTS,
    Stream,
    Transport,
    as_of,
    create,
    create_many,
    done_of,
    frame_of,
    get,
    is_terminal,
    listed,
    of,
    patch,
    progress,
    shown,
    snapshots,
    stream,
)

INTERVAL = 0.2
SETTINGS = {"tasks_stream_interval_seconds": INTERVAL, "heartbeat_seconds": 0.3}
PROMPT_SECONDS = 5.0  # far sooner than the longest interval, which is twice that
LONG = 10

every_transport = pytest.mark.parametrize("transport", TRANSPORTS)
every_single_transport = pytest.mark.parametrize("transport", SINGLE)


def types_without_heartbeats(frames: list[Frame]) -> list[str]:
    return [name for name in types_of(frames) if name != "bookmark"]


async def present(opened: Stream) -> Frame:
    """Read on to `live`; the one snapshot before it."""
    frames = await opened.until_type("live")
    assert types_of(frames) == ["hello", "snapshot", "live"]
    return frames[1]


def position_before(position: str, by: int = 1) -> str:
    epoch, _, seq = position.rpartition("-")
    return f"{epoch}-{int(seq) - by}"


async def beaten(url: str, path: str, times: int = 2) -> None:
    """Return when a stream that was opened now, and shows nothing, has had so many heartbeats."""
    async with stream(url, "tailrace.v1", path, types="deleted") as opened:
        await opened.until_type("live")
        for _ in range(times):
            await opened.until_type("bookmark")


# ── how a stream begins ────────────────────────────────────────────────────────────────────────────────────────


async def test_a_snapshot_comes_without_an_event_line_and_everything_else_with_one(client: httpx.AsyncClient) -> None:
    task = await create(client, status="running")
    blocks: list[list[str]] = [[]]
    async with client.stream("GET", f"{of(task)}/stream") as response, asyncio.timeout(ANSWER_SECONDS):
        async for line in response.aiter_lines():
            if line:
                blocks[-1].append(line)
                continue
            blocks.append([])
            if len(blocks) == 4:
                await patch(client, task["id"], status="succeeded")
    blocks = [[line for line in block if not line.startswith((":", "retry"))] for block in blocks if block]
    names = [[line.partition(":")[0] for line in block] for block in blocks]
    plain, named = ["id", "data"], ["id", "event", "data"]
    assert names == [named, plain, named, plain, named]
    assert blocks[1][1].startswith('data: {"type":"snapshot"')


async def test_the_board_names_deletions_and_not_snapshots(client: httpx.AsyncClient) -> None:
    epoch, head = await as_of(client)
    task = await create(client)
    other = await create(client)
    await client.delete(of(task))
    lines: list[str] = []
    async with client.stream("GET", f"{TASKS}/stream?after={epoch}-{head}") as response:
        async for line in response.aiter_lines():
            lines.append(line)
            if line == "event: live":
                break
    assert f"id: {other['last_position']}" in lines
    assert lines[lines.index(f"id: {other['last_position']}") + 1].startswith('data: {"type":"snapshot"')
    assert lines.count("event: deleted") == 1
    assert "event: snapshot" not in lines


@every_transport
async def test_a_stream_begins_with_the_present_snapshot_and_its_position(
    client: httpx.AsyncClient, tailrace: Served, transport: Transport
) -> None:
    task = await create(client, title="Ünïcödé \u2028 ☃")
    await progress(client, task["id"], 1)
    await create(client)  # the head is elsewhere
    task = await progress(client, task["id"], 2)
    await create(client)
    epoch, head = await as_of(client)
    async with stream(tailrace.url, transport, of(task)) as opened:
        snapshot = await present(opened)
        hello, _, live = opened.frames
    assert snapshot.id == task["last_position"]
    assert shown(snapshot.event) == shown(await get(client, task["id"]))
    assert (hello.id, hello.event["after"]) == (position_before(task["last_position"]), snapshot.seq - 1)
    assert hello.event["resumed"] is False
    assert hello.event["filter"] == {"subjects": [f"task/{task['id']}"], "types": ["snapshot"]}
    assert (live.id, live.event) == (f"{epoch}-{head}", {"type": "live", "replayed": 1})


@every_transport
async def test_resuming_at_the_present_snapshot_brings_nothing_until_a_change(
    client: httpx.AsyncClient, tailrace: Served, transport: Transport
) -> None:
    task = await create(client)
    async with stream(tailrace.url, transport, of(task), after=task["last_position"]) as opened:
        assert types_of(await opened.until_type("live")) == ["hello", "live"]
        assert opened.frames[0].event["resumed"] is True
        await create(client)
        await beaten(tailrace.url, of(task))
        changed = await progress(client, task["id"], 1)
        seen = await opened.until_type("snapshot")
        assert types_without_heartbeats(seen) == ["snapshot"]
        assert shown(seen[-1].event) == shown(changed)
        assert seen[-1].id == changed["last_position"]


@every_transport
async def test_resuming_at_an_older_position_brings_only_the_newest(
    client: httpx.AsyncClient, tailrace: Served, transport: Transport
) -> None:
    task = await create(client)
    for done in range(1, 6):  # more than one message carries
        newest = await patch(client, task["id"], progress={"done": done}, result="x" * 30_000)
    for older in (task["last_position"], position_before(newest["last_position"]), "start"):
        async with stream(tailrace.url, transport, of(task), after=older) as opened:
            snapshot = await present(opened)
            assert snapshot.id == newest["last_position"]
            assert snapshot.event["progress"]["done"] == 5
            assert opened.frames[0].event["resumed"] is (older != "start")
            if older != "start":
                assert opened.frames[0].id == older


async def test_the_header_says_where_to_resume_and_wins_over_after(client: httpx.AsyncClient, tailrace: Served) -> None:
    task = await create(client)
    header = {"last-event-id": task["last_position"]}
    for after in ({}, {"after": "start"}, {"after": "now"}):
        async with stream(tailrace.url, "sse", of(task), headers=header, **after) as opened:
            assert types_of(await opened.until_type("live")) == ["hello", "live"]


@every_transport
async def test_from_now_nothing_comes_until_a_change(
    client: httpx.AsyncClient, tailrace: Served, transport: Transport
) -> None:
    task = await create(client)
    async with stream(tailrace.url, transport, of(task), after="now") as opened:
        assert types_of(await opened.until_type("live")) == ["hello", "live"]
        await progress(client, task["id"], 1)
        assert types_without_heartbeats(await opened.until_type("snapshot")) == ["snapshot"]


@every_transport
async def test_lossless_brings_all_stored_snapshots_and_every_one_after_them_at_once(
    client: httpx.AsyncClient, tailrace: Served, transport: Transport
) -> None:
    task = await create(client)
    for done in range(1, 4):
        await progress(client, task["id"], done)
    for after, first in (("start", 0), (task["last_position"], 1)):
        async with stream(tailrace.url, transport, of(task), after=after, lossless=True) as opened:
            assert done_of(await opened.until_type("live")) == list(range(first, 4))
    async with stream(tailrace.url, transport, of(task), after="now", lossless=True) as opened:
        await opened.until_type("live")
        for done in range(4, 14):
            last = await progress(client, task["id"], done)
        assert done_of(await opened.until_rev(last["rev"])) == list(range(4, 14))


@every_transport
async def test_the_board_begins_now_and_tells_of_every_task_and_deletion(
    client: httpx.AsyncClient, tailrace: Served, transport: Transport
) -> None:
    await create(client)
    async with stream(tailrace.url, transport, TASKS) as opened:
        assert types_of(await opened.until_type("live")) == ["hello", "live"]
        one, other = await create(client), await create(client)
        await patch(client, one["id"], status="succeeded")
        await client.delete(of(other))
        seen = await opened.until_type("deleted")
    told = [(frame.type, frame.event["task_id"]) for frame in seen if frame.type != "bookmark"]
    ids = (one["id"], other["id"], one["id"], other["id"])
    assert told == list(zip(("snapshot", "snapshot", "snapshot", "deleted"), ids, strict=True))


async def test_the_board_shows_only_the_types_it_was_asked_for(client: httpx.AsyncClient, tailrace: Served) -> None:
    async with stream(tailrace.url, "sse", TASKS, types="deleted") as opened:
        await opened.until_type("live")
        task = await create(client)
        await client.delete(of(task))
        assert types_without_heartbeats(await opened.until_type("deleted")) == ["deleted"]
    detail = problem_of(await client.get(f"{TASKS}/stream?types=node_update"), 400)["detail"]
    assert "snapshot" in detail
    assert "deleted" in detail


# ── pace ───────────────────────────────────────────────────────────────────────────────────────────────────────


@every_single_transport
async def test_the_first_change_leaves_at_once_the_next_waits_and_the_end_does_not(
    client: httpx.AsyncClient, tailrace: Served, transport: Transport
) -> None:
    task = await create(client, status="running")
    async with stream(tailrace.url, transport, of(task), interval=LONG) as opened, asyncio.timeout(PROMPT_SECONDS):
        await present(opened)
        await progress(client, task["id"], 1)
        assert done_of(await opened.until_type("snapshot")) == [1]
        for done in (2, 3, 4):
            await progress(client, task["id"], done)
        ended = await patch(client, task["id"], status="succeeded", result={"it": "is done"})
        rest = await opened.rest()
    assert types_without_heartbeats(rest) == ["snapshot", "stream_end"]
    assert shown(snapshots(rest)[0].event) == shown(ended)


@every_transport
async def test_later_changes_are_conflated_to_one_per_interval_and_the_last_always_comes(
    client: httpx.AsyncClient, tailrace: Served, transport: Transport
) -> None:
    task = await create(client)
    loop = asyncio.get_running_loop()
    async with stream(tailrace.url, transport, of(task)) as opened:
        await present(opened)
        reading = asyncio.create_task(opened.until(lambda f: f.type == "snapshot" and f.event["title"] == "last"))
        began, changes = loop.time(), 0
        while loop.time() - began < INTERVAL * 5:
            changes += 1
            await progress(client, task["id"], changes)
        last = await patch(client, task["id"], title="last")
        came = [frame.event["rev"] for frame in snapshots(await reading)]
        elapsed = loop.time() - began
    # the first left after `began` and the last before now; a timer may be a millisecond early
    assert (len(came) - 1) * (INTERVAL - 0.001) <= elapsed
    assert 3 <= len(came) < changes
    assert came == sorted(set(came))
    assert shown(opened.frames[-1].event) == shown(last)


async def test_a_reader_chooses_its_own_pace(client: httpx.AsyncClient, tailrace: Served) -> None:
    task = await create(client)
    async with (
        stream(tailrace.url, "sse", of(task), interval=0.1) as fast,
        stream(tailrace.url, "tailrace.v1", of(task), interval=1) as slow,
        stream(tailrace.url, "sse", of(task), lossless=1) as whole,
    ):
        streams = (fast, slow, whole)
        for opened in streams:
            await present(opened)
        loop = asyncio.get_running_loop()
        began = loop.time()
        while loop.time() - began < 0.6:
            last = await progress(client, task["id"], round((loop.time() - began) * 1e6) + 1)
        came = [len(done_of(await opened.until_rev(last["rev"]))) for opened in streams]
        elapsed = loop.time() - began
    assert (came[0] - 1) * 0.099 <= elapsed
    assert (came[1] - 1) * 0.999 <= elapsed
    assert came[1] == 2  # the first, at once, and the last
    assert came[1] < came[0] < came[2] == last["rev"] - 1


async def test_a_change_after_a_quiet_interval_leaves_at_once_again(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    task = await create(client)
    async with stream(tailrace.url, "sse", of(task), interval=0.1) as opened:
        await present(opened)
        for done in range(1, 4):
            await progress(client, task["id"], done)
            assert done_of(await opened.until_type("snapshot")) == [done]
            await beaten(tailrace.url, of(task), 1)  # longer than the interval


async def test_heartbeats_go_on_and_never_jump_over_a_snapshot_that_is_held(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    for transport in SINGLE:
        task = await create(client)
        async with stream(tailrace.url, transport, of(task), interval=LONG) as opened:
            await present(opened)
            first = await progress(client, task["id"], 1)
            assert done_of(await opened.until_type("snapshot")) == [1]
            held = await progress(client, task["id"], 2)
            await create(client)  # the head goes on: a bookmark would like to tell
            await beaten(tailrace.url, of(task), 3)
            if transport != "sse":
                seen = await opened.until_type("bookmark")
                assert [frame.id for frame in seen] == [first["last_position"]] * len(seen)
            last = opened.frames[-1].id
        async with stream(tailrace.url, transport, of(task), after=last) as opened:
            snapshot = await present(opened)
            assert (snapshot.id, shown(snapshot.event)) == (held["last_position"], shown(held))


async def test_a_comment_says_still_here_while_a_snapshot_is_held(client: httpx.AsyncClient) -> None:
    task = await create(client)
    beats: list[str] = []
    async with (
        asyncio.timeout(PROMPT_SECONDS),
        client.stream("GET", f"{of(task)}/stream?interval={LONG}") as response,
    ):
        async for line in response.aiter_lines():
            if line == "event: live":
                await progress(client, task["id"], 1)
            elif '"done":1' in line:
                await progress(client, task["id"], 2)
                beats.append("")
            elif beats:
                beats.append(line)
                if beats.count(":") == 3:
                    break
    assert set(beats) == {"", ":"}


@pytest.mark.parametrize(
    ("query", "named"),
    [
        *((f"interval={value}", "interval") for value in ("0.09", "10.01", "0", "-1", "nan", "inf", "soon", "", "1e9")),
        *((f"max_ticks={value}", "max_ticks") for value in ("0", "-1", "1.5", "1000001", "nan", "many", "")),
        ("interval=1&interval=2", "interval"),
        ("lossless=maybe", "lossless"),
        ("after=yesterday", "yesterday"),
        ("types=", "types"),
        ("limit=3", "'limit'"),
    ],
)
async def test_what_makes_no_sense_is_400_and_named_over_sse_and_on_an_upgrade(
    client: httpx.AsyncClient, tailrace: Served, query: str, named: str
) -> None:
    task = await create(client)
    assert named in problem_of(await client.get(f"{of(task)}/stream?{query}"), 400)["detail"]
    with pytest.raises(InvalidStatus) as refused:
        async with socket(f"{tailrace.websocket_url}{of(task)}/stream?{query}"):
            pass
    assert refused.value.response.status_code == 400
    assert named in json.loads(refused.value.response.body or b"")["detail"]


@pytest.mark.parametrize("parameter", ["interval=1", "max_ticks=1"])
async def test_the_board_and_the_polling_twins_have_no_pace(client: httpx.AsyncClient, parameter: str) -> None:
    task = await create(client)
    name = parameter.partition("=")[0]
    for url in (f"{TASKS}/stream", f"{TASKS}/events", f"{of(task)}/events"):
        assert repr(name) in problem_of(await client.get(f"{url}?{parameter}"), 400)["detail"]


@pytest.mark.parametrize("value", ["0.09", "0", "-1", "10.1", "nan", "inf", "fast", ""])
async def test_an_interval_out_of_bounds_is_refused_at_start_up_by_name(database_url: str, value: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cli", "serve", "tasks"),
        cwd=ROOT,
        env={
            "PATH": "/usr/bin:/bin",
            "TAILRACE_DATABASE_URL": database_url,
            "TAILRACE_PORT": "0",
            "TAILRACE_TASKS_STREAM_INTERVAL_SECONDS": value,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert (process.returncode, output) == (1, b"")
    assert b"TAILRACE_TASKS_STREAM_INTERVAL_SECONDS" in errors
    assert len(errors.splitlines()) == 1


# ── ticks ──────────────────────────────────────────────────────────────────────────────────────────────────────


@every_single_transport
async def test_a_stream_of_one_tick_is_the_present_snapshot(
    client: httpx.AsyncClient, tailrace: Served, transport: Transport
) -> None:
    task = await create(client)
    async with stream(tailrace.url, transport, of(task), max_ticks=1, interval=LONG) as opened:
        async with asyncio.timeout(PROMPT_SECONDS):
            frames = await opened.rest()
        if transport != "sse":
            assert await opened.close_code() == 1000
    assert types_of(frames) == ["hello", "snapshot", "live", "stream_end"]
    end = frames[-1].event
    assert (end["reason"], end["final"], end["status"]) == ("max_ticks", True, None)
    assert end["last_id"] == frames[-1].id
    assert frames[1].seq <= frames[-1].seq


@every_single_transport
async def test_a_stream_ends_after_its_ticks_also_when_nothing_changes(
    client: httpx.AsyncClient, tailrace: Served, transport: Transport
) -> None:
    task = await create(client)
    loop = asyncio.get_running_loop()
    for interval, ticks in ((0.1, 4), (INTERVAL, 2)):
        began = loop.time()
        async with stream(tailrace.url, transport, of(task), max_ticks=ticks, interval=interval) as opened:
            frames = await opened.rest()
        elapsed = loop.time() - began
        assert types_without_heartbeats(frames) == ["hello", "snapshot", "live", "stream_end"]
        assert frames[-1].event["reason"] == "max_ticks"
        assert interval * (ticks - 1) - 0.001 <= elapsed < PROMPT_SECONDS


async def test_a_snapshot_that_is_held_leaves_with_the_last_tick(client: httpx.AsyncClient, tailrace: Served) -> None:
    task = await create(client)
    async with stream(tailrace.url, "sse", of(task), max_ticks=2, interval=1) as opened:
        await present(opened)
        await progress(client, task["id"], 1)
        assert done_of(await opened.until_type("snapshot")) == [1]
        held = await progress(client, task["id"], 2)
        rest = await opened.rest()
    assert types_without_heartbeats(rest) == ["snapshot", "stream_end"]
    assert rest[-2].id == held["last_position"] == rest[-1].event["last_id"]


async def test_a_stream_of_so_many_ticks_has_no_more_snapshots_than_that(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    task = await create(client)
    async with stream(tailrace.url, "tailrace.v1", of(task), max_ticks=4, interval=0.2) as opened:
        await present(opened)
        reading = asyncio.create_task(opened.rest())
        for done in itertools.count(1):
            await progress(client, task["id"], done)
            if reading.done():
                break
        frames = reading.result()
    # one for each interval, the first change that need not wait, and what the end would have held back
    assert 2 <= len(snapshots(frames)) <= 5
    assert frames[-1].event["reason"] == "max_ticks"


@every_single_transport
async def test_a_task_that_ends_within_its_ticks_ends_its_stream(
    client: httpx.AsyncClient, tailrace: Served, transport: Transport
) -> None:
    task = await create(client)
    async with stream(tailrace.url, transport, of(task), max_ticks=100, interval=LONG) as opened:
        await present(opened)
        await patch(client, task["id"], status="failed")
        rest = await opened.rest()
    assert (rest[-1].event["reason"], rest[-1].event["status"]) == ("terminal", "failed")


# ── the end ────────────────────────────────────────────────────────────────────────────────────────────────────


@every_transport
@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled"])
async def test_the_terminal_snapshot_comes_at_once_and_then_the_end(
    client: httpx.AsyncClient, tailrace: Served, transport: Transport, status: str
) -> None:
    task = await create(client)
    async with stream(tailrace.url, transport, of(task)) as opened:
        await present(opened)
        ended = await patch(client, task["id"], status=status)
        rest = await opened.rest()
        if transport in SINGLE[1:]:
            assert await opened.close_code() == 1000
    assert types_without_heartbeats(rest) == ["snapshot", "stream_end"]
    snapshot, end = rest[-2:]
    assert shown(snapshot.event) == shown(ended)
    assert end.event == {
        "type": "stream_end",
        "status": status,
        "reason": "terminal",
        "final": True,
        "last_id": ended["last_position"],
        "retry_after_ms": None,
    }
    assert snapshot.id == end.id == ended["last_position"]


async def test_a_shared_socket_goes_on_after_one_of_its_streams_has_ended(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    task, other = await create(client), await create(client)
    async with socket(f"{tailrace.websocket_url}{TASKS}/ws") as shared:
        for ref, channel in (("a", f"task/{task['id']}"), ("b", f"task/{other['id']}"), ("all", "tasks")):
            await shared.send({"op": "follow", "ref": ref, "channel": channel})
            await shared.until_type("live", ref)
        await patch(client, task["id"], status="succeeded")
        seen = await shared.until_type("stream_end", "a")
        if not any(frame.ref == "all" and frame.type == "snapshot" for frame in seen):
            await shared.until_type("snapshot", "all")
        await progress(client, other["id"], 1)
        assert (await shared.until_type("snapshot", "b"))[-1].event["progress"]["done"] == 1
        await shared.send({"op": "follow", "ref": "a", "channel": f"task/{task['id']}"})  # the ref is free again
        again = [frame for frame in await shared.until_type("stream_end", "a") if frame.ref == "a"]
        assert types_of(again) == ["hello", "snapshot", "live", "stream_end"]


async def test_who_comes_back_after_the_end_is_sent_away_for_good(client: httpx.AsyncClient, tailrace: Served) -> None:
    task = await create(client)
    async with stream(tailrace.url, "sse", of(task)) as opened:
        await present(opened)
        await patch(client, task["id"], status="succeeded")
        last = str((await opened.rest())[-1].id)
    await create(client)
    url = f"{of(task)}/stream"
    for header, after in ((last, ""), ("", last), ("", "now")):
        query = {"after": after} if after else {}
        answer = await client.get(url, params=query, headers={"last-event-id": header})
        assert (answer.status_code, answer.content) == (204, b"")
    for transport in TRANSPORTS[1:]:
        async with stream(tailrace.url, transport, of(task), after=last) as again:
            frames = await again.rest()
            assert types_of(frames) == ["hello", "live", "stream_end"]
            assert (frames[-1].event["reason"], frames[-1].event["status"]) == ("terminal", "succeeded")
            assert frames[-1].event["final"] is True
            if transport != "channels":
                assert await again.close_code() == 1000


@every_transport
async def test_a_stream_of_a_task_that_has_ended_is_its_snapshot_and_the_end(
    client: httpx.AsyncClient, tailrace: Served, transport: Transport
) -> None:
    task = await create(client)
    await progress(client, task["id"], 1)
    ended = await patch(client, task["id"], status="cancelled")
    await create(client)
    for position in ({}, {"after": "start"}, {"after": task["last_position"]}):
        async with stream(tailrace.url, transport, of(task), **position) as opened:
            frames = await opened.rest()
        assert types_of(frames) == ["hello", "snapshot", "live", "stream_end"]
        assert shown(frames[1].event) == shown(ended)
        assert frames[1].id == frames[-1].event["last_id"] == ended["last_position"]
        assert (frames[-1].event["reason"], frames[-1].event["status"]) == ("terminal", "cancelled")
    async with stream(tailrace.url, transport, of(task), after="start", lossless=True) as opened:
        frames = await opened.rest()
    assert types_of(frames) == ["hello", *["snapshot"] * 3, "live", "stream_end"]


async def test_who_comes_back_after_the_end_is_sent_away_also_when_history_was_trimmed(database_url: str) -> None:
    async with running(database_url) as server, httpx.AsyncClient(base_url=server.url) as client:
        task = await create(client)
        ended = await patch(client, task["id"], status="succeeded")
        for _ in range(3):
            await create(client)
        await trim(database_url, 5)
        async with stream(server.url, "sse", of(task)) as opened:
            frames = await opened.rest()
        assert types_of(frames) == ["hello", "snapshot", "live", "stream_end"]
        last = str(frames[-1].id)
        answer = await client.get(f"{of(task)}/stream", headers={"last-event-id": last})
        assert answer.status_code == 204  # an EventSource would come again and again
        async with stream(server.url, "tailrace.v1", of(task), after=last) as opened:
            assert types_of(await opened.rest())[-2:] == ["live", "stream_end"]
        older = position_before(ended["last_position"])
        async with stream(server.url, "sse", of(task), after=older) as opened:
            assert types_of(await opened.rest()) == ["hello", "reset", "snapshot", "live", "stream_end"]


# ── what is no longer the reader's to see ──────────────────────────────────────────────────────────────────────

REVOKED = {"status": None, "reason": "access_revoked", "final": True, "retry_after_ms": None}


async def revoked(opened: Stream, transport: Transport, last_id: str) -> None:
    """The stream ends without another word than that."""
    rest = await opened.rest()
    assert types_without_heartbeats(rest) == ["stream_end"]
    assert rest[-1].event == {"type": "stream_end", **REVOKED, "last_id": rest[-1].id}
    assert last_id.partition("-")[0] == str(rest[-1].id).partition("-")[0]
    if transport in SINGLE[1:]:
        assert await opened.close_code() == 4404


@every_transport
@pytest.mark.parametrize("query", [{}, {"types": "*"}, {"types": "deleted"}, {"lossless": True}], ids=str)
async def test_the_stream_of_a_deleted_task_ends_without_a_word_about_it(
    client: httpx.AsyncClient, tailrace: Served, transport: Transport, query: dict[str, Any]
) -> None:
    if transport == "channels" and "types" in query:
        query = {"types": [query["types"]]}
    task = await create(client)
    async with stream(tailrace.url, transport, of(task), **query) as opened:
        await opened.until_type("live")
        assert (await client.delete(of(task))).status_code == 204
        await revoked(opened, transport, task["last_position"])


@every_single_transport
async def test_a_snapshot_that_is_held_never_leaves_after_a_deletion(
    client: httpx.AsyncClient, tailrace: Served, transport: Transport
) -> None:
    task = await create(client)
    async with stream(tailrace.url, transport, of(task), interval=LONG) as opened, asyncio.timeout(PROMPT_SECONDS):
        await present(opened)
        first = await progress(client, task["id"], 1)
        assert done_of(await opened.until_type("snapshot")) == [1]
        await patch(client, task["id"], result="the secret")
        await client.delete(of(task))
        await revoked(opened, transport, first["last_position"])
        assert opened.frames[-1].id == first["last_position"]


async def test_one_who_comes_while_a_task_is_deleted_is_sent_away(client: httpx.AsyncClient, tailrace: Served) -> None:
    async def watch(task: dict[str, Any]) -> list[Frame]:
        try:
            async with stream(tailrace.url, "sse", of(task)) as opened:
                return await opened.rest()
        except httpx.HTTPStatusError as error:
            return [Frame(None, {"type": "refused", "status": error.response.status_code})]

    for _ in range(10):
        task = await create(client)
        async with asyncio.TaskGroup() as group:
            watching = [group.create_task(watch(task)) for _ in range(5)]
            assert (await client.delete(of(task))).status_code == 204
        for watched in watching:
            *before, last = watched.result()
            assert last.event.get("reason") == "access_revoked" or last.event["status"] == 404
            assert {"hello", "snapshot", "live"}.issuperset(types_of(before))


TAKEN_AWAY = {
    "moved to another tenant": "UPDATE tasks.tasks SET tenant = 'other' WHERE id = $1",
    "deleted": "DELETE FROM tasks.tasks WHERE id = $1",
}


@every_transport
@pytest.mark.parametrize("statement", TAKEN_AWAY.values(), ids=TAKEN_AWAY)
async def test_a_task_that_is_taken_away_past_the_service_ends_its_stream_within_a_tick(
    client: httpx.AsyncClient, tailrace: Served, transport: Transport, statement: str
) -> None:
    task = await create(client, status="running")
    async with stream(tailrace.url, transport, of(task)) as opened:
        await present(opened)
        head = await as_of(client)
        async with sql(tailrace.database_url) as database:
            await database.execute(statement, task["id"])
        async with asyncio.timeout(INTERVAL * 10):
            await revoked(opened, transport, task["last_position"])
        assert await as_of(client) == head  # nothing was published
    assert (await client.get(f"{of(task)}/stream")).status_code == 404


async def test_what_is_held_never_leaves_when_the_task_is_taken_away_past_the_service(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    for statement in TAKEN_AWAY.values():
        task = await create(client)
        async with (
            stream(tailrace.url, "sse", of(task), interval=LONG) as held,
            stream(tailrace.url, "tailrace.v1", of(task)) as other,  # its shorter tick is everybody's
            asyncio.timeout(PROMPT_SECONDS),
        ):
            await present(held)
            await present(other)
            first = await progress(client, task["id"], 1)
            for opened in (held, other):
                assert done_of(await opened.until_type("snapshot")) == [1]
            await patch(client, task["id"], result="the secret")
            await other.until(lambda frame: frame.type == "snapshot" and frame.event["result"] == "the secret")
            async with sql(tailrace.database_url) as database:
                await database.execute(statement, task["id"])
            await revoked(held, "sse", first["last_position"])
            assert held.frames[-1].id == first["last_position"]
            await revoked(other, "tailrace.v1", first["last_position"])


async def test_a_long_poll_tells_no_word_of_a_deletion(client: httpx.AsyncClient) -> None:
    task = await create(client)
    for query in ("", "&types=deleted", "&types=*"):
        task = await create(client)
        async with asyncio.timeout(ANSWER_SECONDS):
            url = f"{of(task)}/events?wait=30&after={task['last_position']}{query}"
            waiting = asyncio.create_task(client.get(url))
            await create(client)
            await client.delete(of(task))
            answer = await waiting
        assert answer.status_code in (200, 404)
        assert "deleted" not in answer.text
        if answer.status_code == 200:
            assert (answer.json()["data"], answer.json()["ended"]) == ([], None)
        assert (await client.get(url)).status_code == 404


# ── cut off and back ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("way", ["drain", "kill"])
@every_single_transport
async def test_what_was_held_when_the_service_went_is_there_on_return(
    database_url: str, transport: Transport, way: str
) -> None:
    server = Server(database_url, tasks_stream_interval_seconds=LONG)
    await server.start()
    try:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
            task = await create(client)
            async with stream(server.url, transport, of(task)) as opened, asyncio.timeout(PROMPT_SECONDS):
                await present(opened)
                first = await progress(client, task["id"], 1)
                assert done_of(await opened.until_type("snapshot")) == [1]
                await progress(client, task["id"], 2)
                held = await progress(client, task["id"], 3)
                ending = asyncio.create_task(server.end() if way == "drain" else server.kill())
                if way == "drain":
                    rest = await opened.rest()
                    assert types_without_heartbeats(rest) == ["stream_end"]
                    assert (rest[-1].event["reason"], rest[-1].event["final"]) == ("server_shutdown", False)
                    assert rest[-1].event["last_id"] == first["last_position"]
                await ending
            last = opened.frames[-1].id
            assert last == first["last_position"]
        await server.start()
        async with stream(server.url, transport, of(task), after=last) as opened:
            snapshot = await present(opened)
            assert (snapshot.id, shown(snapshot.event)) == (held["last_position"], shown(held))
    finally:
        await server.kill()


async def test_a_stream_cut_after_any_frame_goes_on_where_it_was(client: httpx.AsyncClient, tailrace: Served) -> None:
    task = await create(client)
    newest = await progress(client, task["id"], 1)
    for transport in SINGLE:
        for count in (1, 2, 3):
            async with stream(tailrace.url, transport, of(task)) as opened:
                cut = [await opened.next() for _ in range(count)][-1]
            async with stream(tailrace.url, transport, of(task), after=cut.id) as opened:
                frames = await opened.until_type("live")
            assert [f.id for f in snapshots(frames)] == ([newest["last_position"]] if count == 1 else [])
            assert types_of(frames)[0] == "hello"
            assert frames[0].event["resumed"] is True


async def test_whatever_was_taken_as_a_result_can_be_read_on_every_transport(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    odd = [
        "\u2028\x7f\r\n\x1b[31m\0",
        "\U0001f30a" * 300,
        2**63 - 1,
        -(2**63),
        2**64 - 1,
        1e308,
        5e-324,
        {"": {"": []}},
    ]
    task = await create(client, status="running", title="\r\n\r\ndata: not an event\n\n", result=odd)
    expected = await patch(client, task["id"], status="succeeded", error="id: 1\r\n:\n\n")
    assert expected["result"] == odd
    for transport in TRANSPORTS:
        async with stream(tailrace.url, transport, of(task)) as opened:
            (snapshot,) = snapshots(await opened.rest())
        assert shown(snapshot.event) == shown(expected)
    assert shown((await poll(client, f"{of(task)}/events"))[0][0].event) == shown(expected)
    assert shown((await lines(client, f"{of(task)}/events"))[0].event) == shown(expected)


# ── when continuity cannot be proved ───────────────────────────────────────────────────────────────────────────


async def trim(database_url: str, oldest: int) -> None:
    """What retention does: `oldest` first, then the events."""
    async with sql(database_url) as database:
        await database.execute("UPDATE tasks.retained SET oldest = $1", oldest)
        await database.execute("DELETE FROM tasks.events WHERE seq < $1", oldest)


async def new_epoch(database_url: str) -> None:
    """`tailrace epoch new`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cli", "epoch", "new"),
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "TAILRACE_DATABASE_URL": database_url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output
    assert b"tasks: the log's epoch is" in output


@every_transport
async def test_a_position_that_cannot_be_proved_is_reset_and_followed_by_the_present_snapshot(
    client: httpx.AsyncClient, tailrace: Served, transport: Transport
) -> None:
    task = await create(client)
    newest = await progress(client, task["id"], 1)
    await create(client)
    epoch, head = await as_of(client)
    for lossless in (False, True):
        for requested, reason in (("zzzzzz-1", "epoch_changed"), (f"{epoch}-{head + 1000}", "unknown_position")):
            async with stream(tailrace.url, transport, of(task), after=requested, lossless=lossless) as opened:
                frames = await opened.until_type("live")
            assert types_of(frames) == ["hello", "reset", "snapshot", "live"]
            reset = {"type": "reset", "reason": reason, "requested": requested, "oldest": 1, "head": head}
            assert frames[1].event == reset
            assert (frames[2].id, shown(frames[2].event)) == (newest["last_position"], shown(newest))
            assert frames[0].id == requested
            assert [frame.seq for frame in frames[1:]] == sorted(frame.seq for frame in frames[1:])
    if transport == "sse":
        for requested in ("zzzzzz-1", "yesterday"):
            answer = await client.get(f"{of(task)}/stream?on_reset=error", headers={"last-event-id": requested})
            assert problem_of(answer, 410)["requested"] == requested
        async with stream(tailrace.url, transport, of(task), headers={"last-event-id": "yesterday"}) as opened:
            assert types_of(await opened.until_type("live")) == ["hello", "reset", "snapshot", "live"]


@every_transport
async def test_a_new_epoch_reaches_a_connected_reader_with_the_present_snapshot_at_once(
    database_url: str, transport: Transport
) -> None:
    async with (
        running(database_url, tasks_stream_interval_seconds=LONG) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as client,
    ):
        task = await create(client)
        async with stream(server.url, transport, of(task)) as opened:
            await present(opened)
            await progress(client, task["id"], 1)
            assert done_of(await opened.until_type("snapshot")) == [1]
            held = await progress(client, task["id"], 2)
            epoch, _ = await as_of(client)
            await new_epoch(database_url)
            await opened.until_type("reset")
            async with asyncio.timeout(PROMPT_SECONDS):
                seen = await opened.until_type("snapshot")
            assert types_without_heartbeats(seen) == ["snapshot"]
            assert shown(seen[-1].event) == shown(held)
            reset = opened.frames[-2]
            assert reset.event["reason"] == "epoch_changed"
            assert not str(seen[-1].id).startswith(epoch)
            # and it goes on, in the new epoch, at its pace
            async with asyncio.timeout(PROMPT_SECONDS):
                ended = await patch(client, task["id"], status="succeeded")
                rest = await opened.rest()
            assert types_without_heartbeats(rest) == ["snapshot", "stream_end"]
            assert shown(rest[-2].event) == shown(ended)


async def test_a_position_before_what_is_kept_is_reset(database_url: str) -> None:
    async with (
        running(database_url, retention_events=5) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as client,
    ):
        old = await create(client, kind="old")
        task = await create(client)
        for done in range(1, 11):
            newest = await progress(client, task["id"], done)
        await trim(database_url, 8)  # as retention would in a minute
        for transport in TRANSPORTS:
            async with stream(server.url, transport, of(task), after=task["last_position"]) as opened:
                frames = await opened.until_type("live")
            assert types_of(frames) == ["hello", "reset", "snapshot", "live"]
            assert (frames[1].event["reason"], frames[1].event["oldest"]) == ("history_trimmed", 8)
            assert frames[2].id == newest["last_position"]
            # a task whose every snapshot was trimmed shows its state all the same
            async with stream(server.url, transport, of(old)) as opened:
                snapshot = await present(opened)
                assert (snapshot.id, shown(snapshot.event)) == (old["last_position"], shown(old))
            async with stream(server.url, transport, TASKS, after=old["last_position"]) as opened:
                frames = await opened.until_type("live")
            assert types_of(frames) == ["hello", "reset", "snapshot", "snapshot", "live"]
            assert [frame.event["task_id"] for frame in snapshots(frames)] == [old["id"], task["id"]]
        problem = problem_of(await client.get(f"{of(task)}/events?after={task['last_position']}"), 410)
        assert problem["reason"] == "history_trimmed"


MANY = 1_200  # more than two pages of the present state


async def test_a_reset_of_the_board_is_followed_by_every_task_wherever_it_is_cut_off(database_url: str) -> None:
    async with (
        running(database_url) as server,
        httpx.AsyncClient(base_url=server.url, timeout=60) as client,
    ):
        await create_many(client, MANY)
        tasks, _ = await listed(client, limit=500)
        for task in tasks[::100]:
            await progress(client, task["id"], 1)
        await patch(client, tasks[0]["id"], status="succeeded")
        gone = tasks.pop()
        await client.delete(of(gone))
        await create(client, title="the newest")
        expected = {task["id"]: task["last_position"] for task in (await listed(client, limit=500))[0]}
        assert len(expected) == MANY
        for transport in TRANSPORTS:
            async with stream(server.url, transport, TASKS, after="zzzzzz-7") as opened:
                frames = await opened.until_type("live")
            assert types_of(frames[:2]) == ["hello", "reset"]
            assert {frame.event["task_id"]: frame.id for frame in snapshots(frames)} == expected
            assert len(frames) == MANY + 3
            seqs = [frame.seq for frame in frames[1:]]  # hello has the position that was asked for
            assert seqs == sorted(seqs)
        for cut_after in (1, 2, 3, 499, 502, 503, 777, 1_001, 1_002, 1_003, MANY + 2):
            async with stream(server.url, "sse", TASKS, after="zzzzzz-7") as opened:
                seen = [await opened.next() for _ in range(cut_after)]
            changed = await progress(client, tasks[cut_after % 900]["id"], cut_after)
            expected[changed["id"]] = changed["last_position"]
            async with stream(server.url, "sse", TASKS, after=seen[-1].id) as opened:
                rest = await opened.until_id(changed["last_position"])
            assert ("reset" in types_of(rest)) is (cut_after == 1)  # after hello alone it is told again
            known = {frame.event["task_id"]: str(frame.id) for frame in snapshots(seen + rest)}
            known.pop(gone["id"], None)
            assert known == expected, cut_after


async def test_a_reset_of_the_board_comes_in_messages_of_a_bounded_size(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    fat = [await create(client, result="x" * 30_000) for _ in range(20)]
    async with socket(f"{tailrace.websocket_url}{TASKS}/stream?after=zzzzzz-7") as opened:
        await opened.until_type("live")
        messages = opened.messages
    assert max(len(json.dumps([frame.event for frame in message])) for message in messages) < 100_000
    assert {task["id"] for task in fat} <= {f.event["task_id"] for m in messages for f in m if f.type == "snapshot"}


@every_single_transport
async def test_an_end_before_hello_does_not_send_the_reader_back_to_the_start(
    database_url: str, transport: Transport
) -> None:
    server = Server(database_url)
    await server.start()
    try:
        async with httpx.AsyncClient(base_url=server.url) as client, sql(database_url) as database:
            task = await create(client)
            await progress(client, task["id"], 1)
            transaction = database.transaction()
            await transaction.start()
            await database.execute("LOCK TABLE tasks.retained IN ACCESS EXCLUSIVE MODE")  # nobody knows where to begin
            position = task["last_position"]
            async with stream(server.url, transport, of(task), headers={"last-event-id": position}) as opened:
                ending = asyncio.create_task(server.end())
                (end,) = await opened.rest()
            await transaction.rollback()
            assert await ending == 0
        assert (end.event["reason"], end.event["final"]) == ("server_shutdown", False)
        assert end.id == end.event["last_id"] == position
    finally:
        await server.kill()


# ── the polling twin ───────────────────────────────────────────────────────────────────────────────────────────


async def poll(client: httpx.AsyncClient, url: str, **params: Any) -> tuple[list[Frame], dict[str, Any]]:
    """The frames, and what stands beside them."""
    answer = await client.get(url, params=params)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return [Frame.of_json(frame) for frame in body.pop("data")], body


async def lines(client: httpx.AsyncClient, url: str, **params: Any) -> list[Frame]:
    answer = await client.get(url, params=params, headers=NDJSON)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].partition(";")[0] == "application/x-ndjson"
    return [Frame.of_json(json.loads(line)) for line in answer.text.split("\n")[:-1]]


async def test_polling_begins_with_the_present_snapshot_and_goes_on_with_all_that_are_stored(
    client: httpx.AsyncClient,
) -> None:
    task = await create(client)
    for done in range(1, 4):
        newest = await progress(client, task["id"], done)
    await create(client)
    epoch, head = await as_of(client)
    url = f"{of(task)}/events"
    frames, beside = await poll(client, url)
    assert [frame.id for frame in frames] == [newest["last_position"]]
    assert beside == {"head": f"{epoch}-{head}", "next": f"{epoch}-{head}", "ended": None}
    assert [frame.id for frame in await lines(client, url)] == [newest["last_position"], f"{epoch}-{head}"]
    for after, expected in (
        ("start", [0, 1, 2, 3]),
        (task["last_position"], [1, 2, 3]),
        ("now", []),
        (beside["next"], []),
    ):
        frames, _ = await poll(client, url, after=after)
        assert done_of(frames) == expected
        assert done_of(await lines(client, url, after=after)) == expected
    frames, beside = await poll(client, url, after="start", limit=3)
    assert done_of(frames) == [0, 1, 2]
    assert done_of((await poll(client, url, after=beside["next"]))[0]) == [3]


async def test_a_poll_waits_for_a_change_and_says_when_the_task_has_ended(client: httpx.AsyncClient) -> None:
    task = await create(client)
    url = f"{of(task)}/events"
    async with asyncio.timeout(ANSWER_SECONDS):
        assert len((await poll(client, url, wait=30))[0]) == 1  # there is something to say at once
        _, beside = await poll(client, url)
        waiting = asyncio.create_task(poll(client, url, wait=30, after=beside["next"]))
        await create(client)
        assert not waiting.done()
        await progress(client, task["id"], 1)
        frames, beside = await waiting
        assert (done_of(frames), beside["ended"]) == ([1], None)
        waiting = asyncio.create_task(poll(client, url, wait=30, after=beside["next"]))
        await patch(client, task["id"], status="failed")
        frames, beside = await waiting
        assert ([frame.event["status"] for frame in frames], beside["ended"]) == (["failed"], "failed")
        frames, beside = await poll(client, url, wait=30, after=beside["next"])
        assert (frames, beside["ended"]) == ([], "failed")
        frames, beside = await poll(client, url)
        assert ([frame.event["status"] for frame in frames], beside["ended"]) == (["failed"], "failed")


async def test_a_poll_from_where_continuity_cannot_be_proved_is_410_or_a_reset_and_the_present_state(
    client: httpx.AsyncClient,
) -> None:
    task = await create(client)
    newest = await progress(client, task["id"], 1)
    other = await create(client)
    epoch, head = await as_of(client)
    for url in (f"{of(task)}/events", f"{TASKS}/events"):
        for requested, reason in (("zzzzzz-1", "epoch_changed"), (f"{epoch}-{head + 9}", "unknown_position")):
            problem = problem_of(await client.get(url, params={"after": requested}), 410)
            assert (problem["reason"], problem["requested"], problem["head"]) == (reason, requested, head)
            frames, beside = await poll(client, url, after=requested, on_reset="reset")
            assert (frames[0].type, frames[0].event["reason"]) == ("reset", reason)
            states = {frame.event["task_id"]: frame.id for frame in frames[1:]}
            assert states[task["id"]] == newest["last_position"]
            assert (other["id"] in states) == (url == f"{TASKS}/events")
            assert beside["next"] == f"{epoch}-{head}"
            of_lines = await lines(client, url, after=requested, on_reset="reset")
            assert of_lines[:-1] == frames
            assert (of_lines[-1].type, of_lines[-1].id) == ("bookmark", f"{epoch}-{head}")


# ── slow readers ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_reader_that_reads_slowly_gets_the_newest_and_little_before_it(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    task = await create(client)
    count = 40
    async with stalling(tailrace.server, f"{of(task)}/stream?interval=0.1") as slow:
        await slow.until(lambda message: message.event == "live")
        for done in range(1, count + 1):
            body = {"progress": {"done": done}, "result": "x" * 200_000}
            (await client.patch(of(task), json=body)).raise_for_status()
        await patch(client, task["id"], status="succeeded")
        frames = [frame_of(message) for message in await slow.until(lambda message: message.event == "stream_end")]
    came = done_of(frames)
    assert came == sorted(came)
    assert len(came) < count / 2
    assert is_terminal(snapshots(frames)[-1].event)
    assert came[-1] == count


async def test_a_reader_that_takes_nothing_is_closed_and_comes_back_to_the_newest(database_url: str) -> None:
    async with (
        running(database_url, slow_reader_seconds=0.5, tasks_stream_interval_seconds=0.1) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as client,
    ):
        task = await create(client)
        async with stalling(server, f"{of(task)}/stream") as frozen:
            (*_, live) = await frozen.until(lambda message: message.event == "live")
            async with asyncio.timeout(ANSWER_SECONDS):
                for done in itertools.count(1):
                    body = {"progress": {"done": done}, "result": "x" * 200_000}
                    newest = (await client.patch(of(task), json=body)).raise_for_status().json()
                    if await metric(client, "tailrace_stream_ends_total", reason="slow_reader"):
                        break
        async with stream(server.url, "sse", of(task), after=live.id) as opened:
            assert (await present(opened)).id == newest["last_position"]


# ── several processes ──────────────────────────────────────────────────────────────────────────────────────────


async def test_what_happens_in_one_process_is_told_in_the_other(postgres_url: str) -> None:
    async with (
        fresh_database(postgres_url) as url,
        running(url, tasks_stream_interval_seconds=INTERVAL) as one,
        running(url, tasks_stream_interval_seconds=INTERVAL) as two,
        httpx.AsyncClient(base_url=one.url, timeout=30) as here,
    ):
        for transport in TRANSPORTS:
            ending, deleted, moved = [await create(here) for _ in range(3)]
            async with (
                stream(two.url, transport, of(ending)) as to_end,
                stream(two.url, transport, of(deleted)) as to_go,
                stream(two.url, transport, of(moved)) as to_move,
                stream(two.url, transport, TASKS) as board,
            ):
                for opened in (to_end, to_go, to_move):
                    await present(opened)
                await board.until_type("live")
                await progress(here, ending["id"], 1)
                assert done_of(await to_end.until_type("snapshot")) == [1]
                ended = await patch(here, ending["id"], status="succeeded")
                rest = await to_end.rest()
                assert shown(snapshots(rest)[-1].event) == shown(ended)
                await here.delete(of(deleted))
                await revoked(to_go, transport, deleted["last_position"])
                assert (await board.until_type("deleted"))[-1].event["task_id"] == deleted["id"]
                async with sql(url) as database:
                    await database.execute(TAKEN_AWAY["moved to another tenant"], moved["id"])
                await revoked(to_move, transport, moved["last_position"])


# ── one look for all ───────────────────────────────────────────────────────────────────────────────────────────


async def checks_of(client: httpx.AsyncClient) -> int:
    """How often the tasks service has looked whether what it streams may still be seen."""
    return int(await metric(client, "tailrace_visibility_checks_total", service="tasks"))


@asynccontextmanager
async def many_readers(server: Server, paths: list[str]) -> AsyncIterator[None]:
    """A plain connection for each, which has read on to `live`."""

    async def open_one(path: str) -> asyncio.StreamWriter:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(f"GET {path}/stream HTTP/1.1\r\nhost: 127.0.0.1:{server.port}\r\n\r\n".encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        await reader.readuntil(b"event: live")
        return writer

    writers: list[asyncio.StreamWriter] = []
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            writers += [await open_one(path) for path in paths]
        yield
    finally:
        for writer in writers:
            writer.transport.abort()


READERS = 300


@pytest.mark.parametrize("of_what", ["of one task", "of as many tasks"])
async def test_any_number_of_readers_costs_one_look_per_interval(
    own_postgres: OwnPostgres, postgres_directory: Path, of_what: str
) -> None:
    directory = postgres_directory / f"looked-at-{of_what.replace(' ', '-')}"
    url = await own_postgres(settings={**FAST, "log_statement": "all"}, directory=directory).start()
    async with (
        running(url, tasks_stream_interval_seconds=INTERVAL, heartbeat_seconds=0.3) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as client,
        sql(url) as database,
    ):
        tasks = await create_many(client, 1 if of_what == "of one task" else READERS)
        paths = [of(tasks[number % len(tasks)]) for number in range(READERS)]
        loop, log = asyncio.get_running_loop(), directory / "postgres.log"
        async with many_readers(server, paths):
            began, first, size = loop.time(), await checks_of(client), log.stat().st_size
            while (checks := await checks_of(client)) < first + 10:  # nothing changes all the while
                assert loop.time() - began < ANSWER_SECONDS
            said = log.read_bytes()[size:].decode()
            elapsed = loop.time() - began
            assert checks - first <= elapsed / (INTERVAL - 0.001) + 1
            assert abs(said.count(" AS w (tenant, id, owner)") - (checks - first)) <= 1
            assert len(re.findall(r"LOG:  (?:execute|statement)", said)) < 20 * elapsed / INTERVAL  # of all sorts
            # all of them are really looked after
            await database.execute("UPDATE tasks.tasks SET tenant = 'other'")
            async with asyncio.timeout(ANSWER_SECONDS):
                while await metric(client, "tailrace_stream_ends_total", reason="access_revoked") < READERS:
                    pass
        # without readers nobody looks
        async with stream(server.url, "tailrace.v1", TASKS) as board:
            await board.until_type("live")
            before = await checks_of(client)
            for _ in range(3):
                await board.until_type("bookmark")
        assert await checks_of(client) <= before + 1
