"""Server-sent events, clause by clause: DESIGN.md 4.1 and 4.2."""

import asyncio
import itertools
import json
from collections.abc import Callable
from typing import Any

import httpx
import httpx_sse
import msgspec
import pytest

from services.runs.events import SCHEMA
from shared.channel.channel import Channel
from shared.channel.fanout import READERS_PER_STEP
from shared.channel.postgres import Database, PostgresEventLog
from shared.edge.admission import Subscription
from shared.edge.delivery import Delivery
from shared.edge.settings import Settings
from shared.edge.sinks import SseSink
from shared.edge.streams import Streams
from shared.protocol.ends import EndReason
from shared.protocol.filter import Filter
from shared.protocol.position import Anchor
from shared.protocol.record import Draft
from tests.support.contract import (
    ANSWER_SECONDS,
    IMPOSSIBLE_RUN,
    NO_SUCH_RUN,
    RUNS,
    Frame,
    Served,
    ended_run,
    events_of,
    finish,
    head_of,
    problem_of,
    read_to_end,
    read_until,
    read_until_live,
    socket,
    sql,
    stored,
    types_of,
)
from tests.support.postgres import fresh_database
from tests.support.server import SseStream, append, lease, running, sse

SETTINGS = {"heartbeat_seconds": 0.3}

ALL_OF_A_RUN = ["status", "status", "node_update", "node_update", "node_update", "status"]  # see ended_run


# ── how a stream opens ─────────────────────────────────────────────────────────────────────────────────────────


async def test_a_stream_has_the_headers_that_keep_proxies_from_holding_it_back(client: httpx.AsyncClient) -> None:
    async with client.stream("GET", f"{RUNS}/stream") as response:
        assert response.status_code == 200
        assert response.headers["content-type"].partition(";")[0] == "text/event-stream"
        assert response.headers["cache-control"] == "no-cache, no-transform"
        assert response.headers["x-accel-buffering"] == "no"
        assert response.headers["x-request-id"]
        assert "content-length" not in response.headers


async def test_the_first_bytes_are_a_comment_and_a_retry_time_with_jitter(client: httpx.AsyncClient) -> None:
    times = []
    for _ in range(5):
        async with client.stream("GET", f"{RUNS}/stream") as response:
            lines = response.aiter_lines()
            assert await anext(lines) == ": open"
            name, _, value = (await anext(lines)).partition(": ")
            assert name == "retry"
            times.append(int(value))
            assert (await anext(lines)).startswith("id: ")  # no blank line, which would be an empty event to some
    assert all(1_000 <= time <= 3_000 for time in times)
    assert len(set(times)) > 1


async def test_the_first_line_leaves_before_any_history_is_read(client: httpx.AsyncClient, tailrace: Served) -> None:
    run_id, token = await lease(client)
    async with sql(tailrace.database_url) as database:
        transaction = database.transaction()
        await transaction.start()
        await database.execute("LOCK TABLE runs.events IN ACCESS EXCLUSIVE MODE")  # nobody reads history now
        async with sse(client, f"{RUNS}/{run_id}/stream") as stream:
            async with asyncio.timeout(ANSWER_SECONDS):
                assert Frame.of_sse(await anext(stream)).type == "hello"
            assert stream.decoder.retry is not None
            await transaction.rollback()
            await finish(client, run_id, token)
            frames = await read_until(stream, lambda frame: frame.type == "stream_end")
    assert types_of(stored(frames)) == ["status"] * 3


async def test_hello_says_where_the_stream_starts_and_what_it_carries(client: httpx.AsyncClient) -> None:
    run_id = await ended_run(client)
    epoch, head = await head_of(client)
    frames = await read_to_end(client, f"{RUNS}/{run_id}/stream?types=status,node_*")
    hello = frames[0].event
    assert hello.pop("server").startswith("tailrace/")
    assert hello == {
        "type": "hello",
        "epoch": epoch,
        "head": head,
        "oldest": 1,
        "after": 0,
        "resumed": False,
        "heartbeat_seconds": 0.3,
        "filter": {"subjects": [f"run/{run_id}"], "types": ["node_*", "status"]},
    }


async def test_a_client_cut_off_after_hello_resumes_with_its_id(client: httpx.AsyncClient) -> None:
    run_id = await ended_run(client)
    async with sse(client, f"{RUNS}/{run_id}/stream") as stream:
        hello = Frame.of_sse(await anext(stream))
    frames = await read_to_end(client, f"{RUNS}/{run_id}/stream", headers={"last-event-id": str(hello.id)})
    assert types_of(stored(frames)) == ALL_OF_A_RUN
    assert frames[0].event["resumed"] is True


@pytest.mark.parametrize("replayed", [0, 3])
async def test_live_comes_exactly_once_and_counts_the_history_before_it(
    client: httpx.AsyncClient, replayed: int
) -> None:
    run_id, token = await lease(client)
    epoch, head = await head_of(client)
    (await append(client, run_id, token, 3)).raise_for_status()
    async with sse(client, f"{RUNS}/{run_id}/stream?after={epoch}-{head + 3 - replayed}") as stream:
        before = await read_until_live(stream)
        assert types_of(before) == ["hello", *["node_update"] * replayed, "live"]
        assert before[-1].event == {"type": "live", "replayed": replayed}
        (await append(client, run_id, token, 3)).raise_for_status()
        await finish(client, run_id, token)
        after = await read_until(stream, lambda frame: frame.type == "stream_end")
    assert "live" not in types_of(after)


async def test_every_frame_has_an_id_that_grows(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client)
    async with sse(client, f"{RUNS}/{run_id}/stream") as stream:
        frames = await read_until_live(stream)
        await _append_elsewhere(client)
        frames += await read_until(stream, lambda frame: frame.type == "bookmark")
        await append(client, run_id, token, 3)
        await finish(client, run_id, token)
        frames += [Frame.of_sse(message) async for message in stream]
    epoch = frames[0].event["epoch"]
    assert all(frame.id == f"{epoch}-{frame.seq}" for frame in frames)
    assert [frame.seq for frame in frames] == sorted(frame.seq for frame in frames)
    assert len({frame.seq for frame in stored(frames)}) == len(stored(frames)) == 6
    assert frames[-1].event["last_id"] == frames[-1].id == stored(frames)[-1].id


async def _append_elsewhere(client: httpx.AsyncClient) -> int:
    """Events of a run nobody here watches; the head after them."""
    await ended_run(client, 1)
    return (await head_of(client))[1]


async def test_data_is_the_events_own_flat_json(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client)
    fields = {"type": "node_update", "node": "writer", "tokens_out": 7, "snippet": "grün \n☃ \u2028 end"}
    body = {"events": [fields]}
    (await client.post(f"{RUNS}/{run_id}/events", json=body, headers={"tailrace-lease": token})).raise_for_status()
    await finish(client, run_id, token)
    frames = stored(await read_to_end(client, f"{RUNS}/{run_id}/stream"))
    update = frames[2].event
    assert update.pop("ts").endswith("Z")
    assert update == {"tenant": "default", "run_id": run_id, **fields}
    assert all(frame.event["tenant"] == "default" and frame.event["run_id"] == run_id for frame in frames)


# ── while nothing happens ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_heartbeat_is_a_bare_comment_line_without_a_blank_one(client: httpx.AsyncClient) -> None:
    run_id, _ = await lease(client)
    seen = b""
    async with client.stream("GET", f"{RUNS}/{run_id}/stream") as response, asyncio.timeout(ANSWER_SECONDS):
        async for chunk in response.aiter_raw():
            seen += chunk
            if seen.count(b"\n:\n") >= 1 and seen.endswith(b":\n:\n"):
                break
    assert b"\n\n:\n:\n" in seen  # after an event's blank line nothing but comments
    assert b":\n\n" not in seen


async def test_a_heartbeat_is_a_bookmark_where_the_filter_hid_newer_events(client: httpx.AsyncClient) -> None:
    run_id, _ = await lease(client)
    async with sse(client, f"{RUNS}/{run_id}/stream") as stream:
        await read_until_live(stream)
        head = await _append_elsewhere(client)
        seen = await read_until(stream, lambda frame: frame.type == "bookmark" and frame.seq >= head)
        assert set(types_of(seen)) == {"bookmark"}
        assert seen[-1].event == {"type": "bookmark"}
        # and it is a position to resume at
    async with sse(client, f"{RUNS}/{run_id}/stream", headers={"last-event-id": str(seen[-1].id)}) as stream:
        assert types_of(await read_until_live(stream)) == ["hello", "live"]


async def test_httpx_sse_reads_a_stream_with_heartbeats_and_bookmarks_without_phantom_events(
    client: httpx.AsyncClient,
) -> None:
    run_id, token = await lease(client)
    seen: list[tuple[str, str, str]] = []
    async with (
        asyncio.timeout(ANSWER_SECONDS),
        httpx_sse.aconnect_sse(client, "GET", f"{RUNS}/{run_id}/stream") as source,
    ):
        async for event in source.aiter_sse():
            seen.append((event.event, event.data, event.id))
            if event.event == "live":
                await _heartbeats(client, run_id)
                await _append_elsewhere(client)
            elif event.event == "bookmark":
                await append(client, run_id, token, 2)
                await finish(client, run_id, token)
    # bookmarks tell of the other run: how many come is a matter of when the heart beats
    names = [name for name, _ in itertools.groupby(name for name, _, _ in seen)]
    assert names == ["hello", "status", "live", "bookmark", "node_update", "status", "stream_end"]
    assert all(json.loads(data)["type"] == name and id for name, data, id in seen)


async def _heartbeats(client: httpx.AsyncClient, run_id: str) -> None:
    """Return when a stream that was opened now has had two."""
    beats = 0
    async with client.stream("GET", f"{RUNS}/{run_id}/stream") as response, asyncio.timeout(ANSWER_SECONDS):
        async for line in response.aiter_lines():
            beats += line == ":"
            if beats == 2:
                return


# ── types ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("types=status", {"status"}),
        ("types=node_update", {"node_update"}),
        ("types=node_*", {"node_update"}),
        ("types=*", {"node_update", "status"}),
        ("types=*r*", {"error"}),
        ("types=status,node_update", {"node_update", "status"}),
        ("types=status&types=error", {"error", "status"}),
    ],
)
async def test_types_choose_events_by_name_or_glob(client: httpx.AsyncClient, query: str, shown: set[str]) -> None:
    run_id, token = await lease(client)
    body = {"events": [{"type": "error", "fatal": False, "code": "c", "message": "m"}]}
    async with sse(client, f"{RUNS}/{run_id}/stream?{query}") as stream:
        await append(client, run_id, token, 2)
        if "error" in shown:
            await client.post(f"{RUNS}/{run_id}/events", json=body, headers={"tailrace-lease": token})
        await finish(client, run_id, token)
        frames = await read_until(stream, lambda frame: frame.type == "stream_end")
    assert {frame.type for frame in stored(frames)} == shown


@pytest.mark.parametrize("types", ["bogus", "status,bogus", "bog*", "status%3B", "STATUS", "[a-z]*", "hello"])
async def test_a_type_that_does_not_exist_is_400_and_the_answer_lists_those_that_do(
    client: httpx.AsyncClient, types: str
) -> None:
    run_id = await ended_run(client, 0)
    for url in (f"{RUNS}/{run_id}/stream", f"{RUNS}/stream", f"{RUNS}/{run_id}/events", f"{RUNS}/events"):
        detail = problem_of(await client.get(f"{url}?types={types}"), 400)["detail"]
        assert all(name in detail for name in ("error", "node_update", "status"))


async def test_types_without_a_name_is_400(client: httpx.AsyncClient) -> None:
    for query in ("types=", "types=,"):
        assert "types" in problem_of(await client.get(f"{RUNS}/stream?{query}"), 400)["detail"]


# ── the end ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "timed_out"])
async def test_a_stream_ends_with_its_run_and_says_do_not_come_back(client: httpx.AsyncClient, status: str) -> None:
    run_id, token = await lease(client)
    async with sse(client, f"{RUNS}/{run_id}/stream") as stream:
        await read_until_live(stream)
        (await finish(client, run_id, token, status)).raise_for_status()
        last = [Frame.of_sse(message) async for message in stream]
    assert types_of([f for f in last if f.type != "bookmark"]) == ["status", "stream_end"]
    end = last[-1].event
    assert end == {
        "type": "stream_end",
        "status": status,
        "reason": "terminal",
        "final": True,
        "last_id": last[-2].id,
        "retry_after_ms": None,
    }


async def test_a_stream_of_an_ended_run_is_its_history_then_live_then_the_end(client: httpx.AsyncClient) -> None:
    run_id = await ended_run(client)
    frames = await read_to_end(client, f"{RUNS}/{run_id}/stream")
    assert types_of(frames) == ["hello", *ALL_OF_A_RUN, "live", "stream_end"]
    assert frames[-2].event["replayed"] == 6


async def test_stream_end_comes_also_when_types_hide_the_terminal_status(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client)
    async with sse(client, f"{RUNS}/{run_id}/stream?types=node_update") as stream:
        await read_until_live(stream)
        await append(client, run_id, token)
        await finish(client, run_id, token, "failed", error="no")
        frames = [Frame.of_sse(message) async for message in stream]
    assert types_of([f for f in frames if f.type != "bookmark"]) == ["node_update", "stream_end"]
    assert frames[-1].event["status"] == "failed"
    replayed = await read_to_end(client, f"{RUNS}/{run_id}/stream?types=node_update")
    assert types_of(replayed) == ["hello", "node_update", "live", "stream_end"]
    assert replayed[-1].event["status"] == "failed"


async def test_who_comes_back_after_the_end_with_nothing_to_get_has_204(client: httpx.AsyncClient) -> None:
    run_id = await ended_run(client)
    ids = [frame.id for frame in await events_of(client, run_id)]
    url = f"{RUNS}/{run_id}/stream"
    answers = [
        await client.get(url, headers={"last-event-id": str(ids[-1])}),
        await client.get(url, params={"after": ids[-1]}),
        await client.get(url, params={"after": "now"}),
        await client.get(url, params={"types": "error"}),
        await client.get(url, params={"after": ids[-2], "types": "node_update"}),
        await client.get(url, headers={"last-event-id": (await read_to_end(client, url))[-1].id or ""}),
    ]
    assert [(answer.status_code, answer.content) for answer in answers] == [(204, b"")] * 6


async def test_who_comes_back_after_the_end_with_the_end_unseen_gets_it(client: httpx.AsyncClient) -> None:
    run_id = await ended_run(client)
    ids = [frame.id for frame in await events_of(client, run_id)]
    frames = await read_to_end(client, f"{RUNS}/{run_id}/stream", headers={"last-event-id": str(ids[-2])})
    assert types_of(frames) == ["hello", "status", "live", "stream_end"]


async def test_a_stream_that_lasts_too_long_ends_with_max_duration_and_goes_on_elsewhere(database_url: str) -> None:
    settings = {"stream_max_seconds": 0.3, "heartbeat_seconds": 0.3, "retry_milliseconds": 1000}
    async with running(database_url, **settings) as server, httpx.AsyncClient(base_url=server.url) as client:
        run_id, token = await lease(client)
        first = await read_to_end(client, f"{RUNS}/{run_id}/stream")
        end = first[-1].event
        assert (end["reason"], end["final"], end["status"]) == ("max_duration", False, None)
        assert 500 <= end["retry_after_ms"] <= 1500
        await append(client, run_id, token, 2)
        await finish(client, run_id, token)
        second = await read_to_end(client, f"{RUNS}/{run_id}/stream", headers={"last-event-id": end["last_id"]})
        async with socket(server.url.replace("http", "ws", 1) + f"{RUNS}/stream") as feed:
            seen = await feed.until_type("stream_end")
            assert seen[-1].event["reason"] == "max_duration"
            assert await feed.close_code() == 1012
    assert types_of(stored(first) + stored(second)) == ["status", "status", "node_update", "node_update", "status"]


# ── where a stream begins ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_runs_stream_begins_at_the_start_unless_told(client: httpx.AsyncClient) -> None:
    run_id = await ended_run(client)
    everything = await events_of(client, run_id)
    assert stored(await read_to_end(client, f"{RUNS}/{run_id}/stream")) == everything
    assert stored(await read_to_end(client, f"{RUNS}/{run_id}/stream?after=start")) == everything


async def test_the_feed_begins_now_unless_told(client: httpx.AsyncClient) -> None:
    _, head = await head_of(client)
    run_id, token = await lease(client)
    async with sse(client, f"{RUNS}/stream") as stream, sse(client, f"{RUNS}/stream?after=now") as same:
        for opened in (stream, same):
            frames = await read_until_live(opened)
            assert types_of(frames) == ["hello", "live"]
            assert frames[0].event["after"] == frames[0].event["head"] == frames[0].seq
        await finish(client, run_id, token)
        seen = await read_until(stream, lambda frame: frame.type == "status")
        assert seen[-1].event["status"] == "completed"
    async with sse(client, f"{RUNS}/stream?after=start") as stream:
        history = stored(await read_until_live(stream))
    assert [frame.seq for frame in history] == list(range(1, history[-1].seq + 1))
    assert history[-1].seq > head


async def test_a_stream_cut_after_any_frame_resumes_without_loss_or_repetition(client: httpx.AsyncClient) -> None:
    run_id = await ended_run(client)
    frames = await read_to_end(client, f"{RUNS}/{run_id}/stream")
    for cut, frame in enumerate(frames[:-3], start=1):
        for how in ({"headers": {"last-event-id": frame.id}}, {"params": {"after": frame.id}}):
            rest = await read_to_end(client, f"{RUNS}/{run_id}/stream", **how)
            assert stored(rest) == stored(frames[cut:])
            assert rest[0].event["resumed"] is True
            assert rest[0].id == frame.id


async def test_the_header_wins_over_after(client: httpx.AsyncClient) -> None:
    run_id = await ended_run(client)
    everything = await events_of(client, run_id)
    headers = {"last-event-id": str(everything[2].id)}
    for after in ("start", "now", everything[4].id):
        frames = await read_to_end(client, f"{RUNS}/{run_id}/stream?after={after}", headers=headers)
        assert stored(frames) == everything[3:]


async def test_a_malformed_header_starts_over_and_a_malformed_after_is_400(client: httpx.AsyncClient) -> None:
    run_id = await ended_run(client)
    epoch, head = await head_of(client)
    frames = await read_to_end(client, f"{RUNS}/{run_id}/stream", headers={"last-event-id": "yesterday"})
    assert types_of(frames) == ["hello", "reset", *ALL_OF_A_RUN, "live", "stream_end"]
    assert frames[1].event == {
        "type": "reset",
        "reason": "unknown_position",
        "requested": "yesterday",
        "oldest": 1,
        "head": head,
    }
    assert frames[0].event["resumed"] is False
    detail = problem_of(await client.get(f"{RUNS}/{run_id}/stream?after=yesterday"), 400)["detail"]
    assert all(part in detail for part in ("yesterday", "start", "now", "<epoch>-<seq>"))
    # the header wins, so `after` goes unread beside it
    headers = {"last-event-id": f"{epoch}-0"}
    assert stored(await read_to_end(client, f"{RUNS}/{run_id}/stream", headers=headers)) == stored(frames)


async def test_on_reset_error_answers_410_with_what_is_needed_to_start_over(client: httpx.AsyncClient) -> None:
    run_id = await ended_run(client)
    epoch, head = await head_of(client)
    for url in (f"{RUNS}/{run_id}/stream", f"{RUNS}/stream"):
        for requested, reason in (("zzzzzz-1", "epoch_changed"), ("yesterday", "unknown_position")):
            answer = await client.get(f"{url}?on_reset=error", headers={"last-event-id": requested})
            problem = problem_of(answer, 410)
            assert problem["reason"] == reason
            assert problem["requested"] == requested
            assert (problem["epoch"], problem["oldest"], problem["head"]) == (epoch, 1, head)
    fine = await read_to_end(client, f"{RUNS}/{run_id}/stream?on_reset=error")
    assert "reset" not in types_of(fine)


# ── several runs on one stream ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("form", ["run={0}&run={1}", "run={0},{1}"])
async def test_the_feed_carries_only_the_runs_it_was_asked_for_and_outlives_them(
    client: httpx.AsyncClient, form: str
) -> None:
    one, other = await ended_run(client), await ended_run(client, 1)
    last, token = await lease(client)
    query = form.format(one, last) + f"&run={other}"
    async with sse(client, f"{RUNS}/stream?{query}&after=start") as stream:
        history = stored(await read_until_live(stream))
        assert [f.event["run_id"] for f in history] == [one] * 6 + [other] * 4 + [last] * 2
        await _append_elsewhere(client)
        await finish(client, last, token)
        seen = await read_until(stream, lambda frame: frame.type == "status")
        assert seen[-1].event["status"] == "completed"
        assert {f.type for f in seen[:-1]} <= {"bookmark"}
        await _append_elsewhere(client)
        assert types_of(await read_until(stream, lambda frame: not frame.is_stored)) == ["bookmark"]  # it goes on


async def test_a_feed_of_one_run_outlives_it_too(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client)
    async with sse(client, f"{RUNS}/stream?run={run_id}") as stream:
        await read_until_live(stream)
        await finish(client, run_id, token)
        await read_until(stream, lambda frame: frame.type == "status")
        await _append_elsewhere(client)
        seen = await read_until(stream, lambda frame: frame.type in ("bookmark", "stream_end"))
    assert types_of(seen) == ["bookmark"]


@pytest.mark.parametrize("suffix", ["stream", "events"])
async def test_an_unknown_run_is_404_in_the_same_words_as_an_impossible_one(
    client: httpx.AsyncClient, suffix: str
) -> None:
    details = {
        problem_of(await client.get(f"{RUNS}/{run_id}/{suffix}"), 404)["detail"]
        for run_id in (NO_SUCH_RUN, IMPOSSIBLE_RUN, "task_01jzzzzzzzzzzzzzzzzzzzzzzz", "run_%00", "%F0%9F%90%99")
    }
    assert len(details) == 1
    known = await ended_run(client, 0)
    words = {
        problem_of(await client.get(f"{RUNS}/{suffix}?run={known}&run={run_id}"), 404)["detail"].replace(run_id, "…")
        for run_id in (NO_SUCH_RUN, IMPOSSIBLE_RUN)
    }
    assert len(words) == 1


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("run=", "run"),
        ("from=start", "'from'"),
        ("lossless=maybe", "lossless"),
        ("on_reset=explode", "on_reset"),
        ("limit=3", "'limit'"),
        ("run=" + "&run=".join(f"run_{n:026d}" for n in range(201)), "200"),
    ],
)
async def test_a_parameter_that_makes_no_sense_is_400_and_named(
    client: httpx.AsyncClient, query: str, named: str
) -> None:
    assert named in problem_of(await client.get(f"{RUNS}/stream?{query}"), 400)["detail"]


# ── many at once ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_readers_that_come_at_any_moment_of_a_busy_run_see_every_event_once_and_in_order(
    client: httpx.AsyncClient,
) -> None:
    run_id, token = await lease(client)

    async def read(delay_steps: int) -> list[Frame]:
        for _ in range(delay_steps):
            await client.get("/health")  # other moments, without a clock
        return await read_to_end(client, f"{RUNS}/{run_id}/stream")

    async with asyncio.TaskGroup() as group:
        readers = [group.create_task(read(step * 2)) for step in range(12)]
        for count in (1, 7, 1, 30, 2) * 6:
            (await append(client, run_id, token, count)).raise_for_status()
        (await finish(client, run_id, token)).raise_for_status()
    expected = await events_of(client, run_id)
    assert len(expected) == 2 + 41 * 6 + 1
    for reader in readers:
        assert stored(reader.result()) == expected
        assert types_of(reader.result()).count("live") == 1


class Memory:
    """A connection that takes everything at once, and keeps it."""

    is_open = is_writable = True
    pending_bytes = 0

    def __init__(self) -> None:
        self.on_lost: Callable[[], object] | None = None
        self.on_full: Callable[[], object] | None = None
        self.written = b""

    def write(self, wire: bytes) -> None:
        self.written += wire

    def send_now(self, wire: bytes) -> int:
        self.write(wire)
        return len(wire)

    async def drain(self) -> None:
        return

    def abort(self) -> None:
        self.is_open = self.is_writable = False

    def close(self) -> None:
        self.abort()


async def test_a_heartbeat_never_jumps_over_an_event_that_is_on_its_way(database_url: str) -> None:
    # In this process, for the moment between the first reader that is served and the last.
    database = Database(database_url)
    await database.start()
    channel = Channel(PostgresEventLog(database, "runs"), SCHEMA)
    await channel.start()
    streams, ticked = Streams(Settings()), asyncio.get_running_loop().time() + 60
    subscription = Subscription(channel, Filter(tenant="t"), Anchor.NOW, channel.state, "/events")
    connections = [Memory() for _ in range(READERS_PER_STEP * 3)]
    deliveries = [
        Delivery(subscription, SseSink(None), connection, streams, say=lambda message: asyncio.sleep(0))
        for connection in connections
    ]
    draft = Draft(type="status", tenant="t", subject="run/x", data=b'{"type":"status"}')
    async with asyncio.timeout(ANSWER_SECONDS):
        for delivery in deliveries:
            delivery.open()
        while not all(b"event: live" in connection.written for connection in connections):
            await channel.ask()
        await channel.publish([draft])
        served = [b"event: status" in connection.written for connection in connections]
        assert any(served)
        assert not all(served)  # or this test does not test what it is for
        for delivery in deliveries:
            delivery.beat(ticked)
        while not all(b"event: bookmark" in connection.written for connection in connections):
            for delivery in deliveries:
                delivery.beat(ticked)
            await channel.publish([msgspec.structs.replace(draft, tenant="other")])
    for connection, delivery in zip(connections, deliveries, strict=True):
        assert connection.written.count(b"event: status") == 1
        await delivery.close()
    await channel.close()
    await database.close()


class Stalled(Memory):
    """The same, but after `stall` only when there is room again."""

    def __init__(self) -> None:
        super().__init__()
        self.waited_for, self.room = asyncio.Event(), asyncio.Event()

    def stall(self) -> None:
        self.is_writable = False
        if self.on_full is not None:
            self.on_full()

    async def drain(self) -> None:
        self.waited_for.set()
        await self.room.wait()
        self.is_writable = True


@pytest.mark.parametrize("reason", [EndReason.TOKEN_EXPIRED, EndReason.ACCESS_REVOKED])
async def test_what_waits_for_room_does_not_leave_after_the_token_though_the_stream_was_ending(
    database_url: str, reason: EndReason
) -> None:
    database = Database(database_url)
    await database.start()
    channel = Channel(PostgresEventLog(database, "runs"), SCHEMA)
    await channel.start()
    subscription = Subscription(channel, Filter(tenant="t"), Anchor.NOW, channel.state, "/events")
    connection, over = Stalled(), asyncio.Event()
    delivery = Delivery(
        subscription,
        SseSink(None),
        connection,
        Streams(Settings()),
        say=lambda message: asyncio.sleep(0),
        on_end=over.set,
    )
    async with asyncio.timeout(ANSWER_SECONDS):
        delivery.open()
        while b"event: live" not in connection.written:
            await channel.ask()
        connection.stall()
        await channel.publish([Draft(type="status", tenant="t", subject="run/x", data=b'{"type":"status"}')])
        await connection.waited_for.wait()
        delivery.finish(EndReason.MAX_DURATION)
        delivery.finish(reason)
        connection.room.set()
        await over.wait()
    assert b"event: status" not in connection.written
    assert f'"reason":"{reason.label}"'.encode() in connection.written
    await channel.close()
    await database.close()


async def test_more_streams_than_allowed_are_refused_with_a_time_to_come_back(postgres_url: str) -> None:
    async def refused(status: int, **settings: Any) -> None:
        async with (
            fresh_database(postgres_url) as url,
            running(url, service="runs", **settings) as server,  # beside it, the tasks service would take the place
            httpx.AsyncClient(base_url=server.url) as client,
        ):
            async with sse(client, f"{RUNS}/stream") as stream:
                await read_until_live(stream)
                answer = await client.get(f"{RUNS}/stream")
                problem_of(answer, status)
                assert int(answer.headers["retry-after"]) > 0
            async with asyncio.timeout(ANSWER_SECONDS):  # the place is free as soon as its reader has gone
                while True:
                    async with client.stream("GET", f"{RUNS}/stream") as response:
                        if response.status_code == 200:
                            await read_until_live(SseStream(response))
                            return

    await asyncio.gather(refused(429, streams_per_tenant=1), refused(503, streams_per_process=1))
