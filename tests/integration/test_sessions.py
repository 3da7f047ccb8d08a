"""Sessions: the agent event bus as its publishers and watchers meet it."""

import asyncio
import random
from collections import Counter
from typing import Any

import httpx
import msgspec
import pytest

from services.runs.agent_events import DEFAULT_TYPES, REPLAYED_TYPES
from services.runs.events import SCHEMA
from shared.protocol.schema import Delivery
from tests.support.postgres import fresh_database
from tests.support.runs import (
    CONTROL,
    SECONDS,
    client_fixture,
    create,
    ended,
    events_of,
    finish,
    halves,
    is_event,
    names,
    polled,
    publish,
    server_fixture,
    socket_stream,
    sse,
    stalling,
    work,
)
from tests.support.server import Server, lease, running

pytestmark = pytest.mark.asyncio(loop_scope="module")
server = server_fixture()
client = client_fixture()

END = {"type": "custom.end"}
ALL = "*"


async def seen_live(client: httpx.AsyncClient, session: str, events: list[Any], query: str = "") -> list[Any]:
    """What a stream that is live shows of these events; they are published once it is."""
    async with sse(client, f"/api/v1/sessions/{session}/stream{query}") as stream:
        await stream.until(is_event("live"))
        await publish(client, session, [*events, "credentials_required"])
        return names(events_of(await stream.until(is_event("credentials_required"))))[:-1]


# ── carrying ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_is_published_arrives_live_with_its_session_tenant_and_time(client: httpx.AsyncClient) -> None:
    async with sse(client, "/api/v1/sessions/carry/stream") as stream:
        await stream.until(is_event("live"))
        answer = await publish(client, "carry", [{"type": "client_output_delta", "text": "Hä"}, "llm_turn_complete"])
        messages = await stream.until(is_event("llm_turn_complete"))
    first, second = events_of(messages)
    assert (answer["stored"], answer["position"]) == (2, messages[-1].id)
    assert first == {**first, "session_id": "carry", "tenant": "default", "text": "Hä"}
    assert first["ts"].endswith("Z")
    assert second["type"] == "llm_turn_complete"


@pytest.mark.parametrize("path", ["stream", "events"])
async def test_a_websocket_carries_the_same_frames(server: Server, client: httpx.AsyncClient, path: str) -> None:
    session = f"socket-{path}"
    async with (
        socket_stream(server, f"/api/v1/sessions/{session}/{path}") as stream,
        sse(client, f"/api/v1/sessions/{session}/stream") as beside,
    ):
        await stream.until(lambda event: event["type"] == "live")
        await beside.until(is_event("live"))
        await publish(client, session, ["execution_started", "llm_text_delta", "execution_completed"])
        frames = await stream.until(lambda event: event["type"] == "execution_completed")
        messages = await beside.until(is_event("execution_completed"))
    assert [(f["id"], f["event"]) for f in frames] == [(m.id, msgspec.json.decode(m.data)) for m in messages]


@pytest.mark.parametrize("url", ["/api/v1/sessions/accept/events", "/api/v1/sessions/accept/workers/7/events"])
async def test_the_polling_twin_streams_when_asked_for_an_event_stream(client: httpx.AsyncClient, url: str) -> None:
    async with sse(client, url, headers={"accept": "text/event-stream"}) as stream:
        await stream.until(is_event("live"))
        await publish(client, "accept", [{"type": "subagent_report", "stream_id": "worker:7"}])
        await stream.until(is_event("subagent_report"))


async def test_polling_goes_on_from_next_and_waits_for_what_is_new(client: httpx.AsyncClient) -> None:
    url = "/api/v1/sessions/polled/events"
    await publish(client, "polled", ["client_output_delta"] * 5)
    pages = []
    after = "start"
    for _ in range(3):
        page = (await client.get(url, params={"after": after, "limit": 2})).json()
        pages.append(len(page["data"]))
        after = page["next"]
    assert pages == [2, 2, 1]
    waiting = asyncio.create_task(client.get(url, params={"after": after, "wait": 20}))
    async with sse(client, "/api/v1/sessions/polled/stream?after=now") as stream:
        await stream.until(is_event("live"))
        await publish(client, "polled", ["execution_paused"])
    assert names([frame["event"] for frame in (await waiting).json()["data"]]) == ["execution_paused"]


async def test_ndjson_gives_one_frame_a_line_and_a_bookmark_last(client: httpx.AsyncClient) -> None:
    await publish(client, "lines", ["execution_started", "llm_text_delta", "execution_completed"])
    url = "/api/v1/sessions/lines/events?after=start"
    answer = await client.get(url, headers={"accept": "application/x-ndjson"})
    frames = [msgspec.json.decode(line) for line in answer.content.splitlines()]
    assert names([frame["event"] for frame in frames]) == [
        "execution_started",
        "llm_text_delta",
        "execution_completed",
        "bookmark",
    ]


async def test_a_session_nobody_used_is_an_empty_stream(client: httpx.AsyncClient) -> None:
    async with sse(client, "/api/v1/sessions/never-used/stream") as stream:
        messages = await stream.until(is_event("live"))
    assert [m.event for m in messages] == ["hello", "live"]
    assert msgspec.json.decode(messages[-1].data)["replayed"] == 0
    assert await polled(client, "/api/v1/sessions/never-used/events") == []
    assert await polled(client, "/api/v1/sessions/never-used/workers/1/events") == []


async def test_sessions_do_not_see_each_other(client: httpx.AsyncClient) -> None:
    await publish(client, "mine", [{"type": "client_output_delta", "text": "mine"}])
    await publish(client, "yours", [{"type": "client_output_delta", "text": "yours"}])
    assert [event["text"] for event in await polled(client, "/api/v1/sessions/mine/events")] == ["mine"]


@pytest.mark.parametrize("session", ["x" * 201, "a%2Fb", "a%00b", "a%0Ab"])
async def test_the_id_of_a_session_that_cannot_be_is_not_found(client: httpx.AsyncClient, session: str) -> None:
    for url in (f"/api/v1/sessions/{session}/stream", f"/api/v1/sessions/{session}/events"):
        assert (await client.get(url)).status_code == 404
    answer = await client.post(f"/api/v1/sessions/{session}/events", json={"events": [{"type": "execution_started"}]})
    assert answer.status_code == 404


async def test_a_run_is_refused_a_session_that_nobody_could_follow(client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/v1/runs", json={"task": "work", "session_id": "a/b"})
    assert answer.status_code == 400
    assert "session_id" in answer.json()["detail"]


# ── types ──────────────────────────────────────────────────────────────────────────────────────────────────────

EVERY_TYPE = [name for name in SCHEMA.names if name not in ("status", "node_update", "error", "deleted", "custom.*")]


async def test_the_default_types_leave_out_the_worker_graph_and_custom_types(client: httpx.AsyncClient) -> None:
    sent = [*(name for name in EVERY_TYPE if name != "credentials_required"), "custom.note", "custom.a.b"]
    seen = await seen_live(client, "defaults", sent)
    assert seen == [name for name in sent if name in DEFAULT_TYPES]
    assert set(sent) - set(seen) == {"worker_graph_loaded", "custom.note", "custom.a.b"}


@pytest.mark.parametrize(
    ("types", "shown"),
    [
        ("worker_graph_loaded", ["worker_graph_loaded"]),
        ("custom.*", ["custom.note", "custom.a.b"]),
        ("custom.note", ["custom.note"]),
        ("execution_*", ["execution_started", "execution_failed"]),
        ("*_started,custom.a.*", ["execution_started", "custom.a.b"]),
        ("*", ["execution_started", "worker_graph_loaded", "custom.note", "execution_failed", "custom.a.b"]),
    ],
)
async def test_types_may_be_globs(client: httpx.AsyncClient, types: str, shown: list[str]) -> None:
    sent = ["execution_started", "worker_graph_loaded", "custom.note", "execution_failed", "custom.a.b"]
    session = "globs-" + "".join(c if c.isalnum() else "-" for c in types)
    seen = await seen_live(client, session, sent, f"?types={types},credentials_required")
    assert seen == shown
    stored = await polled(client, f"/api/v1/sessions/{session}/events", after="start", types=types)
    assert [name for name in names(stored) if name != "credentials_required"] == shown


@pytest.mark.parametrize("where", ["stream", "events", "workers/1/stream", "workers/1/events"])
@pytest.mark.parametrize("types", ["nonsense", "execution_started,nonsense", "custom", "x*", "execution_started;", ""])
async def test_a_type_that_is_not_one_is_refused_with_those_that_are(
    client: httpx.AsyncClient, where: str, types: str
) -> None:
    answer = await client.get(f"/api/v1/sessions/types/{where}", params={"types": types})
    assert answer.status_code == 400
    assert all(name in answer.json()["detail"] for name in ("execution_started", "custom.*", "node_update"))


async def test_publishing_a_type_that_is_not_one_names_those_that_are_and_stores_nothing(
    client: httpx.AsyncClient,
) -> None:
    for wrong in ("nonsense", "status", "node_update", "deleted", "custom.*", "custom.", None, 3):
        body = {"events": [{"type": "execution_started"}, {"type": wrong}]}
        answer = await client.post("/api/v1/sessions/refused/events", json=body)
        assert answer.status_code == 400
        assert "events[1]" in answer.json()["detail"]
        assert "client_output_delta" in answer.json()["detail"]
        assert "node_update" not in answer.json()["detail"].partition("got")[0]
    assert await polled(client, "/api/v1/sessions/refused/events", after="start", types=ALL) == []


async def test_a_glob_full_of_stars_holds_nobody_up(client: httpx.AsyncClient) -> None:
    await publish(client, "stars", [{"type": "custom." + "a" * 100}])
    for types in ("*" * 40 + "b", "*a" * 30 + "b", "custom." + "*a" * 30 + "*b"):
        async with asyncio.timeout(SECONDS):
            answer = await client.get("/api/v1/sessions/stars/events", params={"after": "start", "types": types})
        assert answer.status_code in (200, 400)
        if answer.status_code == 200:
            assert answer.json()["data"] == []


# ── workers ────────────────────────────────────────────────────────────────────────────────────────────────────

WORKER_EVENTS = [
    {"type": name, "stream_id": "worker:7"}
    for name in ("llm_text_delta", "subagent_report", "execution_started", "execution_completed", "custom.note")
] + [{"type": "execution_failed", "stream_id": "worker:8"}, {"type": "client_input_requested", "stream_id": "worker:8"}]
HEARD = ["subagent_report", "execution_completed", "execution_failed"]


@pytest.mark.parametrize(
    "query", ["", "?types=*", "?types=llm_text_delta,subagent_report,execution_*,client_*,custom.*,cred*"]
)
async def test_worker_chatter_stays_out_of_the_session_whatever_types_says(
    client: httpx.AsyncClient, query: str
) -> None:
    session = f"noise-{len(query)}"
    queen: list[Any] = [
        {"type": "llm_text_delta", "stream_id": "queen"},
        {"type": "llm_text_delta", "stream_id": "work"},
    ]
    seen = await seen_live(client, session, [*WORKER_EVENTS, *queen], query + ("&" if query else "?") + "lossless=1")
    assert seen == ([*HEARD, "llm_text_delta", "llm_text_delta"])
    types: dict[str, Any] = {"types": ALL} if query else {}
    stored = await polled(client, f"/api/v1/sessions/{session}/events", after="start", **types)
    assert [name for name in names(stored) if name != "credentials_required"] == [
        *HEARD,
        "llm_text_delta",
        "llm_text_delta",
    ]


async def test_the_workers_own_stream_has_all_of_it(server: Server, client: httpx.AsyncClient) -> None:
    await publish(client, "own", [*WORKER_EVENTS, {"type": "llm_text_delta", "stream_id": "queen"}])
    sevens = [event["type"] for event in WORKER_EVENTS if event["stream_id"] == "worker:7"]
    url = "/api/v1/sessions/own/workers/7"
    async with sse(client, f"{url}/stream") as stream:  # from the start, unlike the session's own
        assert names(halves(await stream.until(is_event("live")))[0]) == sevens
        await publish(client, "own", [{"type": "worker_graph_loaded", "stream_id": "worker:7"}])
        assert names(events_of(await stream.until(is_event("worker_graph_loaded")))) == ["worker_graph_loaded"]
    async with socket_stream(server, f"{url}/events?types=execution_*") as frames:
        seen = await frames.until(lambda event: event["type"] == "live")
    assert names([f["event"] for f in seen])[1:-1] == ["execution_started", "execution_completed"]
    assert names(await polled(client, f"{url}/events")) == [*sevens, "worker_graph_loaded"]


# ── replay ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_without_a_position_only_messages_and_state_are_replayed(
    server: Server, client: httpx.AsyncClient
) -> None:
    position = (await publish(client, "replay", ["execution_paused"]))["position"]
    await publish(client, "replay", EVERY_TYPE)
    await publish(client, "replay", [{"type": name, "stream_id": "worker:1"} for name in REPLAYED_TYPES])
    replayed = [name for name in EVERY_TYPE if name in REPLAYED_TYPES]
    everything = ["execution_paused", *(name for name in EVERY_TYPE if name in DEFAULT_TYPES)]
    url = "/api/v1/sessions/replay/stream"
    for query, expected in (
        ("", replayed),
        ("?types=trigger_*,llm_text_delta", [name for name in replayed if name.startswith("trigger_")]),
        ("?types=llm_text_delta", []),
        ("?after=start", everything),
        (f"?after={position}", everything[1:]),
        ("?after=now", []),
    ):
        async with sse(client, url + query) as stream:
            messages = await stream.until(is_event("live"))
        assert names(events_of(messages)) == expected, query
        assert msgspec.json.decode(messages[-1].data)["replayed"] == len(expected)
    async with sse(client, url, headers={"last-event-id": position}) as stream:
        assert names(events_of(await stream.until(is_event("live")))) == everything[1:]
    for path, expected in ((url, replayed), (f"{url}?after=start", everything)):
        async with socket_stream(server, path) as frames:
            seen = names([f["event"] for f in await frames.until(lambda event: event["type"] == "live")])
        assert [name for name in seen if name not in CONTROL] == expected
    events = "/api/v1/sessions/replay/events"
    # a poll without a position is followed by polls with one: the first three that are replayed, then all after them
    followed = [*replayed[:3], *everything[everything.index(replayed[2]) + 1 :]]
    assert names(await polled(client, events, limit=3)) == followed
    assert names(await polled(client, events, limit=3, after="start")) == everything


async def test_what_comes_after_live_is_not_cut_down_to_what_is_replayed(client: httpx.AsyncClient) -> None:
    await publish(client, "after-live", ["llm_text_delta", "client_output_delta"])
    async with sse(client, "/api/v1/sessions/after-live/stream") as stream:
        history = await stream.until(is_event("live"))
        await publish(client, "after-live", ["llm_text_delta", "execution_completed"])
        live = await stream.until(is_event("execution_completed"))
    assert names(events_of(history)) == ["client_output_delta"]
    assert names(events_of(live)) == ["llm_text_delta", "execution_completed"]


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
async def test_a_long_poll_without_a_position_is_answered_with_what_it_waited_for(
    client: httpx.AsyncClient, accept: str
) -> None:
    session = "long-poll-" + accept[-4:]
    url = f"/api/v1/sessions/{session}/events"
    waiting = asyncio.create_task(client.get(url, params={"wait": 20}, headers={"accept": accept}))
    published = ""
    while not waiting.done():  # whenever it has begun to wait, one of them is the first that it sees
        published = (await publish(client, session, ["llm_text_delta"]))["position"]
    answer = (await waiting).text
    assert '"llm_text_delta"' in answer, (published, answer)


async def test_history_and_live_meet_without_a_hole_while_others_publish(client: httpx.AsyncClient) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    dice = random.Random(seed)
    total, session = 600, "seam"

    async def write() -> None:
        number = 0
        while number < total:
            count = min(dice.randint(1, 9), total - number)
            events = [
                {"type": dice.choice(["client_output_delta", "execution_paused"]), "n": number + place}
                for place in range(count)
            ]
            await publish(client, session, events)
            number += count
        await publish(client, session, ["execution_completed"])

    writing = asyncio.create_task(write())
    for _ in range(12):
        async with sse(client, f"/api/v1/sessions/{session}/stream") as stream:
            before, after = halves(await stream.until(is_event("execution_completed")))
        stored = [e for e in await polled(client, f"/api/v1/sessions/{session}/events", after="start") if "n" in e]
        split = next((e["n"] for e in after if "n" in e), total)
        assert [e["n"] for e in before] == [e["n"] for e in stored[:split] if e["type"] == "client_output_delta"]
        assert [e["n"] for e in after if "n" in e] == list(range(split, total))
        if writing.done():
            break
    await writing


# ── runs in sessions ───────────────────────────────────────────────────────────────────────────────────────────


async def test_a_run_that_names_a_session_has_its_events_in_it(client: httpx.AsyncClient) -> None:
    async with (
        sse(client, "/api/v1/sessions/of-run/stream") as plain,
        sse(client, "/api/v1/sessions/of-run/stream?types=*&lossless=1") as full,
    ):
        await plain.until(is_event("live"))
        await full.until(is_event("live"))
        run_id, token = await lease(client, runner="session-runner", session_id="of-run")
        await work(
            client,
            run_id,
            token,
            [
                {"type": "llm_text_delta", "text": "hm"},
                {"type": "node_update", "node": "writer", "worker_id": "w1"},
                {"type": "error", "fatal": False, "code": "c", "message": "m"},
                {"type": "tool_call_started", "stream_id": "worker:w1"},
                {"type": "execution_completed", "stream_id": "worker:w1"},
            ],
        )
        await finish(client, run_id, token)
        await publish(client, "of-run", ["credentials_required"])
        shown = events_of(await plain.until(is_event("credentials_required")))
        everything = events_of(await full.until(is_event("credentials_required")))
    assert names(shown) == ["llm_text_delta", "execution_completed", "credentials_required"]
    assert names(everything) == [
        "status",
        "status",
        "llm_text_delta",
        "node_update",
        "error",
        "execution_completed",
        "status",
        "credentials_required",
    ]
    assert {event["run_id"] for event in everything[:-1]} == {run_id}
    url = "/api/v1/sessions/of-run/events"
    stored = await polled(client, url, after="start", types="node_update,status,error")
    assert names(stored) == ["status", "status", "node_update", "error", "status"]
    assert names(await polled(client, "/api/v1/sessions/of-run/workers/w1/events")) == [
        "node_update",
        "tool_call_started",
        "execution_completed",
    ]
    runs = await polled(client, f"/api/v1/runs/{run_id}/events")
    assert [event for event in runs if event["type"] == "llm_text_delta"] == [shown[0]]  # indexed, not copied


async def test_a_run_without_a_session_is_in_none(client: httpx.AsyncClient) -> None:
    run = await create(client)
    await ended(client, run["id"])
    assert await polled(client, f"/api/v1/sessions/{run['id']}/events", after="start", types=ALL) == []


async def test_a_worker_cannot_speak_for_another_run_tenant_or_session(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client, runner="strict", session_id="strict")
    for wrong in (
        {"tenant": "other"},
        {"run_id": "run_x"},
        {"ts": "2020-01-01T00:00:00Z"},
        {"session_id": "elsewhere"},
    ):
        answer = await work(client, run_id, token, [{"type": "llm_text_delta", **wrong}])
        assert answer.status_code == 400, wrong
    stored = await polled(client, f"/api/v1/runs/{run_id}/events")
    assert "llm_text_delta" not in names(stored)


# ── what a publisher may say ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "field", [{"tenant": "other"}, {"ts": "2020-01-01T00:00:00Z"}, {"session_id": "other"}, {"text": 3}, {"data": "x"}]
)
async def test_what_the_service_says_itself_cannot_be_set(client: httpx.AsyncClient, field: dict[str, Any]) -> None:
    body = {"events": [{"type": "client_output_delta", **field}]}
    answer = await client.post("/api/v1/sessions/forged/events", json=body)
    assert answer.status_code == 400
    assert next(iter(field)) in answer.json()["detail"]
    assert await polled(client, "/api/v1/sessions/forged/events", after="start", types=ALL) == []


async def test_fields_that_no_struct_names_are_kept_as_they_were_sent(client: httpx.AsyncClient) -> None:
    sent = {
        "type": "custom.Österreich".encode("ascii", "ignore").decode().lower() + "x",
        "stream_id": "queen",
        "deep": {"list": [1, 2.5, None, True, {"ü": "\u2028"}], "empty": {}},
        "big": 2**60,
        "nothing": None,
        "data": {"type": "inner", "tenant": "inner"},
        "run_id": "run_of_somebody",
    }
    await publish(client, "open", [sent, {"type": "execution_started", "kept": "as sent", "": 0}])
    first, second = await polled(client, "/api/v1/sessions/open/events", after="start", types=ALL)
    assert {name: first[name] for name in sent} == sent
    assert set(first) == {*sent, "tenant", "ts", "session_id"}
    assert (second["kept"], second[""]) == ("as sent", 0)


async def test_an_event_beyond_the_limit_is_refused_whole(client: httpx.AsyncClient) -> None:
    body = {"events": [{"type": "execution_started"}, {"type": "custom.big", "text": "x" * 300_000}]}
    answer = await client.post("/api/v1/sessions/big/events", json=body)
    assert answer.status_code == 413
    assert await polled(client, "/api/v1/sessions/big/events", after="start", types=ALL) == []


# ── producers ──────────────────────────────────────────────────────────────────────────────────────────────────


async def numbered(client: httpx.AsyncClient, session: str, first: int, count: int, producer: str = "p") -> Any:
    events = [{"type": "custom.n", "n": first + place} for place in range(count)]
    body = {"events": events, "producer": producer, "producer_seq": first}
    return await client.post(f"/api/v1/sessions/{session}/events", json=body)


async def test_a_producer_repeats_overlaps_and_leaves_no_hole(client: httpx.AsyncClient) -> None:
    first = await numbered(client, "seq", 1, 3)
    assert (first.json()["stored"], first.json()["next_producer_seq"]) == (3, 4)
    again = await numbered(client, "seq", 1, 3)
    assert (again.status_code, again.json()["stored"]) == (200, 0)
    assert again.json()["next_producer_seq"] == 4
    overlap = await numbered(client, "seq", 2, 4)
    assert (overlap.json()["stored"], overlap.json()["next_producer_seq"]) == (2, 6)
    hole = await numbered(client, "seq", 7, 1)
    assert (hole.status_code, hole.json()["expected_producer_seq"]) == (409, 6)
    assert (await numbered(client, "seq", 1, 1, producer="q")).json()["stored"] == 1
    assert (await numbered(client, "seq-2", 1, 1)).json()["stored"] == 1
    strange = await numbered(client, "seq-3", 5, 1)
    assert (strange.status_code, strange.json()["expected_producer_seq"]) == (409, 1)
    stored = await polled(client, "/api/v1/sessions/seq/events", after="start", types=ALL)
    assert [event["n"] for event in stored] == [1, 2, 3, 4, 5, 1]


async def test_a_repeat_of_an_earlier_part_says_where_the_producer_stands(client: httpx.AsyncClient) -> None:
    await numbered(client, "stand", 1, 5)
    again = await numbered(client, "stand", 2, 1)
    assert (again.json()["stored"], again.json()["next_producer_seq"]) == (0, 6)


async def test_a_batch_sent_twenty_times_at_once_is_stored_once(client: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(numbered(client, "twenty", 1, 5) for _ in range(20)))
    assert sorted(answer.json()["stored"] for answer in answers) == [*[0] * 19, 5]
    assert len(await polled(client, "/api/v1/sessions/twenty/events", after="start", types=ALL)) == 5


async def test_producer_and_its_number_go_together(client: httpx.AsyncClient) -> None:
    for half in ({"producer": "p"}, {"producer_seq": 1}):
        body = {"events": [{"type": "execution_started"}], **half}
        assert (await client.post("/api/v1/sessions/half/events", json=body)).status_code == 400


# ── lag ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_deltas_delay_no_critical_event_to_a_lagging_reader_and_the_gaps_count_them(postgres_url: str) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    dice = random.Random(seed)
    settings = {"lag_budget_bytes": 50_000, "slow_reader_seconds": 60}
    async with (
        fresh_database(postgres_url) as url,
        running(url, **settings) as server,
        httpx.AsyncClient(base_url=server.url, timeout=SECONDS) as client,
        stalling(server, "/api/v1/sessions/lag/stream?types=*") as slow,
        sse(client, "/api/v1/sessions/lag/stream?types=*&lossless=1") as quick,
    ):
        await slow.until(is_event("live"))
        await quick.until(is_event("live"))
        keeping = asyncio.create_task(quick.until(is_event("credentials_required")))
        number = 0
        for _ in range(24):
            events: list[Any] = []
            for _ in range(250):
                number += 1
                kind = dice.choices(
                    ["llm_text_delta", "node_internal_output", "execution_paused", "goal_progress"], [90, 8, 1, 1]
                )[0]
                events.append({"type": kind, "n": number, "text": "x" * 500})
            await publish(client, "lag", events)
        await publish(client, "lag", ["credentials_required"])
        sent = await keeping
        received = await slow.until(is_event("credentials_required"))
        stored = events_of(sent)
        gaps = [msgspec.json.decode(m.data) for m in received if m.event == "gap"]
        seen = events_of(received)
        assert gaps, "it never lagged"
        check_shedding(stored, seen, gaps, received)
        for gap in gaps:  # what was dropped can be had
            backfill = [
                event
                for event in await polled_backfill(client, gap["backfill"])
                if SCHEMA.delivery(event["type"]) is Delivery.SHEDDABLE
            ]
            assert Counter(names(backfill)) == gap["by_type"]
    # the whole of it is far beyond what the reader had to take before the last critical event reached it
    assert len(seen) < len(stored) / 2


def check_shedding(stored: list[Any], seen: list[Any], gaps: list[Any], received: list[Any]) -> None:
    critical = [e["n"] for e in stored if SCHEMA.delivery(e["type"]) is Delivery.CRITICAL and "n" in e]
    assert [e["n"] for e in seen if SCHEMA.delivery(e["type"]) is Delivery.CRITICAL and "n" in e] == critical
    lost = Counter(names([e for e in stored if SCHEMA.delivery(e["type"]) is Delivery.SHEDDABLE]))
    lost.subtract(names([e for e in seen if SCHEMA.delivery(e["type"]) is Delivery.SHEDDABLE]))
    counted: Counter[str] = Counter()
    for gap in gaps:
        counted.update(gap["by_type"])
        assert gap["dropped"] == sum(gap["by_type"].values())
    assert +counted == +lost
    seqs = [int(m.id.partition("-")[2]) for m in received]
    assert seqs == sorted(seqs)
    newest = [e["n"] for e in stored if e["type"] == "goal_progress"][-1]
    assert [e["n"] for e in seen if e["type"] == "goal_progress"][-1] == newest


async def polled_backfill(client: httpx.AsyncClient, url: str) -> list[Any]:
    """All pages of a gap's backfill."""
    parts = httpx.URL(url)
    params: dict[str, Any] = dict(parts.params)
    return await polled(client, parts.path, **params)
