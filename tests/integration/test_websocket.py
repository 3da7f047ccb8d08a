"""WebSockets: the same events on the same URLs, upgraded, and many streams on one connection. DESIGN.md 4.3."""

import asyncio
import json
from typing import Any

import httpx
import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from tests.support.contract import (
    ANSWER_SECONDS,
    IMPOSSIBLE_RUN,
    NO_SUCH_RUN,
    RUNS,
    Served,
    check_problem,
    ended_run,
    events_of,
    finish,
    head_of,
    metric,
    read_to_end,
    read_until_live,
    socket,
    stored,
    types_of,
)
from tests.support.server import append, lease, running, sse

SETTINGS = {"heartbeat_seconds": 0.3}


async def refusal(url: str, status: int, **options: Any) -> dict[str, Any]:
    """The problem document with which an upgrade is refused."""
    with pytest.raises(InvalidStatus) as caught:
        async with socket(url, **options):
            pass
    response = caught.value.response
    assert response.status_code == status, response.body
    headers = response.headers
    return check_problem(status, headers["content-type"], bytes(response.body), headers["x-request-id"])


# ── one stream ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("subprotocol", [None, "tailrace.v1", "tailrace.v1.msgpack"])
async def test_a_socket_carries_the_same_frames_as_sse(
    client: httpx.AsyncClient, tailrace: Served, subprotocol: str | None
) -> None:
    run_id = await ended_run(client, session_id="grün ☃")
    async with socket(f"{tailrace.websocket_url}{RUNS}/{run_id}/stream", subprotocol=subprotocol) as opened:
        assert opened.connection.subprotocol == subprotocol
        assert opened.connection.response is not None
        assert "sec-websocket-extensions" not in opened.connection.response.headers
        frames = await opened.until_type("stream_end")
        assert await opened.close_code() == 1000
    assert frames == await read_to_end(client, f"{RUNS}/{run_id}/stream")


async def test_the_subprotocol_decides_between_text_and_binary(client: httpx.AsyncClient, tailrace: Served) -> None:
    run_id = await ended_run(client, 1)
    for subprotocol, kind in (("tailrace.v1", str), ("tailrace.v1.msgpack", bytes)):
        async with socket(f"{tailrace.websocket_url}{RUNS}/{run_id}/stream", subprotocol=subprotocol) as opened:
            async for message in opened.connection:
                assert isinstance(message, kind)


async def test_of_several_subprotocols_one_that_is_spoken_is_chosen(tailrace: Served) -> None:
    offered = [Subprotocol(name) for name in ("graphql-ws", "tailrace.v1")]
    async with connect(f"{tailrace.websocket_url}{RUNS}/stream", subprotocols=offered) as connection:
        assert connection.subprotocol == "tailrace.v1"


async def test_a_subprotocol_nobody_speaks_is_refused_naming_ours(tailrace: Served) -> None:
    problem = await refusal(f"{tailrace.websocket_url}{RUNS}/stream", 400, subprotocol="tailrace.v9")
    assert "tailrace.v1.msgpack" in problem["detail"]


async def test_a_burst_is_one_message_that_is_an_array(client: httpx.AsyncClient, tailrace: Served) -> None:
    run_id, token = await lease(client)
    async with socket(f"{tailrace.websocket_url}{RUNS}/{run_id}/stream") as opened:
        await opened.until_type("live")
        await append(client, run_id, token, 50)
        await finish(client, run_id, token)
        await opened.until_type("stream_end")
    burst = [message for message in opened.messages if "node_update" in types_of(message)]
    assert [len(message) for message in burst] == [50]


async def test_a_socket_resumes_from_after_and_from_the_header(client: httpx.AsyncClient, tailrace: Served) -> None:
    run_id = await ended_run(client)
    everything = await events_of(client, run_id)
    url = f"{tailrace.websocket_url}{RUNS}/{run_id}/stream"
    async with socket(f"{url}?after={everything[2].id}") as opened:
        assert stored(await opened.until_type("stream_end")) == everything[3:]
    headers = {"Last-Event-ID": str(everything[3].id)}
    async with socket(f"{url}?after=start", additional_headers=headers) as opened:
        assert stored(await opened.until_type("stream_end")) == everything[4:]


async def test_an_ended_run_with_nothing_more_is_hello_live_end_and_1000(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    run_id = await ended_run(client)
    for query in ("after=now", "types=error"):
        async with socket(f"{tailrace.websocket_url}{RUNS}/{run_id}/stream?{query}") as opened:
            frames = await opened.until_type("stream_end")
            assert types_of(frames) == ["hello", "live", "stream_end"]
            assert (frames[-1].event["final"], frames[-1].event["status"]) == (True, "completed")
            assert await opened.close_code() == 1000


async def test_a_running_run_that_ends_closes_its_socket_with_1000(client: httpx.AsyncClient, tailrace: Served) -> None:
    run_id, token = await lease(client)
    async with socket(f"{tailrace.websocket_url}{RUNS}/{run_id}/stream?types=error") as opened:
        await opened.until_type("live")
        await finish(client, run_id, token, "failed")
        end = (await opened.until_type("stream_end"))[-1].event
        assert (end["reason"], end["final"], end["status"]) == ("terminal", True, "failed")
        assert await opened.close_code() == 1000


async def test_the_heartbeat_is_a_bookmark_frame(client: httpx.AsyncClient, tailrace: Served) -> None:
    run_id, token = await lease(client)
    async with socket(f"{tailrace.websocket_url}{RUNS}/{run_id}/stream") as opened:
        await opened.until_type("live")
        for _ in range(2):
            beat = (await opened.until_type("bookmark"))[-1]
            assert beat.event == {"type": "bookmark"}
        await lease(client)
        _, head = await head_of(client)
        await opened.until(lambda frame: frame.type == "bookmark" and frame.seq >= head)
    await finish(client, run_id, token)


@pytest.mark.parametrize("subprotocol", ["tailrace.v1", "tailrace.v1.msgpack"])
async def test_a_ping_is_answered_with_a_pong(tailrace: Served, subprotocol: str) -> None:
    async with socket(f"{tailrace.websocket_url}{RUNS}/stream", subprotocol=subprotocol) as opened:
        await opened.until_type("live")
        await opened.send({"op": "ping"})
        pong = (await opened.until_type("pong"))[-1]
        assert (pong.id, pong.event) == (None, {"type": "pong"})
        await opened.connection.send(msgspec.json.encode({"op": "ping"}) if subprotocol == "tailrace.v1" else _packed())
        await opened.until_type("pong")


def _packed() -> bytes:
    return msgspec.msgpack.encode({"op": "ping"})


# ── what clients send wrong ────────────────────────────────────────────────────────────────────────────────────

BAD = {
    "nothing": "",
    "no JSON": "hello",
    "an array": "[]",
    "a number": "12",
    "null": "null",
    "no op": "{}",
    "a strange op": '{"op":"subscribe"}',
    "a strange field": '{"op":"ping","loud":true}',
    "a lone surrogate": '{"op":"\\ud800"}',
    "a deep array": "[" * 20_000,
    "a deep object": '{"op":' * 10_000,
    "a deep field": '{"op":"ping","a":' + "[" * 20_000,
    "bytes": b"\xff\xfe\x00",
}
BAD_PACKED = {
    "nothing": b"",
    "no MessagePack": b"\xc1",
    "an array": b"\x90",
    "a strange op": msgspec.msgpack.encode({"op": "subscribe"}),
    "an extension type": b"\x81\xa2op\xd4\x05\x00",
    "a number beyond 64 bits' JSON": b"\x82\xa2op\xa4ping\xa1a\xcf" + b"\xff" * 8,
    "a key that is no text": b"\x81\x01\x02",
    "a key that is an array": b"\x81\x91\x01\x02",
    "text that is no UTF-8": b"\x81\xa2op\xa2\xff\xfe",
    "a deep array": b"\x91" * 20_000,
    "a promise of four billion items": b"\xdd\xff\xff\xff\xff",
}


@pytest.mark.parametrize("path", ["stream", "ws"])
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
async def test_a_bad_message_is_named_and_the_third_closes_with_4400(
    tailrace: Served, bad: str | bytes, path: str
) -> None:
    async with socket(f"{tailrace.websocket_url}{RUNS}/{path}") as opened:
        for _ in range(3):
            await opened.connection.send(bad)
            told = (await opened.until_type("bad_message"))[-1]
            assert told.id is None
            assert told.event["detail"]
        assert await opened.close_code() == 4400


@pytest.mark.parametrize("path", ["stream", "ws"])
@pytest.mark.parametrize("bad", BAD_PACKED.values(), ids=BAD_PACKED)
async def test_bad_messagepack_is_a_bad_message_too(tailrace: Served, bad: bytes, path: str) -> None:
    async with socket(f"{tailrace.websocket_url}{RUNS}/{path}", subprotocol="tailrace.v1.msgpack") as opened:
        await opened.connection.send(bad)
        assert (await opened.until_type("bad_message"))[-1].event["detail"]
        await opened.connection.send(_packed())
        await opened.until_type("pong")


async def test_what_is_right_between_bad_messages_still_works(client: httpx.AsyncClient, tailrace: Served) -> None:
    run_id, token = await lease(client)
    async with socket(f"{tailrace.websocket_url}{RUNS}/{run_id}/stream") as opened:
        await opened.until_type("live")
        await opened.connection.send("nonsense")
        await opened.until_type("bad_message")
        await append(client, run_id, token)
        await opened.until_type("node_update")
        await opened.send({"op": "ping"})
        await opened.until_type("pong")
    await finish(client, run_id, token)


async def test_a_flood_of_messages_closes_with_4429(tailrace: Served) -> None:
    for path in ("stream", "ws"):
        async with socket(f"{tailrace.websocket_url}{RUNS}/{path}") as opened:
            for _ in range(1_000):
                try:
                    await opened.send({"op": "ping"})
                except Exception:  # noqa: BLE001  it may close at any moment; the code is what counts
                    break
            assert await opened.close_code() == 4429


async def test_a_message_that_is_too_large_closes_with_1009(tailrace: Served) -> None:
    async with socket(f"{tailrace.websocket_url}{RUNS}/stream") as opened:
        await opened.send({"op": "ping", "padding": "x" * 100_000})
        assert await opened.close_code() == 1009


# ── refusals ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_refusals_are_http_statuses_with_problem_documents(client: httpx.AsyncClient, tailrace: Served) -> None:
    run_id = await ended_run(client, 0)
    base = f"{tailrace.websocket_url}{RUNS}"
    unknown = await refusal(f"{base}/{NO_SUCH_RUN}/stream", 404)
    impossible = await refusal(f"{base}/{IMPOSSIBLE_RUN}/stream", 404)
    assert unknown["detail"] == impossible["detail"]
    await refusal(f"{base}/stream?run={NO_SUCH_RUN}", 404)
    await refusal(f"{base}/nowhere/at/all", 404)
    for path in ("/nowhere", "/health", "/ready", "/metrics"):
        await refusal(f"{tailrace.websocket_url}{path}", 404)
    for path in ("", f"/{run_id}", "/schema", "/ready"):
        assert "WebSocket" in (await refusal(base + path, 400))["detail"]
    for path in (f"{run_id}/stream", "stream"):
        assert "<epoch>-<seq>" in (await refusal(f"{base}/{path}?after=yesterday", 400))["detail"]
        assert "node_update" in (await refusal(f"{base}/{path}?types=bogus", 400))["detail"]
        assert "'since'" in (await refusal(f"{base}/{path}?since=1", 400))["detail"]
        problem = await refusal(f"{base}/{path}?after=zzzzzz-1&on_reset=error", 410)
        assert problem["reason"] == "epoch_changed"
    await refusal(f"{base}/ws?after=start", 400)


async def test_without_websockets_the_upgrade_is_403_and_names_the_sse_stream_which_works(database_url: str) -> None:
    async with running(database_url, websockets="false") as server, httpx.AsyncClient(base_url=server.url) as client:
        run_id = await ended_run(client)
        base = server.url.replace("http", "ws", 1)
        for path in (f"{RUNS}/{run_id}/stream", f"{RUNS}/stream"):
            detail = (await refusal(base + path, 403))["detail"]
            assert "SSE" in detail
            assert path in detail
        assert "SSE" in (await refusal(f"{base}{RUNS}/ws", 403))["detail"]
        assert len(stored(await read_to_end(client, f"{RUNS}/{run_id}/stream"))) == 6


async def test_more_sockets_than_allowed_are_refused_with_a_time_to_come_back(database_url: str) -> None:
    async with (
        running(database_url, streams_per_tenant=1) as server,
        httpx.AsyncClient(base_url=server.url) as client,
        sse(client, f"{RUNS}/stream") as stream,
    ):
        await read_until_live(stream)
        base = server.url.replace("http", "ws", 1)
        await refusal(f"{base}{RUNS}/stream", 429)
        async with socket(f"{base}{RUNS}/ws") as opened:
            await opened.send({"op": "follow", "ref": "a", "channel": "runs"})
            refused = (await opened.until_type("refused", "a"))[-1]
            assert refused.event["problem"]["status"] == 429


# ── many streams on one socket ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("subprotocol", ["tailrace.v1", "tailrace.v1.msgpack"])
async def test_several_streams_share_a_socket_and_every_frame_carries_its_ref(
    client: httpx.AsyncClient, tailrace: Served, subprotocol: str
) -> None:
    ended = await ended_run(client)
    run_id, token = await lease(client)
    async with socket(f"{tailrace.websocket_url}{RUNS}/ws", subprotocol=subprotocol) as opened:
        assert opened.connection.subprotocol == subprotocol
        await opened.send({"op": "follow", "ref": "ended", "channel": f"run/{ended}"})
        await opened.send({"op": "follow", "ref": 'ü"☃', "channel": f"run/{run_id}", "types": ["status"]})
        await opened.send({"op": "follow", "ref": "feed", "channel": "runs"})
        frames = []
        live = {"ended", 'ü"☃', "feed"}
        while live:
            frames.append(await opened.next())
            if frames[-1].type == "live":
                live.remove(str(frames[-1].ref))
        await append(client, run_id, token, 3)
        await finish(client, run_id, token)
        frames += await opened.until(lambda frame: frame.ref == "feed" and frame.event.get("status") == "completed")
        if not any(frame.type == "stream_end" and frame.ref == 'ü"☃' for frame in frames):
            frames += await opened.until_type("stream_end", 'ü"☃')
        # the end of a stream is not the end of the socket
        await opened.send({"op": "ping"})
        pong = (await opened.until_type("pong"))[-1]
        assert pong.ref is None
    assert {frame.ref for frame in frames} == {"ended", 'ü"☃', "feed"}
    by_ref = {ref: [f for f in frames if f.ref == ref and f.type != "bookmark"] for ref in ("ended", 'ü"☃', "feed")}
    assert types_of(by_ref["ended"]) == ["hello", *types_of(await events_of(client, ended)), "live", "stream_end"]
    assert types_of(by_ref['ü"☃']) == ["hello", "status", "status", "live", "status", "stream_end"]
    assert types_of(by_ref["feed"]) == ["hello", "live", *["node_update"] * 3, "status"]


async def test_follow_takes_a_position_types_and_lossless(client: httpx.AsyncClient, tailrace: Served) -> None:
    run_id = await ended_run(client)
    everything = await events_of(client, run_id)
    async with socket(f"{tailrace.websocket_url}{RUNS}/ws") as opened:
        follow = {"op": "follow", "ref": "a", "channel": f"run/{run_id}", "after": everything[2].id}
        await opened.send({**follow, "types": ["node_*"], "lossless": True})
        frames = await opened.until_type("stream_end", "a")
        assert [frame.id for frame in stored(frames)] == [frame.id for frame in everything[3:5]]
        await opened.send({**follow, "after": "zzzzzz-1"})  # the ref is free again
        frames = await opened.until_type("stream_end", "a")
        assert types_of(frames[:2]) == ["hello", "reset"]
        assert len(stored(frames)) == 6


async def test_after_unfollow_nothing_more_comes_and_the_ref_is_free(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    run_id, token = await lease(client)
    async with socket(f"{tailrace.websocket_url}{RUNS}/ws") as opened:
        await opened.send({"op": "follow", "ref": "a", "channel": f"run/{run_id}", "types": ["node_update"]})
        await opened.until_type("live", "a")
        await opened.send({"op": "unfollow", "ref": "a"})
        await opened.send({"op": "ping"})
        await opened.until_type("pong")
        await append(client, run_id, token, 3)
        await opened.send({"op": "follow", "ref": "a", "channel": f"run/{run_id}", "after": "now", "types": ["status"]})
        frames = await opened.until_type("live", "a")
        assert types_of(frames) == ["hello", "live"]
        await finish(client, run_id, token)
        frames = await opened.until_type("stream_end", "a")
        assert types_of([frame for frame in frames if frame.type != "bookmark"]) == ["status", "stream_end"]


@pytest.mark.parametrize(
    ("follow", "status", "named"),
    [
        ({"channel": f"run/{NO_SUCH_RUN}"}, 404, "no such run"),
        ({"channel": f"run/{IMPOSSIBLE_RUN}"}, 404, "no such run"),
        ({"channel": "tasks"}, 400, "run/<id>"),
        ({"channel": "run/"}, 400, "run/<id>"),
        ({"channel": ""}, 400, "run/<id>"),
        ({"channel": "runs", "after": "yesterday"}, 400, "<epoch>-<seq>"),
        ({"channel": "runs", "after": ""}, 400, "<epoch>-<seq>"),
        ({"channel": "runs", "types": ["bogus"]}, 400, "node_update"),
        ({"channel": "runs", "types": []}, 400, "node_update"),
        ({"channel": "runs", "after": "zzzzzz-1", "on_reset": "error"}, 410, "epoch_changed"),
        ({"channel": "runs", "ref": "taken"}, 400, "taken"),
    ],
)
async def test_a_follow_that_is_refused_says_why_and_harms_no_other_stream(
    client: httpx.AsyncClient, tailrace: Served, follow: dict[str, Any], status: int, named: str
) -> None:
    run_id, token = await lease(client)
    async with socket(f"{tailrace.websocket_url}{RUNS}/ws") as opened:
        await opened.send({"op": "follow", "ref": "taken", "channel": f"run/{run_id}"})
        await opened.until_type("live", "taken")
        for _ in range(4):  # a refusal is no bad message: the socket stays
            await opened.send({"op": "follow", "ref": "a", **follow})
            refused = (await opened.until_type("refused", follow.get("ref", "a")))[-1]
            assert refused.id is None
            problem = refused.event["problem"]
            assert check_problem(
                status, "application/problem+json", json.dumps(problem).encode(), problem["request_id"]
            )
            assert named in problem["detail"]
        await finish(client, run_id, token)
        await opened.until_type("stream_end", "taken")


@pytest.mark.parametrize(
    "message",
    [
        {"op": "follow", "channel": "runs"},
        {"op": "follow", "ref": 1, "channel": "runs"},
        {"op": "follow", "ref": "a", "channel": "runs", "run": ["x"]},
        {"op": "follow", "ref": "a", "channel": "runs", "types": "status"},
        {"op": "follow", "ref": "a", "channel": "runs", "on_reset": "explode"},
        {"op": "unfollow"},
    ],
)
async def test_a_message_that_cannot_be_understood_is_a_bad_one(tailrace: Served, message: dict[str, Any]) -> None:
    async with socket(f"{tailrace.websocket_url}{RUNS}/ws") as opened:
        await opened.send(message)
        assert (await opened.until_type("bad_message"))[-1].event["detail"]


async def test_a_client_that_leaves_takes_all_its_streams_with_it(client: httpx.AsyncClient, tailrace: Served) -> None:
    run_id, token = await lease(client)
    async with socket(f"{tailrace.websocket_url}{RUNS}/ws") as opened:
        for ref in ("a", "b", "c"):
            await opened.send({"op": "follow", "ref": ref, "channel": f"run/{run_id}"})
            await opened.until_type("live", ref)
        assert await _readers(client) >= 3
    async with asyncio.timeout(ANSWER_SECONDS):
        while await _readers(client):
            pass
    await finish(client, run_id, token)


async def _readers(client: httpx.AsyncClient) -> int:
    """WebSocket streams open now."""
    return int(await metric(client, "tailrace_readers", transport="websocket"))
