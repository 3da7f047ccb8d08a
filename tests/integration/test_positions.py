"""Positions: continuity is proved, or the client is told; never a silent skip, a hang or a spin. DESIGN.md 4.2."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from tests.support.contract import (
    ANSWER_SECONDS,
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
from tests.support.server import Server, append, lease, running, sse

SETTINGS = {"heartbeat_seconds": 0.3, "retention_events": 0}

MALFORMED = {
    "a word": "yesterday",
    "no seq": "abc123-",
    "no epoch": "-12",
    "negative": "abc123--5",
    "twenty digits": "abc123-" + "9" * 20,
    "just over a bigint": f"abc123-{2**63}",
    "a leading zero": "abc123-007",
    "a fraction": "abc123-1.5",
    "an exponent": "abc123-1e3",
    "Arabic digits": "abc123-١٢٣",
    "fullwidth digits": "abc123-\uff11\uff12",
    "superscript": "abc123-²",
    "capitals": "ABC123-1",
    "the anchor in capitals": "START",
    "two positions": "abc123-1,abc123-2",
    "an epoch without end": "a" * 2_000 + "-1",
    "a space within": "abc123 -1",
    "only spaces": "  ",
    "SQL": "abc123-1; DROP TABLE runs.events",
}


@asynccontextmanager
async def responsive(client: httpx.AsyncClient) -> AsyncIterator[None]:
    """The process answers others all the while the block lasts: one that spins answers nobody."""

    async def ask() -> None:
        while True:
            async with asyncio.timeout(ANSWER_SECONDS):
                assert (await client.get("/health")).status_code == 200

    asking = asyncio.create_task(ask())
    try:
        yield
        async with asyncio.timeout(ANSWER_SECONDS):
            (await client.get("/health")).raise_for_status()
    finally:
        asking.cancel()
        (outcome,) = await asyncio.gather(asking, return_exceptions=True)
    assert isinstance(outcome, asyncio.CancelledError), outcome


async def begin_epoch(database_url: str, epoch: str, *, notify: bool = True) -> None:
    """What `tailrace epoch new` does."""
    async with sql(database_url) as database:
        await database.execute("UPDATE runs.log SET epoch = $1", epoch)
        if notify:
            await database.execute("SELECT pg_notify('tailrace_runs', '')")


async def trim(database_url: str, oldest: int) -> None:
    """What retention does: `oldest` first, then the events."""
    async with sql(database_url) as database:
        await database.execute("UPDATE runs.retained SET oldest = $1", oldest)
        await database.execute("DELETE FROM runs.events WHERE seq < $1", oldest)


async def _unprovable(client: httpx.AsyncClient) -> dict[str, str]:
    """Well-formed positions that cannot be continued, and the reason each should be answered with."""
    epoch, head = await head_of(client)
    return {
        "zzzzzz-1": "epoch_changed",
        f"zzzzzz-{head}": "epoch_changed",
        f"{epoch}-{head + 1_000}": "unknown_position",
        f"{epoch}-{2**63 - 1}": "unknown_position",
    }


# ── malformed ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_after_is_400_wherever_it_is_given(client: httpx.AsyncClient, text: str) -> None:
    run_id = await ended_run(client, 1)
    async with responsive(client):
        for url in (f"{RUNS}/{run_id}/stream", f"{RUNS}/stream", f"{RUNS}/{run_id}/events", f"{RUNS}/events"):
            detail = problem_of(await client.get(url, params={"after": text}), 400)["detail"]
            assert "<epoch>-<seq>" in detail
            assert len(detail) < 300


@pytest.mark.parametrize(
    "text", [text for text in MALFORMED.values() if text.strip()], ids=[n for n, t in MALFORMED.items() if t.strip()]
)
async def test_a_malformed_header_is_answered_with_a_reset_and_all_that_is_kept(
    client: httpx.AsyncClient, text: str
) -> None:
    run_id = await ended_run(client, 1)
    headers = [(b"last-event-id", text.encode())]
    async with responsive(client):
        frames = await read_to_end(client, f"{RUNS}/{run_id}/stream", headers=headers)
        assert types_of(frames[:2]) == ["hello", "reset"]
        assert frames[1].event["reason"] == "unknown_position"
        assert stored(frames) == await events_of(client, run_id)
        problem_of(await client.get(f"{RUNS}/{run_id}/events", headers=headers), 410)
        problem_of(await client.get(f"{RUNS}/{run_id}/stream?on_reset=error", headers=headers), 410)


async def test_an_empty_after_is_400_and_an_empty_header_is_none_at_all(client: httpx.AsyncClient) -> None:
    run_id = await ended_run(client, 1)
    problem_of(await client.get(f"{RUNS}/{run_id}/stream?after="), 400)
    frames = await read_to_end(client, f"{RUNS}/{run_id}/stream", headers={"last-event-id": ""})
    assert types_of(frames) == ["hello", "status", "status", "node_update", "status", "live", "stream_end"]


# ── well-formed, but not provable ──────────────────────────────────────────────────────────────────────────────


async def test_a_position_that_cannot_be_proved_is_reset_with_its_reason_on_every_transport(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    run_id = await ended_run(client, 1)
    kept = await events_of(client, run_id)
    epoch, head = await head_of(client)
    async with responsive(client):
        for requested, reason in (await _unprovable(client)).items():
            reset = {"type": "reset", "reason": reason, "requested": requested, "oldest": 1, "head": head}
            url = f"{RUNS}/{run_id}/stream"
            for options in ({"headers": {"last-event-id": requested}}, {"params": {"after": requested}}):
                frames = await read_to_end(client, url, **options)
                assert types_of(frames[:2]) == ["hello", "reset"]
                assert (frames[0].event["after"], frames[0].event["resumed"]) == (0, False)
                assert frames[1].event == reset
                assert frames[1].id == f"{epoch}-0"
                assert stored(frames) == kept
                assert types_of(frames[-2:]) == ["live", "stream_end"]
            async with socket(f"{tailrace.websocket_url}{url}?after={requested}") as opened:
                frames = await opened.until_type("stream_end")
                assert frames[1].event == reset
                assert stored(frames) == kept


async def test_polling_answers_410_or_a_reset_frame_first(client: httpx.AsyncClient) -> None:
    run_id = await ended_run(client, 1)
    kept = await events_of(client, run_id)
    for requested, reason in (await _unprovable(client)).items():
        url = f"{RUNS}/{run_id}/events"
        problem = problem_of(await client.get(url, params={"after": requested}), 410)
        assert (problem["reason"], problem["requested"]) == (reason, requested)
        answer = await client.get(url, params={"after": requested, "on_reset": "reset"})
        frames = [Frame.of_json(frame) for frame in answer.raise_for_status().json()["data"]]
        assert frames[0].type == "reset"
        assert frames[0].event["reason"] == reason
        assert frames[1:] == kept


async def test_the_feed_too_is_reset_and_gets_what_is_kept(client: httpx.AsyncClient) -> None:
    run_id = await ended_run(client, 1)
    async with sse(client, f"{RUNS}/stream?run={run_id}", headers={"last-event-id": "zzzzzz-3"}) as stream:
        frames = await read_until_live(stream)
    assert types_of(frames[:2]) == ["hello", "reset"]
    assert stored(frames) == await events_of(client, run_id)


async def test_the_head_itself_and_the_place_before_the_oldest_are_provable(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client)
    epoch, head = await head_of(client)
    for after in (f"{epoch}-{head}", f"{epoch}-0"):
        async with sse(client, f"{RUNS}/{run_id}/stream?after={after}") as stream:
            frames = await read_until_live(stream)
        assert "reset" not in types_of(frames)
        assert frames[0].event["resumed"] is True
    await finish(client, run_id, token)


async def test_a_position_ahead_of_what_this_process_has_heard_of_is_looked_up(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    run_id, _ = await lease(client)
    epoch, head = await head_of(client)
    async with sql(tailrace.database_url) as database:  # another process, whose news is not here yet
        async with database.transaction():
            await database.execute("UPDATE runs.log SET head = head + 1")
            await database.execute(
                """INSERT INTO runs.events (seq, tenant, subject, type, data)
                SELECT $1, tenant, subject, type, data FROM runs.events WHERE subject = $2 ORDER BY seq DESC LIMIT 1""",
                head + 1,
                f"run/{run_id}",
            )
        async with sse(client, f"{RUNS}/{run_id}/stream?after={epoch}-{head + 1}") as stream:
            frames = await read_until_live(stream)
    assert types_of(frames) == ["hello", "live"]
    assert (frames[0].event["resumed"], frames[0].event["after"]) == (True, head + 1)


# ── retention ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_position_before_what_is_kept_is_reset_with_history_trimmed(database_url: str) -> None:
    async with running(database_url) as server, httpx.AsyncClient(base_url=server.url) as client:
        run_id = await ended_run(client, 10)
        epoch, head = await head_of(client)
        oldest = head - 4
        await trim(database_url, oldest)
        url = f"{RUNS}/{run_id}/stream"
        for seq in (1, oldest - 2):
            frames = await read_to_end(client, url, headers={"last-event-id": f"{epoch}-{seq}"})
            assert types_of(frames[:2]) == ["hello", "reset"]
            assert frames[1].event["reason"] == "history_trimmed"
            assert (frames[1].event["oldest"], frames[1].event["head"]) == (oldest, head)
            assert [frame.seq for frame in stored(frames)] == list(range(oldest, head + 1))
            problem = problem_of(await client.get(f"{RUNS}/{run_id}/events?after={epoch}-{seq}"), 410)
            assert problem["reason"] == "history_trimmed"
        frames = await read_to_end(client, url, headers={"last-event-id": f"{epoch}-{oldest - 1}"})
        assert "reset" not in types_of(frames)
        frames = await read_to_end(client, url)
        assert "reset" not in types_of(frames)  # from the start is from what is kept
        assert frames[0].event["oldest"] == oldest
        detail = (await client.get(f"{RUNS}/{run_id}")).json()
        assert detail["events_trimmed"] is True
        assert len(detail["events"]) == head - oldest + 1
        # all of it, also the end: its stream is over
        await trim(database_url, head + 1)
        assert (await client.get(url)).status_code == 204
        assert (await client.get(f"{RUNS}/{run_id}")).json()["events"] == []


async def test_retention_by_count_trims_the_oldest_at_start_and_appends_go_on(database_url: str) -> None:
    server = Server(database_url, retention_events=5)
    try:
        await server.start()
        async with httpx.AsyncClient(base_url=server.url) as client:
            run_id = await ended_run(client, 20)
            epoch, head = await head_of(client)
        assert await server.end() == 0
        await server.start()
        async with httpx.AsyncClient(base_url=server.url) as client:
            async with asyncio.timeout(ANSWER_SECONDS):
                while True:
                    frames = await read_to_end(client, f"{RUNS}/{run_id}/stream")
                    if frames[0].event["oldest"] > 1:
                        break
            assert [frame.seq for frame in stored(frames)] == list(range(head - 4, head + 1))
            other = await ended_run(client, 1)
            assert [f.seq for f in await events_of(client, other)] == list(range(head + 1, head + 5))
            assert (await head_of(client))[0] == epoch
    finally:
        await server.kill()


# ── another epoch ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_new_epoch_resets_connected_readers_who_then_get_what_is_kept_and_go_on(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    run_id, token = await lease(client)
    await append(client, run_id, token, 2)
    other_id, other_token = await lease(client)
    url = f"{RUNS}/{run_id}/stream"
    async with (
        responsive(client),
        sse(client, url) as stream,
        sse(client, f"{RUNS}/stream?run={run_id}&run={other_id}") as feed,
        socket(f"{tailrace.websocket_url}{url}") as single,
        socket(f"{tailrace.websocket_url}{RUNS}/ws") as shared,
    ):
        before = await read_until_live(stream)
        await read_until_live(feed)
        await single.until_type("live")
        await shared.send({"op": "follow", "ref": "a", "channel": f"run/{run_id}"})
        await shared.until_type("live", "a")
        epoch, head = await head_of(client)
        await begin_epoch(tailrace.database_url, "fresh1")
        for read in (
            read_until(stream, lambda frame: frame.seq == head_seq(before)),
            single.until(lambda frame: frame.seq == head_seq(before)),
            shared.until(lambda frame: frame.seq == head_seq(before)),
        ):
            frames = [frame for frame in await read if frame.type != "bookmark"]
            assert frames[0].type == "reset"
            assert frames[0].event["reason"] == "epoch_changed"
            assert frames[0].event["requested"].startswith(f"{epoch}-")
            assert (frames[0].event["oldest"], frames[0].event["head"]) == (1, head)
            assert [frame.event for frame in frames[1:]] == [frame.event for frame in stored(before)]
            assert all(str(frame.id).startswith("fresh1-") for frame in frames)
        frames = await read_until(feed, lambda frame: frame.is_stored and frame.event["run_id"] == other_id)
        assert types_of([f for f in frames if f.type != "bookmark"])[0] == "reset"
        # and they go on live, without a second `live`
        await append(client, run_id, token, 1)
        await finish(client, run_id, token)
        await finish(client, other_id, other_token)
        for rest in (
            await read_until(stream, lambda frame: frame.type == "stream_end"),
            await single.until_type("stream_end"),
            await shared.until_type("stream_end", "a"),
        ):
            told = [frame for frame in rest if frame.type != "bookmark"]
            assert types_of(told) == ["node_update", "status", "stream_end"]
            assert told[-1].event["last_id"].startswith("fresh1-")


def head_seq(frames: list[Frame]) -> int:
    return stored(frames)[-1].seq


async def test_a_new_epoch_is_noticed_with_the_next_event_too(client: httpx.AsyncClient, tailrace: Served) -> None:
    run_id, token = await lease(client)
    async with sse(client, f"{RUNS}/{run_id}/stream") as stream:
        await read_until_live(stream)
        await begin_epoch(tailrace.database_url, "fresh2", notify=False)
        (await append(client, run_id, token)).raise_for_status()
        frames = await read_until(stream, lambda frame: frame.type == "node_update")
    assert [name for name in types_of(frames) if name != "bookmark"] == ["reset", "status", "status", "node_update"]
    assert str(frames[-1].id).startswith("fresh2-")
    await finish(client, run_id, token)


async def test_a_position_of_the_epoch_before_a_restart_is_reset(database_url: str) -> None:
    server = Server(database_url)
    try:
        await server.start()
        async with httpx.AsyncClient(base_url=server.url) as client:
            run_id = await ended_run(client)
            before = await events_of(client, run_id)
        assert await server.end() == 0
        await begin_epoch(database_url, "afresh")
        await server.start()
        async with httpx.AsyncClient(base_url=server.url) as client:
            frames = await read_to_end(client, f"{RUNS}/{run_id}/stream", headers={"last-event-id": str(before[-1].id)})
            assert types_of(frames[:2]) == ["hello", "reset"]
            assert frames[1].event["reason"] == "epoch_changed"
            assert [frame.event for frame in stored(frames)] == [frame.event for frame in before]
            assert (await client.get(f"{RUNS}/{run_id}")).json()["last_position"].startswith("afresh-")
    finally:
        await server.kill()


async def test_a_database_of_another_cluster_is_noticed_as_a_new_epoch(database_url: str) -> None:
    server = Server(database_url)
    try:
        await server.start()
        async with httpx.AsyncClient(base_url=server.url) as client:
            run_id = await ended_run(client)
            before = await events_of(client, run_id)
        assert await server.end() == 0
        async with sql(database_url) as database:  # as if its files had come from elsewhere
            await database.execute("UPDATE runs.log SET system_identifier = system_identifier + 1")
        await server.start()
        async with httpx.AsyncClient(base_url=server.url) as client:
            problem = problem_of(await client.get(f"{RUNS}/{run_id}/events?after={before[-1].id}"), 410)
            assert problem["reason"] == "epoch_changed"
            assert problem["epoch"] != str(before[-1].id).partition("-")[0]
    finally:
        await server.kill()


async def test_resets_while_the_log_is_busy_lose_nothing(client: httpx.AsyncClient, tailrace: Served) -> None:
    run_id, token = await lease(client)
    async with responsive(client), sse(client, f"{RUNS}/{run_id}/stream") as stream:
        await read_until_live(stream)
        for turn in range(4):
            await append(client, run_id, token, 20)
            await begin_epoch(tailrace.database_url, f"busy{turn}", notify=turn % 2 == 0)
            await append(client, run_id, token, 20)
        await finish(client, run_id, token)
        frames = await read_until(stream, lambda frame: frame.type == "stream_end")
    last_reset = max(place for place, frame in enumerate(frames) if frame.type == "reset")
    after = stored(frames[last_reset:])
    assert after == await events_of(client, run_id)
    assert {str(frame.id).partition("-")[0] for frame in after} == {"busy3"}


async def test_a_client_cut_off_between_hello_and_its_reset_is_told_of_it_again(client: httpx.AsyncClient) -> None:
    run_id = await ended_run(client, 1)
    position = "zzzzzz-7"  # of another epoch
    for _ in range(2):
        frames = await read_to_end(client, f"{RUNS}/{run_id}/stream", headers=[(b"last-event-id", position.encode())])
        assert types_of(frames[:2]) == ["hello", "reset"]
        position = str(frames[0].id)
    assert position == "zzzzzz-7"
