"""The Python client and a server that answers badly: what is tried again, when, and what is raised."""

import asyncio
import http
import json
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from shared.client import AccessRevoked, Client, Forbidden, Refused, Unauthorized, Unavailable, Unreadable
from shared.client import follow as follow_module
from shared.client.follow import Follow
from tests.integration.client_support import Watch, fields_of, rest_of
from tests.support.contract import ANSWER_SECONDS
from tests.support.scripted_server import (
    Reply,
    ScriptedServer,
    answer,
    end,
    event,
    hello,
    live,
    problem,
    scripted,
    stream,
)

PATH = "/api/v1/runs/stream"
PROXY_PAGE = Reply(200, {"content-type": "text/html; charset=utf-8"}, b"<html>Please sign in</html>")
LAST = end("e-9", "terminal", final=True)
ENDED = stream(hello("e-0"), live("e-0"), LAST)

pytestmark = pytest.mark.usefixtures("quick_backoff")


@asynccontextmanager
async def following(server: ScriptedServer, **options: Any) -> AsyncIterator[Follow]:
    token = options.pop("token", None)
    async with (
        asyncio.timeout(ANSWER_SECONDS),
        Client(server.url, token=token) as client,
        client.follow(PATH, **options) as opened,
    ):
        yield opened


# ── what is tried again ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "reply",
    [
        *[problem(status, "later") for status in (408, 425, 429, 500, 502, 503, 504)],
        Reply(502, {"content-type": "text/html"}, b"<html>Bad Gateway</html>"),
        Reply(521),
        PROXY_PAGE,
        Reply(200),
        Reply(0),  # the connection is closed without an answer
        Reply(200, {"content-type": "text/event-stream"}, b": op", then="cut"),
        stream(hello("e-0"), then="cut"),
        stream(hello("e-0"), live("e-0"), then="end"),
        stream(beginning=b"<html>an event stream, it says</html>"),
    ],
    ids=lambda reply: f"{reply.status} {reply.headers.get('content-type', '')} {reply.then}",
)
async def test_what_may_go_better_is_tried_again(reply: Reply) -> None:
    async with scripted(reply, reply, ENDED) as server, following(server) as opened:
        assert await rest_of(opened) == []
        assert opened.end is not None
        assert len(server.asked) == 3


async def test_it_resumes_from_the_last_id_of_whatever_frame() -> None:
    replies = [
        stream(hello("e-3"), then="cut"),
        stream(hello("e-3"), event("e-4"), then="cut"),
        stream(hello("e-4"), ("e-7", {"type": "bookmark"}), then="cut"),
        stream(hello("e-7"), live("e-8"), then="cut"),
        stream(hello("e-8"), event("e-9"), beginning=b"id: e-77\n", then="cut"),  # and no blank line: no frame
        Reply(200, {"content-type": "text/event-stream"}, b'id: e-10\nevent: made_up\ndata: {"type":"made', then="cut"),
        ENDED,
    ]
    async with scripted(*replies) as server, following(server, after="e-2", types=("made_up",)) as opened:
        assert [position for position, _ in await rest_of(opened)] == ["e-4", "e-9"]
    assert [asked.headers.get("last-event-id") for asked in server.asked] == [
        None, "e-3", "e-4", "e-7", "e-8", "e-9", "e-9"
    ]  # fmt: skip
    assert [asked.query.get("after") for asked in server.asked] == ["e-2", *[None] * 6]
    assert {asked.query["types"] for asked in server.asked} == {"made_up"}


async def test_a_cut_between_hello_and_its_reset_does_not_hide_the_reset() -> None:
    reset = ("e-40", {"type": "reset", "reason": "history_trimmed", "requested": "e-2", "oldest": 41, "head": 99})
    greeted = stream(hello("e-40", resumed=False), then="cut")
    whole = stream(hello("e-40", resumed=False), reset, event("e-41"), then="cut")
    async with scripted(greeted, whole, ENDED) as server, following(server, after="e-2") as opened:
        assert [position for position, _ in await rest_of(opened)] == ["e-40", "e-41"]
    assert server.asked[1].query["after"] == "e-2"
    assert server.asked[2].headers["last-event-id"] == "e-41"


@pytest.mark.parametrize("anchor", ["start", "now", None])
async def test_before_the_first_frame_the_same_question_is_asked_again(anchor: str | None) -> None:
    async with scripted(Reply(0), problem(503, "later"), ENDED) as server, following(server, after=anchor) as opened:
        assert await rest_of(opened) == []
    assert [asked.query.get("after") for asked in server.asked] == [anchor] * 3


async def test_live_ends_the_growth_of_the_pauses_and_hello_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[int] = []

    def no_pause(number: int, chance: float, asked: float | None) -> float:
        failures.append(number)
        return 0

    monkeypatch.setattr(follow_module, "pause", no_pause)
    later, greeted = problem(503, "later"), stream(hello("e-1"), then="cut")
    replies = [later, later, greeted, later, stream(hello("e-1"), live("e-1"), then="cut"), later, ENDED]
    async with scripted(*replies) as server, following(server) as opened:
        await rest_of(opened)
    assert failures == [1, 2, 3, 4, 1, 2]


@pytest.mark.parametrize("date", [False, True])
async def test_retry_after_is_kept_to(date: bool) -> None:
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True) if date else "1"
    refusal = problem(429, "too many", retry_after=when)
    async with scripted(refusal, ENDED) as server, following(server) as opened:
        await rest_of(opened)
    assert server.asked[1].at - server.asked[0].at >= 0.9


async def test_a_stream_end_says_when_to_be_back() -> None:
    leaving = stream(hello("e-1"), live("e-1"), end("e-1", "server_shutdown", final=False, retry_after_ms=700))
    async with scripted(leaving, ENDED) as server, following(server) as opened:
        await rest_of(opened)
    assert server.asked[1].at - server.asked[0].at >= 0.7


async def test_the_streams_own_retry_time_is_kept_to_after_a_cut() -> None:
    cut = stream(hello("e-1"), live("e-1"), beginning=b": open\nretry: 700\n", then="cut")
    async with scripted(cut, ENDED) as server, following(server) as opened:
        await rest_of(opened)
    assert server.asked[1].at - server.asked[0].at >= 0.7


@pytest.mark.parametrize("reason", ["server_shutdown", "max_duration", "slow_reader", "token_expired", "a_new_reason"])
async def test_an_end_that_is_not_final_is_come_back_from(reason: str) -> None:
    leaving = stream(hello("e-1"), event("e-2"), end("e-2", reason, final=False), then="hang")
    async with scripted(leaving, ENDED) as server, following(server) as opened:
        assert [position for position, _ in await rest_of(opened)] == ["e-2"]
    assert server.asked[1].headers["last-event-id"] == "e-2"


async def test_silence_is_a_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow_module, "SHORTEST_SILENCE_SECONDS", 0.05)
    monkeypatch.setattr(follow_module, "OPEN_SECONDS", 0.3)
    silent = stream(hello("e-1", heartbeat_seconds=0.1), live("e-1"), then="hang")
    before_hello = stream(then="hang")
    no_answer = Reply(then="hang")
    async with scripted(silent, before_hello, no_answer, ENDED) as server, following(server) as opened:
        assert await rest_of(opened) == []
    times = [asked.at for asked in server.asked]
    assert times[1] - times[0] >= 0.25
    assert times[2] - times[1] >= 0.3


async def test_heartbeats_keep_a_stream_open() -> None:
    beating = Reply(200, {"content-type": "text/event-stream"}, stream(hello("e-1"), live("e-1")).body, "beat")
    async with scripted(beating, ENDED) as server, following(server) as opened:
        assert await rest_of(opened) == []
    assert server.asked[1].at - server.asked[0].at >= 2.0


# ── what is not ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("status", [400, 402, 405, 406, 413, 422, 451, 501])
async def test_what_will_not_change_is_raised_at_once(status: int) -> None:
    async with scripted(problem(status, "do it otherwise")) as server, following(server) as opened:
        with pytest.raises(Refused) as refused:
            await anext(opened)
    assert str(refused.value) == f"do it otherwise (status {status}, request r1)"
    assert len(server.asked) == 1


async def test_a_refusal_that_is_no_problem_document_is_told_all_the_same() -> None:
    page = Reply(403, {"content-type": "text/html"}, b"<html>" + b"x" * 1_000_000)
    async with scripted(page) as server, following(server) as opened:
        with pytest.raises(Forbidden, match="answered 403 with text/html"):
            await anext(opened)


async def test_redirects_are_not_followed() -> None:
    async with scripted(Reply(307, {"location": "http://elsewhere.example/"})) as server, following(server) as opened:
        with pytest.raises(Refused, match=r"redirect to http://elsewhere\.example/, which is not followed"):
            await anext(opened)


async def test_access_that_is_revoked_is_raised() -> None:
    revoked = stream(hello("e-1"), event("e-2"), end("e-2", "access_revoked", final=True))
    async with scripted(revoked) as server, following(server) as opened:
        assert fields_of(await anext(opened))["type"] == "made_up"
        with pytest.raises(AccessRevoked):
            await anext(opened)
        assert opened.state == "ended"


@pytest.mark.parametrize(
    "data", [b"[1]", b"7", b"{", b"no json", b'{"type":"gap"}', b'{"a":' * 5_000 + b"1" + b"}" * 5_000]
)
async def test_what_is_not_tailraces_is_raised_not_skipped(data: bytes) -> None:
    body = stream(hello("e-1"), event("e-2")).body + b"id: e-3\ndata: " + data + b"\n\n"
    async with (
        scripted(Reply(200, {"content-type": "text/event-stream"}, body)) as server,
        following(server) as opened,
    ):
        await anext(opened)
        with pytest.raises(Unreadable):
            await anext(opened)


async def test_a_frame_without_end_does_not_fill_the_memory() -> None:
    endless = Reply(200, {"content-type": "text/event-stream"}, b"data: " + b"x" * 9_000_000, then="hang")
    async with scripted(endless) as server, following(server) as opened:
        with pytest.raises(Unreadable, match="no frame has ended"):
            await anext(opened)


async def test_it_gives_up_when_it_was_told_to(unused_tcp_port: int) -> None:
    began = asyncio.get_running_loop().time()
    async with Client(f"http://127.0.0.1:{unused_tcp_port}") as client, asyncio.timeout(ANSWER_SECONDS):
        with pytest.raises(Unavailable, match=r"no connection for 0\.4 s"):
            await anext(client.follow(PATH, give_up_after_seconds=0.4))
    assert asyncio.get_running_loop().time() - began >= 0.4


async def test_giving_up_counts_from_the_last_connection() -> None:
    cut = stream(hello("e-1"), live("e-1"), beginning=b"retry: 50\n", then="cut")
    async with scripted(*[cut] * 15, ENDED) as server, following(server, give_up_after_seconds=0.5) as opened:
        await rest_of(opened)
    assert server.asked[-1].at - server.asked[0].at > 0.5  # that long, but never without a connection


# ── tokens ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Tokens:
    """Gives `t1`, `t2` …"""

    def __init__(self) -> None:
        self.given = 0

    async def __call__(self) -> str:
        self.given += 1
        return f"t{self.given}"


def sent(server: ScriptedServer) -> list[str | None]:
    return [asked.headers.get("authorization") for asked in server.asked]


async def test_a_refused_token_is_renewed_once() -> None:
    tokens = Tokens()
    async with scripted(problem(401, "expired"), ENDED) as server, following(server, token=tokens) as opened:
        assert await rest_of(opened) == []
    assert sent(server) == ["Bearer t1", "Bearer t2"]


async def test_a_second_refusal_in_a_row_is_raised() -> None:
    tokens = Tokens()
    async with scripted(problem(401, "who are you?")) as server, following(server, token=tokens) as opened:
        with pytest.raises(Unauthorized, match="who are you"):
            await anext(opened)
    assert sent(server) == ["Bearer t1", "Bearer t2"]


@pytest.mark.parametrize("token", [None, "fixed"])
async def test_without_anybody_to_ask_a_refusal_is_raised(token: str | None) -> None:
    async with scripted(problem(401, "who are you?")) as server, following(server, token=token) as opened:
        with pytest.raises(Unauthorized):
            await anext(opened)
    assert sent(server) == [None if token is None else "Bearer fixed"]


async def test_a_token_that_expires_under_way_is_renewed() -> None:
    expired = stream(hello("e-1"), live("e-1"), end("e-1", "token_expired", final=False))
    async with scripted(expired, ENDED) as server, following(server, token=Tokens()) as opened:
        assert await rest_of(opened) == []
    assert sent(server) == ["Bearer t1", "Bearer t2"]


async def test_many_streams_that_are_refused_ask_for_one_token() -> None:
    tokens = Tokens()
    async with (
        asyncio.timeout(ANSWER_SECONDS),
        scripted(*[problem(401, "expired")] * 5, ENDED) as server,
        Client(server.url, token=tokens) as client,
    ):
        streams = [client.follow(PATH) for _ in range(5)]
        assert await asyncio.gather(*map(rest_of, streams)) == [[]] * 5
    assert tokens.given == 2


async def test_what_the_token_function_raises_is_raised() -> None:
    async def broken() -> str:
        raise LookupError("no such key")

    async with scripted(ENDED) as server, following(server, token=broken) as opened:
        with pytest.raises(LookupError):
            await anext(opened)


# ── leaving ────────────────────────────────────────────────────────────────────────────────────────────────────


NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def light(url: str, **options: Any) -> Client:
    """Without the certificates, which take the most of the time when there are many clients."""
    return Client(url, ssl_context=NO_TLS, **options)


async def cancelled_after(steps: int, work: Coroutine[Any, Any, Any]) -> bool:
    """Cancel it after so many turns of the event loop. False: it had come to its end."""
    task = asyncio.create_task(work)
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    return task.cancelled()


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns of the event loop are all that a test needs to come to the next connection."""
    monkeypatch.setattr(follow_module, "pause", lambda *_: 0.0)


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize(
    "replies",
    [
        [problem(503, "later")],
        [Reply(0)],
        [stream(hello("e-1"), event("e-2"), end("e-2", "max_duration", final=False), then="hang")],
        [stream(hello("e-2"), live("e-2"), event("e-3"), then="end")],
        [stream(hello("e-3"), live("e-3"), then="hang")],
    ],
    ids=["refused", "cut", "ended", "body ended", "open"],
)
async def test_cancelling_anywhere_leaves_no_task_and_no_connection(replies: list[Reply]) -> None:
    """In connecting, refusals, reading, closing, and in between."""
    for steps in range(80):
        async with asyncio.timeout(ANSWER_SECONDS), scripted(*replies) as server, light(server.url) as client:
            opened = client.follow(PATH)
            assert await cancelled_after(steps, rest_of(opened))
            await server.until_left()
        assert asyncio.all_tasks() == {asyncio.current_task()}, steps


async def test_cancelling_a_request_anywhere_leaves_no_connection() -> None:
    steps = 0
    while True:
        async with (
            asyncio.timeout(ANSWER_SECONDS),
            scripted(problem(503, "later"), answer({})) as server,
            light(server.url) as client,
        ):
            cancelled = await cancelled_after(steps, client.request("GET", PATH))
            await client.request("GET", PATH)
            await server.until_left(but=1)  # which is kept for the next request
        assert asyncio.all_tasks() == {asyncio.current_task()}, steps
        steps += 1
        if not cancelled and steps > 50:
            return


async def test_closing_in_the_middle_leaves_no_task() -> None:
    reply = stream(hello("e-1"), live("e-1"), event("e-2"), event("e-3"), then="hang")
    async with scripted(reply) as server, following(server) as opened:
        await anext(opened)
        before = asyncio.all_tasks()
        await opened.aclose()
        for _ in range(5):
            assert asyncio.all_tasks() <= before
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("reply", "state"),
    [
        (ENDED, "connecting"),
        (stream(hello("e-1"), live("e-1"), then="hang"), "live"),
        (problem(503, "x", retry_after="200"), "reconnecting"),
    ],
)
async def test_closing_from_another_task_ends_the_iteration(reply: Reply, state: str) -> None:
    watch = Watch()
    async with scripted(reply) as server, following(server, on_state=watch) as opened:
        consumer = asyncio.create_task(rest_of(opened))
        if state != "connecting":
            await watch.until(state)
        for _ in range(5):
            await asyncio.sleep(0)
        await opened.aclose()
        assert await consumer == []
        await server.until_left()


async def test_closing_the_client_ends_its_streams() -> None:
    async with scripted(stream(hello("e-1"), live("e-1"), then="hang")) as server, asyncio.timeout(ANSWER_SECONDS):
        async with Client(server.url) as client:
            watch = Watch()
            consumer = asyncio.create_task(rest_of(client.follow(PATH, on_state=watch)))
            await watch.until("live")
        assert await consumer == []
        assert watch.states[-1] == "ended"
        await server.until_left()


# ── WebSockets ─────────────────────────────────────────────────────────────────────────────────────────────────

Script = Callable[[ServerConnection], Any]
Refusal = tuple[int, dict[str, str], bytes]


class ScriptedSocket:
    """A WebSocket server; each connection goes by the next script, which is a refusal or a handler."""

    def __init__(self, *scripts: Script | Refusal) -> None:
        self.asked: list[Request] = []
        self.open = 0
        self.url = ""
        self._scripts = list(scripts)
        self._next: Script | Refusal | None = None
        self._left = asyncio.Event()

    async def refuse(self, connection: ServerConnection, request: Request) -> Response | None:
        self.asked.append(request)
        self._next = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        if not isinstance(self._next, tuple):
            self.open += 1
            return None
        status, headers, body = self._next
        given = Headers({**headers, "content-length": str(len(body))})
        return Response(status, http.HTTPStatus(status).phrase, given, body)

    async def handle(self, connection: ServerConnection) -> None:
        assert self._next is not None
        assert not isinstance(self._next, tuple)
        try:
            await self._next(connection)
        finally:
            self.open -= 1
            self._left.set()

    async def until_left(self) -> None:
        """Wait until no connection is open."""
        while self.open:
            self._left.clear()
            await self._left.wait()


@asynccontextmanager
async def scripted_socket(*scripts: Script | Refusal) -> AsyncIterator[ScriptedSocket]:
    server = ScriptedSocket(*scripts)
    async with serve(
        server.handle, "127.0.0.1", 0, process_request=server.refuse, subprotocols=[Subprotocol("tailrace.v1")]
    ) as listening:
        host, port = listening.sockets[0].getsockname()[:2]
        server.url = f"http://{host}:{port}"
        async with asyncio.timeout(ANSWER_SECONDS):
            yield server


def sends(*frames: tuple[str, dict[str, Any]], code: int = 1000, raw: str | None = None) -> Script:
    async def handler(connection: ServerConnection) -> None:
        if frames:
            await connection.send(json.dumps([{"id": id, "event": event} for id, event in frames]))
        if raw is not None:
            await connection.send(raw)
        await connection.close(code)

    return handler


def refuses(status: int, detail: str = "no", **headers: str) -> Refusal:
    reply = problem(status, detail, **headers)
    return reply.status, reply.headers, reply.body


SOCKET_ENDED = sends(hello("e-0"), live("e-0"), LAST)


async def socket_rest(server: ScriptedSocket, **options: Any) -> list[str]:
    token = options.pop("token", None)
    async with Client(server.url, token=token, transport="websocket") as client, client.follow(PATH, **options) as s:
        return [position for position, _ in await rest_of(s)]


@pytest.mark.parametrize(
    "trouble",
    [
        *[refuses(status) for status in (408, 429, 500, 502, 503, 504)],
        (502, {"content-type": "text/html"}, b"<html>"),
        (200, {"content-type": "text/html"}, b"<html>"),
        *[sends(hello("e-0"), live("e-0"), code=code) for code in (1000, 1001, 1011, 1012, 4408, 4429, 4401)],
        sends(code=1012),
        sends(hello("e-0"), end("e-0", "server_shutdown", final=False, retry_after_ms=10), code=1012),
    ],
)
async def test_a_socket_is_opened_again_where_it_may_go_better(trouble: Script | Refusal) -> None:
    async with scripted_socket(trouble, trouble, SOCKET_ENDED) as server:
        assert await socket_rest(server) == []
    assert len(server.asked) == 3


async def test_a_socket_resumes_from_the_last_id() -> None:
    scripts = [sends(hello("e-1")), sends(hello("e-1"), event("e-2"), event("e-3")), SOCKET_ENDED]
    async with scripted_socket(*scripts) as server:
        assert await socket_rest(server, after="start", types=["made_up"]) == ["e-2", "e-3"]
    assert [request.path.partition("?")[2] for request in server.asked] == [
        "types=made_up&after=start",
        "types=made_up&after=e-1",
        "types=made_up&after=e-3",
    ]


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (refuses(401), Unauthorized),
        (refuses(403), Forbidden),
        (refuses(400), Refused),
        ((302, {"location": "/elsewhere"}, b""), Refused),
        (sends(hello("e-0"), code=4404), AccessRevoked),
        (sends(hello("e-0"), code=4403), Forbidden),
        (sends(hello("e-0"), raw="no array"), Unreadable),
        (sends(hello("e-0"), raw='[{"id":"e-1","event":7}]'), Unreadable),
        (sends(hello("e-0"), raw=json.dumps([{"event": {"type": "x" * 9_000_000}}])), Unreadable),
    ],
)
async def test_a_socket_raises_what_will_not_change(script: Script | Refusal, kind: type[Exception]) -> None:
    async with scripted_socket(script) as server:
        with pytest.raises(kind):
            await socket_rest(server)
    assert len(server.asked) == 1


async def test_a_socket_carries_its_token_beside_the_subprotocol_and_renews_it() -> None:
    async with scripted_socket(refuses(401), sends(hello("e-1"), code=4401), SOCKET_ENDED) as server:
        assert await socket_rest(server, token=Tokens()) == []
    assert [request.headers["sec-websocket-protocol"] for request in server.asked] == [
        "tailrace.v1, bearer.t1",
        "tailrace.v1, bearer.t2",
        "tailrace.v1, bearer.t3",
    ]


async def test_a_token_that_no_subprotocol_can_carry_is_named() -> None:
    async with scripted_socket(SOCKET_ENDED) as server:
        with pytest.raises(ValueError, match="use the transport 'sse'"):
            await socket_rest(server, token="with spaces")


async def hangs(connection: ServerConnection) -> None:
    await connection.send(json.dumps([{"id": "e-1", "event": hello("e-1")[1]}]))
    await connection.wait_closed()


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize(
    "script", [refuses(503), sends(hello("e-1"), code=1012), hangs], ids=["refused", "closed", "open"]
)
async def test_cancelling_a_socket_anywhere_leaves_no_task_and_no_connection(script: Script | Refusal) -> None:
    for steps in range(80):
        async with scripted_socket(script) as server, light(server.url, transport="websocket") as client:
            opened = client.follow(PATH)
            assert await cancelled_after(steps, rest_of(opened))
            await server.until_left()
        assert asyncio.all_tasks() == {asyncio.current_task()}, steps


# ── requests ───────────────────────────────────────────────────────────────────────────────────────────────────


async def ask(server: ScriptedServer, method: str, **options: Any) -> Any:
    token = options.pop("token", None)
    async with asyncio.timeout(ANSWER_SECONDS), Client(server.url, token=token) as client:
        return await client.request(method, "/api/v1/things", **options)


@pytest.mark.parametrize("trouble", [Reply(0), problem(503, "later"), problem(429, "later"), PROXY_PAGE, Reply(500)])
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("get", {}),
        ("PUT", {"json": {}}),
        ("DELETE", {}),
        ("POST", {"json": {"a": 1}, "idempotency_key": "k1"}),
        ("POST", {"repeatable": True}),
    ],
)
async def test_a_request_that_may_be_repeated_is(trouble: Reply, method: str, options: dict[str, Any]) -> None:
    retried: list[str] = []
    async with scripted(trouble, trouble, answer({"done": True})) as server:
        on_retry: Any = lambda error: retried.append(str(error))  # noqa: E731
        assert await ask(server, method, on_retry=on_retry, **options) == {"done": True}
    assert len(server.asked) == 3
    assert len(retried) == 2
    assert len({(asked.method, asked.body, asked.headers.get("idempotency-key")) for asked in server.asked}) == 1
    assert server.asked[0].headers.get("idempotency-key") == options.get("idempotency_key")


@pytest.mark.parametrize(
    ("trouble", "status"),
    [(Reply(0), 0), (problem(503, "away"), 503), (problem(500, "failed"), 500), (PROXY_PAGE, 200)],
)
async def test_a_request_that_may_have_been_carried_out_is_not_repeated(trouble: Reply, status: int) -> None:
    async with scripted(trouble, answer({})) as server:
        with pytest.raises(Unavailable) as unavailable:
            await ask(server, "POST", json={})
    assert unavailable.value.may_have_happened
    assert unavailable.value.status == status
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [425, 429])
async def test_a_request_that_was_certainly_not_carried_out_is_repeated(status: int) -> None:
    async with scripted(problem(status, "later", retry_after="1"), answer({"done": True})) as server:
        assert await ask(server, "POST", json={}) == {"done": True}
    assert server.asked[1].at - server.asked[0].at >= 1


async def test_without_a_connection_any_request_is_tried_again_for_a_while(unused_tcp_port: int) -> None:
    async with Client(f"http://127.0.0.1:{unused_tcp_port}") as client:
        with pytest.raises(Unavailable, match="no answer to POST /x") as unavailable:
            await client.request("POST", "/x", patience_seconds=0.3)
    assert not unavailable.value.may_have_happened


async def test_patience_has_an_end() -> None:
    async with scripted(problem(503, "away for long", retry_after="60")) as server:
        with pytest.raises(Unavailable, match="away for long") as unavailable:
            await ask(server, "GET", patience_seconds=1)
    assert unavailable.value.problem["detail"] == "away for long"


async def test_a_deletion_whose_answer_was_lost_has_succeeded() -> None:
    async with scripted(Reply(0), problem(404, "no such thing")) as server:
        assert await ask(server, "DELETE") is None
    async with scripted(problem(404, "no such thing")) as server:
        with pytest.raises(Refused):
            await ask(server, "DELETE")


async def test_an_answer_without_a_body_is_none() -> None:
    async with scripted(Reply(204)) as server:
        assert await ask(server, "DELETE") is None


async def test_json_that_is_none_is_named() -> None:
    async with scripted(Reply(200, {"content-type": "application/json"}, b"{")) as server:
        with pytest.raises(Unreadable):
            await ask(server, "GET")


async def test_a_request_renews_a_refused_token_once() -> None:
    async with scripted(problem(401, "expired"), answer({"done": True})) as server:
        assert await ask(server, "POST", token=Tokens(), json={}) == {"done": True}
    assert sent(server) == ["Bearer t1", "Bearer t2"]
    async with scripted(problem(401, "expired")) as server:
        with pytest.raises(Unauthorized):
            await ask(server, "POST", token=Tokens(), json={})
    assert sent(server) == ["Bearer t1", "Bearer t2"]


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_the_trouble_is_the_operating_systems_own_word(unused_tcp_port: int, transport: Any) -> None:
    async with Client(f"http://127.0.0.1:{unused_tcp_port}", transport=transport) as client:
        stream = client.follow(PATH)
        assert await stream.wait()
        assert stream.trouble == "Connection refused"
        with pytest.raises(Unavailable, match="Connection refused"):
            await client.request("GET", "/x", patience_seconds=0)


async def test_a_closed_client_opens_no_streams() -> None:
    async with Client("http://127.0.0.1:1") as client:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        client.follow(PATH)


async def test_what_is_no_path_or_url_of_ours_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ValueError, match="http://"):
        Client("ftp://example")
    async with Client("http://127.0.0.1:1/base") as client:
        with pytest.raises(ValueError, match="no path"):
            client.follow("http://elsewhere.example/x")
        with pytest.raises(ValueError, match="no path"):
            await client.request("GET", "https://elsewhere.example/x")
