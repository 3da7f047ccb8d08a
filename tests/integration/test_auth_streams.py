"""Streams and who may read them: how a token gets there, how it is replaced, and how a stream ends with it."""

import asyncio
import json
import os
import socket as socket_module
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from shared.client import Client, Unauthorized
from tests.support.contract import (
    ANSWER_SECONDS,
    RUNS,
    Frame,
    Served,
    Socket,
    check_problem,
    problem_of,
    read_until_live,
    served,
    sql,
)
from tests.support.readers import eventually
from tests.support.server import ROOT, Server, append, lease, running, sse
from tests.support.tokens import AUDIENCE, ISSUER, JWT, SECRET, TICKETS, bearing, client_of, ticket_for, token

SETTINGS = {**JWT, "unauthenticated_sockets": 3, "lease_seconds": 3600}  # none runs out, which would be news
SHORT_SECONDS = 3.0  # a token's life, in which a busy machine has connected


@pytest.fixture(scope="module")
def tailrace(postgres_url: str) -> Iterator[Served]:
    with served(postgres_url, **SETTINGS) as server:
        yield server


@pytest_asyncio.fixture
async def client(tailrace: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(tailrace.url, token()) as client:
        yield client


@asynccontextmanager
async def socket(
    server: Server, path: str, text: str | None = None, *, subprotocol: str = "tailrace.v1", in_band: bool = False
) -> AsyncIterator[Socket]:
    """A WebSocket that brings its token with the handshake, or as its first message."""
    offered = [subprotocol] if text is None or in_band else [subprotocol, f"bearer.{text}"]
    url = server.url.replace("http", "ws", 1) + path
    async with connect(url, subprotocols=[Subprotocol(name) for name in offered], close_timeout=2) as connection:
        opened = Socket(connection)
        if in_band:
            await opened.send({"op": "auth", "token": text})
        yield opened


async def refusal_of(url: str, subprotocols: list[str]) -> dict[str, Any]:
    """The problem document of a handshake that is refused."""
    with pytest.raises(InvalidStatus) as caught:
        async with connect(url, subprotocols=[Subprotocol(name) for name in subprotocols]):
            pass
    answer = caught.value.response
    body = bytes(answer.body or b"")
    return check_problem(answer.status_code, answer.headers["content-type"], body, answer.headers["x-request-id"])


async def end_of(opened: Socket, ref: str | None = None) -> dict[str, Any]:
    return (await opened.until(lambda frame: frame.type == "stream_end" and frame.ref == ref))[-1].event


def revoke(tailrace: Served, text: str) -> None:
    """`tailrace token revoke`, as an operator says it."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")}
    subprocess.run(
        [sys.executable, "-m", "services.cli", "token", "revoke", "-"],
        input=text,
        text=True,
        env={**own, "TAILRACE_DATABASE_URL": tailrace.database_url},
        cwd=ROOT,
        check=True,
        capture_output=True,
    )


# ── how a token gets there ─────────────────────────────────────────────────────────────────────────────────────


async def test_a_token_in_the_header_opens_server_sent_events(client: httpx.AsyncClient) -> None:
    run_id, _ = await lease(client)
    async with sse(client, f"{RUNS}/{run_id}/stream") as stream:
        assert (await read_until_live(stream))[0].type == "hello"


async def test_a_ticket_opens_a_stream_once(client: httpx.AsyncClient, tailrace: Served) -> None:
    run_id, _ = await lease(client)
    path = f"{RUNS}/{run_id}/stream"
    ticket = await ticket_for(client, path)
    async with client_of(tailrace.url) as stranger:
        async with sse(stranger, path, params={"ticket": ticket, "after": "start"}) as stream:
            assert (await read_until_live(stream))[0].event["filter"] is not None
        problem_of(await stranger.get(path, params={"ticket": ticket}), 401)


async def test_of_two_replicas_one_redeems_a_ticket(client: httpx.AsyncClient, tailrace: Served) -> None:
    path = f"{RUNS}/events"
    async with running(tailrace.database_url, **SETTINGS) as other, AsyncExitStack() as stack:
        strangers = [await stack.enter_async_context(client_of(url)) for url in (tailrace.url, other.url)]
        for _ in range(5):
            ticket = await ticket_for(client, path)
            asking = [stranger.get(path, params={"ticket": ticket}) for stranger in strangers * 5]
            statuses = [answer.status_code for answer in await asyncio.gather(*asking)]
            assert sorted(statuses) == [200, *[401] * 9]


async def test_a_ticket_is_for_its_path_and_for_reading(client: httpx.AsyncClient, tailrace: Served) -> None:
    async with client_of(tailrace.url) as stranger:
        ticket = await ticket_for(client, f"{RUNS}/stream")
        problem_of(await stranger.get("/api/v1/tasks/stream", params={"ticket": ticket}), 401)
        problem_of(await stranger.get(f"{RUNS}/stream", params={"ticket": ticket}), 401)  # used up
        ticket = await ticket_for(client, RUNS)
        problem_of(await stranger.post(RUNS, params={"ticket": ticket}, json={"task": "t"}), 400)
        problem_of(await client.get(RUNS, params={"ticket": ticket}), 400)  # beside a token
        problem_of(await stranger.get(RUNS, params=[("ticket", "a"), ("ticket", "b")]), 400)
        problem_of(await stranger.get(RUNS, params={"ticket": "x" * 300}), 400)
        problem_of(await stranger.get(RUNS, params={"ticket": "\0é"}), 401)


async def test_a_ticket_for_a_path_that_cannot_be_is_refused(client: httpx.AsyncClient) -> None:
    for path in (f"{RUNS}/%00", "/api/v1/%00", f"{RUNS}/stream?after=1", "/tasks", f"{RUNS}/stream\n"):
        problem_of(await client.post(TICKETS, json={"path": path}), 400)


async def test_a_ticket_may_no_more_than_its_token(tailrace: Served) -> None:
    async with client_of(tailrace.url, token(scopes=["tasks:read"])) as reader, client_of(tailrace.url) as stranger:
        ticket = await ticket_for(reader, f"{RUNS}/stream")
        problem_of(await stranger.get(f"{RUNS}/stream", params={"ticket": ticket}), 403)


async def test_a_ticket_is_too_old_after_its_time(client: httpx.AsyncClient, tailrace: Served) -> None:
    ticket = await ticket_for(client, RUNS)
    async with sql(tailrace.database_url) as database:
        await database.execute("UPDATE access.tickets SET expires_at = now()")
    async with client_of(tailrace.url) as stranger:
        problem_of(await stranger.get(RUNS, params={"ticket": ticket}), 401)


async def test_a_ticket_ends_with_its_token(tailrace: Served) -> None:
    short, revoked = token(seconds=SHORT_SECONDS), token()
    path = f"{RUNS}/stream"
    async with client_of(tailrace.url) as stranger:
        async with client_of(tailrace.url, short) as owner:
            ticket = await ticket_for(owner, path)
        async with sse(stranger, path, params={"ticket": ticket}) as stream:
            frames = [Frame.of_sse(message) async for message in stream]
        assert frames[-1].event["reason"] == "token_expired"
        async with client_of(tailrace.url, revoked) as owner:
            ticket = await ticket_for(owner, path)
        revoke(tailrace, revoked)
        await eventually(lambda: refused(tailrace, revoked), "the revocation is heard of")
        problem_of(await stranger.get(path, params={"ticket": ticket}), 401)


async def refused(tailrace: Served, text: str) -> bool:
    async with client_of(tailrace.url, text) as client:
        return (await client.get(RUNS)).status_code == 401


async def test_a_token_among_the_subprotocols_is_not_told_back(client: httpx.AsyncClient, tailrace: Served) -> None:
    run_id, _ = await lease(client)
    for name in ("tailrace.v1", "tailrace.v1.msgpack"):
        async with socket(tailrace.server, f"{RUNS}/{run_id}/stream", token(), subprotocol=name) as opened:
            assert opened.connection.subprotocol == name
            assert (await opened.next()).type == "hello"


async def test_a_token_alone_among_the_subprotocols_is_refused_without_showing_it(tailrace: Served) -> None:
    text = token()
    document = await refusal_of(f"{tailrace.websocket_url}{RUNS}/stream", [f"bearer.{text}"])
    assert (document["status"], text in json.dumps(document)) == (400, False)
    document = await refusal_of(f"{tailrace.websocket_url}{RUNS}/stream", ["nonsense", f"bearer.{text}"])
    assert (document["status"], text in json.dumps(document)) == (400, False)
    for offered in ([f"Bearer.{text}"], ["nonsense", f"BEARER.{text}"]):
        document = await refusal_of(f"{tailrace.websocket_url}{RUNS}/stream", offered)
        assert (document["status"], text in json.dumps(document)) == (400, False)
    document = await refusal_of(f"{tailrace.websocket_url}{RUNS}/stream", ["tailrace.v1", "bearer.a.b.c"])
    assert document["status"] == 401


@pytest.mark.parametrize("path", [f"{RUNS}/stream", f"{RUNS}/ws"])
async def test_a_token_may_come_as_the_first_message(tailrace: Served, path: str) -> None:
    async with socket(tailrace.server, path, token(), in_band=True) as opened:
        if path.endswith("/ws"):
            await opened.send({"op": "follow", "ref": "a", "channel": "runs"})
        assert (await opened.next()).type == "hello"


@pytest.mark.parametrize("path", [f"{RUNS}/stream", f"{RUNS}/ws"])
@pytest.mark.parametrize("first", [{"op": "ping"}, {"op": "auth", "token": "a.b.c"}, {"op": "auth"}, "nonsense", 5])
async def test_another_first_message_closes(tailrace: Served, path: str, first: Any) -> None:
    async with socket(tailrace.server, path) as opened:
        await opened.send(first)
        told = await opened.next()
        assert (told.type, told.event["problem"]["status"]) == ("refused", 401)
        assert await opened.close_code() == 4401


async def test_a_scope_that_is_lacking_and_a_subject_that_is_not_there_close_too(tailrace: Served) -> None:
    for scopes, path, code in (
        (["tasks:read"], f"{RUNS}/stream", 4403),
        (["runs:read"], f"{RUNS}/run_01jzzzzzzzzzzzzzzzzzzzzzzz/stream", 4404),
    ):
        async with socket(tailrace.server, path, token(scopes=scopes), in_band=True) as opened:
            assert (await opened.next()).type == "refused"
            assert await opened.close_code() == code


async def test_who_says_nothing_is_sent_away_and_there_is_little_room_to_wait(tailrace: Served) -> None:
    async with AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(socket(tailrace.server, f"{RUNS}/ws")) for _ in range(3)]
        document = await refusal_of(f"{tailrace.websocket_url}{RUNS}/stream", ["tailrace.v1"])
        assert document["status"] == 503
        async with socket(tailrace.server, f"{RUNS}/stream", token()) as opened:  # needs no room to wait in
            assert (await opened.next()).type == "hello"
        assert [await opened.close_code() for opened in silent] == [4401] * 3
    async with socket(tailrace.server, f"{RUNS}/stream", token(), in_band=True) as opened:
        assert (await opened.next()).type == "hello"


async def test_a_channel_wants_its_own_scope(tailrace: Served) -> None:
    async with socket(tailrace.server, f"{RUNS}/ws", token(scopes=["sessions:read"])) as opened:
        await opened.send({"op": "follow", "ref": "s", "channel": "session/x"})
        assert (await opened.next()).type == "hello"
        for channel in ("runs", "run/run_01jzzzzzzzzzzzzzzzzzzzzzzz"):
            await opened.send({"op": "follow", "ref": channel, "channel": channel})
            told = (await opened.until(lambda frame: frame.type == "refused"))[-1]
            assert (told.ref, told.event["problem"]["status"]) == (channel, 403)


# ── how it is replaced ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", [f"{RUNS}/stream", f"{RUNS}/ws"])
async def test_a_newer_token_of_the_same_bearer_lets_a_connection_go_on(
    client: httpx.AsyncClient, tailrace: Served, path: str
) -> None:
    async with (
        socket(tailrace.server, path, token(seconds=SHORT_SECONDS)) as old,
        socket(tailrace.server, path, token(seconds=SHORT_SECONDS)) as opened,
    ):
        for each in (old, opened):
            if path.endswith("/ws"):
                await each.send({"op": "follow", "ref": "a", "channel": "runs"})
        await opened.send({"op": "auth", "token": token()})
        told = (await opened.until(lambda frame: frame.type == "authenticated"))[-1]
        assert told.event["expires_at"] > 1e9
        assert await old.close_code() == 4401  # the same token, had it not been replaced
        created = await client.post(RUNS, json={"task": "t", "mode": "queued", "runner": "x"})
        run_id = created.json()["id"]
        await opened.until(lambda frame: frame.event.get("run_id") == run_id)


async def test_a_python_client_without_a_token_is_refused_over_both_transports(tailrace: Served) -> None:
    """A WebSocket is let in, since a token may come as its first message: the refusal is a frame there."""
    for transport in ("sse", "websocket"):
        async with Client(tailrace.url, transport=transport) as stranger, asyncio.timeout(ANSWER_SECONDS):
            with pytest.raises(Unauthorized):
                async for _ in stranger.follow(f"{RUNS}/stream"):
                    pass


async def test_somebody_elses_token_closes(tailrace: Served) -> None:
    for other in (token("bob"), token(tenant="other"), token(scopes=["tasks:read"])):
        async with socket(tailrace.server, f"{RUNS}/stream", token()) as opened:
            await opened.send({"op": "auth", "token": other})
            assert await opened.close_code() == 4403


async def test_a_bad_token_leaves_all_as_it_is_but_not_for_ever(tailrace: Served) -> None:
    async with socket(tailrace.server, f"{RUNS}/stream", token()) as opened:
        for bad in ("nonsense", token(seconds=-1)):
            await opened.send({"op": "auth", "token": bad})
            told = (await opened.until(lambda frame: frame.type == "refused"))[-1]
            assert (told.event["problem"]["status"], bad in json.dumps(told.event)) == (401, False)
        await opened.send({"op": "ping"})
        await opened.until_type("pong")
        await opened.send({"op": "auth", "token": "nonsense"})
        assert await opened.close_code() == 4400


# ── how a stream ends with it ──────────────────────────────────────────────────────────────────────────────────


async def test_a_stream_ends_when_its_token_does(client: httpx.AsyncClient, tailrace: Served) -> None:
    """Over every transport, at that time, and told: its client comes back with another from the place where it was."""
    run_id, lease_token = await lease(client)
    (await append(client, run_id, lease_token, 2)).raise_for_status()
    short = token(seconds=SHORT_SECONDS)
    path = f"{RUNS}/{run_id}/stream"

    async def over_sse() -> dict[str, Any]:
        async with client_of(tailrace.url, short) as own, sse(own, path) as stream:
            return [Frame.of_sse(message) async for message in stream][-1].event

    async def over_a_socket(name: str) -> dict[str, Any]:
        async with socket(tailrace.server, path, short, subprotocol=name) as opened:
            end = await end_of(opened)
            assert await opened.close_code() == 4401
            return end

    async def beside_others() -> dict[str, Any]:
        async with socket(tailrace.server, f"{RUNS}/ws", short) as opened:
            for ref in ("a", "b"):
                await opened.send({"op": "follow", "ref": ref, "channel": f"run/{run_id}"})
            ends: dict[str | None, dict[str, Any]] = {}
            while len(ends) < 2:
                frame = (await opened.until(lambda frame: frame.type == "stream_end"))[-1]
                ends[frame.ref] = frame.event
            assert await opened.close_code() == 4401
            return ends["b"]

    ways = (over_sse(), over_a_socket("tailrace.v1"), over_a_socket("tailrace.v1.msgpack"), beside_others())
    async with asyncio.timeout(ANSWER_SECONDS):
        ends = await asyncio.gather(*ways)
    for end in ends:
        assert (end["reason"], end["final"], end["status"]) == ("token_expired", False, None)
        assert end["retry_after_ms"] > 0
    async with sse(client, path, headers={"last-event-id": ends[0]["last_id"]}) as stream:
        frames = await read_until_live(stream)
    assert [frame.type for frame in frames] == ["hello", "live"]  # nothing was missing


async def ended(tailrace: Served, text: str) -> None:
    """Wait until the token has: a stream that lives by it says so."""
    async with client_of(tailrace.url, text) as own, sse(own, f"{RUNS}/stream") as stream:
        assert [Frame.of_sse(message) async for message in stream][-1].event["reason"] == "token_expired"


async def test_a_body_that_is_complete_only_after_the_token_has_ended_changes_nothing(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    short = token(seconds=SHORT_SECONDS)

    async def slowly() -> AsyncIterator[bytes]:
        yield b'{"task":"late",'
        await ended(tailrace, short)
        yield b'"mode":"queued","runner":"late"}'

    async with client_of(tailrace.url, short) as own:
        answer = await own.post(RUNS, content=slowly(), headers={"content-type": "application/json"})
    problem_of(answer, 401)
    assert (await client.get(RUNS, params={"runner": "late"})).json()["data"] == []


async def test_a_worker_that_waits_beyond_its_token_gets_no_run(client: httpx.AsyncClient, tailrace: Served) -> None:
    short = token(seconds=SHORT_SECONDS)
    async with client_of(tailrace.url, short) as own:
        asking = asyncio.create_task(own.post(f"{RUNS}/lease", json={"runners": ["gone"], "wait_seconds": 60}))
        await ended(tailrace, short)
        created = await client.post(RUNS, json={"task": "t", "mode": "queued", "runner": "gone"})
        problem_of(await asking, 401)
        assert (await client.get(f"{RUNS}/{created.json()['id']}")).json()["status"] == "queued"


async def test_a_caller_that_waits_beyond_its_token_is_told_no_more_than_at_first(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    short = token(seconds=SHORT_SECONDS)
    async with client_of(tailrace.url, short) as own:
        new = {"task": "t", "mode": "queued", "runner": "preferred"}
        asking = asyncio.create_task(own.post(RUNS, json=new, headers={"prefer": "wait=60"}))
        await ended(tailrace, short)
        leased = await client.post(f"{RUNS}/lease", json={"runners": ["preferred"]})
        run_id, lease_token = leased.json()["run"]["id"], leased.json()["lease"]["token"]
        finish = {"status": "completed", "output": "a secret"}
        done = await client.post(f"{RUNS}/{run_id}/finish", json=finish, headers={"tailrace-lease": lease_token})
        done.raise_for_status()
        answer = await asking
    assert (answer.json()["id"], answer.json()["status"]) == (run_id, "queued")
    assert "a secret" not in answer.text


async def test_a_long_answer_is_cut_where_its_token_ends(client: httpx.AsyncClient, tailrace: Served) -> None:
    """As much as lies in buffers has left already."""
    run_id, lease_token = await lease(client)
    for _ in range(8):
        snippets = [{"type": "node_update", "node": "n" * 100, "snippet": "x" * 200, "model": "m" * 100}] * 1_000
        told = await client.post(
            f"{RUNS}/{run_id}/events", json={"events": snippets}, headers={"tailrace-lease": lease_token}
        )
        told.raise_for_status()
    short = token(seconds=SHORT_SECONDS)
    narrow = httpx.AsyncHTTPTransport(socket_options=[(socket_module.SOL_SOCKET, socket_module.SO_RCVBUF, 4096)])
    asked = {"after": "start"}
    headers = {**bearing(short), "accept": "application/x-ndjson"}
    async with (
        httpx.AsyncClient(base_url=tailrace.url, transport=narrow, timeout=ANSWER_SECONDS) as own,
        own.stream("GET", f"{RUNS}/{run_id}/events", params=asked, headers=headers) as answer,
    ):
        assert answer.status_code == 200
        lines = answer.aiter_lines()
        await anext(lines)
        await ended(tailrace, short)
        with pytest.raises(httpx.TransportError):
            async for _ in lines:
                pass


async def test_who_says_who_it_is_in_its_first_message_is_counted_too(database_url: str) -> None:
    """The rates of callers and tenants: only its address was."""
    settings = {**JWT, "requests_per_second": 0.01, "request_burst": 4, "trusted_proxies": "127.0.0.1"}
    async with running(database_url, **settings) as server:
        url = server.url.replace("http", "ws", 1) + f"{RUNS}/stream"
        codes = []
        for number in range(6):
            from_elsewhere = {"x-forwarded-for": f"10.0.0.{number}"}
            async with connect(url, additional_headers=from_elsewhere, close_timeout=2) as connection:
                opened = Socket(connection)
                await opened.send({"op": "auth", "token": token()})
                told = await opened.next()
                codes.append(await opened.close_code() if told.type == "refused" else None)
        assert codes == [None] * 4 + [4429] * 2


async def test_a_poll_that_waits_beyond_its_token_is_refused(tailrace: Served) -> None:
    async with client_of(tailrace.url, token(seconds=SHORT_SECONDS)) as own:
        for path in (f"{RUNS}/events", "/api/v1/sessions/quiet/events"):
            asked = await own.get(path, params={"wait": SHORT_SECONDS + 1, "after": "now"})
            problem_of(asked, 401)


async def test_a_revoked_token_ends_its_streams_everywhere(client: httpx.AsyncClient, tailrace: Served) -> None:
    text = token()
    async with (
        running(tailrace.database_url, **SETTINGS) as other,
        client_of(tailrace.url, text) as near,
        client_of(other.url, text) as far,
        sse(near, f"{RUNS}/stream") as near_stream,
        sse(far, f"{RUNS}/stream") as far_stream,
        sse(client, f"{RUNS}/stream") as healthy,
        socket(other, f"{RUNS}/stream", text) as alone,
        socket(other, f"{RUNS}/ws", text) as shared,
    ):
        for stream in (near_stream, far_stream, healthy):
            await read_until_live(stream)
        await shared.send({"op": "follow", "ref": "a", "channel": "runs"})
        await shared.until_type("live", "a")
        await alone.until_type("live")
        revoke(tailrace, text)
        async with asyncio.timeout(ANSWER_SECONDS):
            for stream in (near_stream, far_stream):
                end = [Frame.of_sse(message) async for message in stream][-1].event
                assert (end["type"], end["reason"], end["final"]) == ("stream_end", "access_revoked", True)
            assert (await end_of(alone))["reason"] == (await end_of(shared, "a"))["reason"] == "access_revoked"
            assert [await alone.close_code(), await shared.close_code()] == [4404, 4404]
        problem_of(await near.get(RUNS), 401)
        problem_of(await far.post(RUNS, json={"task": "t"}), 401)
        await client.post(RUNS, json={"task": "t", "mode": "queued", "runner": "x"})
        assert (await anext(healthy)).event == "status"  # the others go on


@pytest.mark.parametrize("kind", ["task", "run"])
async def test_a_subject_that_is_given_to_another_tenant_ends_its_streams(
    client: httpx.AsyncClient, tailrace: Served, kind: str
) -> None:
    """By a statement past the service, as it would have to be done; on every replica. Nor is it replayed after that."""
    if kind == "run":
        subject, _ = await lease(client)
        table = "runs.runs"
    else:
        subject = (await client.post("/api/v1/tasks", json={"title": "t"})).json()["id"]
        table = "tasks.tasks"
    path = f"/api/v1/{kind}s/{subject}/stream"
    async with (
        running(tailrace.database_url, **SETTINGS) as other,
        client_of(other.url, token()) as far,
        client.stream("GET", path) as near_answer,
        far.stream("GET", path) as far_answer,
    ):
        async with sql(tailrace.database_url) as database:
            await database.execute(f"UPDATE {table} SET tenant = 'other' WHERE id = $1", subject)
        async with asyncio.timeout(ANSWER_SECONDS):
            for answer in (near_answer, far_answer):
                text = (await answer.aread()).decode()
                assert json.loads(text.rstrip().rpartition("data: ")[2])["reason"] == "access_revoked"
        for gone in (path, path.replace("/stream", "/events"), path.removesuffix("/stream")):
            problem_of(await client.get(gone), 404)


# ── what must not be told ──────────────────────────────────────────────────────────────────────────────────────


async def test_no_token_or_ticket_gets_into_a_log_or_a_metric(database_url: str) -> None:
    settings = {**SETTINGS, "log_level": "debug"}
    good, expired = token(), token(seconds=-1)
    async with running(database_url, **settings) as server, client_of(server.url, good) as client:
        run_id, _ = await lease(client)
        path = f"{RUNS}/{run_id}/stream"
        ticket = await ticket_for(client, path)
        second = await ticket_for(client, path)
        async with client_of(server.url) as stranger:
            async with sse(stranger, path, params={"ticket": ticket}) as stream:
                await read_until_live(stream)
            await stranger.get(path, params={"ticket": ticket})
            await stranger.get(RUNS, params={"access_token": good})
            await stranger.get(RUNS, headers=bearing(expired))
            url = server.url.replace("http", "ws", 1) + path
            async with connect(f"{url}?ticket={second}", subprotocols=[Subprotocol("tailrace.v1")]) as connection:
                await connection.recv()
            await refusal_of(url, ["tailrace.v1", f"bearer.{expired}"])
            await refusal_of(f"{url}?token={good}", ["tailrace.v1"])
            told = (await stranger.get("/metrics")).text
        async with socket(server, path, good) as opened:
            await opened.send({"op": "auth", "token": expired})
            await opened.until_type("refused")
        async with socket(server, path, good, in_band=True) as opened:
            await opened.next()
        await server.end()
        told += "".join(server.output)
    assert "stream ended" in told  # it did log
    for secret in (good, expired, ticket, second, SECRET):
        assert secret not in told
        assert secret.rpartition(".")[0] not in told or "." not in secret


async def test_tickets_are_kept_as_hashes(client: httpx.AsyncClient, tailrace: Served) -> None:
    ticket = await ticket_for(client, RUNS)
    async with sql(tailrace.database_url) as database:
        rows = await database.fetch("SELECT t::text FROM access.tickets t")
    assert rows
    assert all(ticket not in row[0] for row in rows)


async def test_tickets_are_for_paths_of_the_api(client: httpx.AsyncClient) -> None:
    for path in ("", "/", "http://elsewhere.example/", f"{RUNS}/stream?a=b", f"{RUNS}\n"):
        problem_of(await client.post(TICKETS, json={"path": path}), 400)


# ── without tokens ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_with_auth_off_tokens_and_tickets_do_no_harm(database_url: str) -> None:
    """So that a client need not know."""
    async with running(database_url) as server, client_of(server.url, token()) as client:
        ticket = await ticket_for(client, f"{RUNS}/events")
        async with client_of(server.url) as stranger:
            assert (await stranger.get(f"{RUNS}/events", params={"ticket": ticket})).is_success
            problem_of(await stranger.get(f"{RUNS}/events", params={"ticket": ticket}), 401)
        async with socket(server, f"{RUNS}/stream", token()) as opened:
            await opened.send({"op": "auth", "token": "whatever"})
            told = (await opened.until(lambda frame: frame.type == "authenticated"))[-1]
            assert told.event["expires_at"] is None


def test_the_settings_say_what_is_lacking() -> None:
    """At the start, in a sentence that shows no secret."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")}
    for given, words in (
        ({"TAILRACE_AUTH": "jwt"}, "TAILRACE_JWT_ISSUER"),
        ({"TAILRACE_AUTH": "jwt", "TAILRACE_JWT_SECRET": "hunter2"}, "shorter than 32 bytes"),
        ({"TAILRACE_JWT_SECRET": "hunter2" * 9}, "TAILRACE_AUTH is off"),
        ({"TAILRACE_AUTH": "jwt", "TAILRACE_JWT_SECRET_FILE": "/nowhere"}, "TAILRACE_JWT_SECRET_FILE"),
        ({"TAILRACE_ORIGINS": "*"}, "TAILRACE_ORIGINS"),
        ({"TAILRACE_AUTH": "jwt", "TAILRACE_JWT_PUBLIC_KEY": "x"}, "public key"),
    ):
        jwt = {"TAILRACE_JWT_ISSUER": ISSUER, "TAILRACE_JWT_AUDIENCE": AUDIENCE} if len(given) > 1 else {}
        environment = {
            **own,
            **jwt,
            **given,
            "TAILRACE_PORT": "0",
            "TAILRACE_DATABASE_URL": "postgresql://nowhere.invalid/x",
        }
        done = subprocess.run(
            [sys.executable, "-m", "services.cli", "up"],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1, given
        assert words in done.stderr, (given, done.stderr)
        assert "hunter2" not in done.stderr
