"""What a connection may go on with, and until when: the gate's entry, and the follow that is under way at the end."""

import json
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from shared.edge import staying
from shared.edge.admission import Follow
from shared.edge.auth.permit import Permit
from shared.edge.connection import KEY as CONNECTION
from shared.edge.gate import Entry
from shared.edge.principal import KEY, Principal
from shared.edge.problems import OutOfScope, Unauthorized
from shared.edge.settings import Settings
from shared.edge.streams import Streams
from shared.edge.websocket import serve_channels

BEGAN, ENDS = 1_000.0, 2_000.0


class Clock:
    def __init__(self) -> None:
        self.now = BEGAN

    def __call__(self) -> float:
        return self.now


class SampleGate:
    """Takes for a token the scopes of its bearer, with commas between."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def authenticate(self, token: str) -> Principal:
        return principal(token.split(","))

    def permit(self, principal: Principal) -> Permit:
        return Permit(principal, now=self._clock)


def principal(scopes: Iterable[str], owner: str = "ann", expires_at: float = ENDS) -> Principal:
    return Principal("acme", owner, frozenset(scopes), expires_at=expires_at, is_service="feed:consume" in scopes)


def entry(*scopes: str) -> tuple[Entry, Clock]:
    gate: Any = SampleGate(clock := Clock())
    return Entry(gate, gate.permit(principal(scopes))), clock


def test_without_a_bearer_nothing_is_allowed_not_even_what_needs_no_scope() -> None:
    gate: Any = SampleGate(Clock())
    for scopes in ((), ("runs:read",)):
        with pytest.raises(Unauthorized):
            Entry(gate, None).demand(scopes)


@pytest.mark.parametrize(
    ("began_with", "demanded", "newer"),
    [
        ("runs:read,sessions:read", ("runs:read", "sessions:read"), "runs:read"),  # each channel wanted its own
        ("runs:read,feed:consume", ("runs:read",), "runs:read"),  # the streams are of all tenants
        ("previews:read,previews:admin", ("previews:read",), "previews:read"),  # of other users
        ("runs:read,tasks:read", ("runs:read",), "tasks:read"),
    ],
)
async def test_a_token_that_lets_do_less_than_was_begun_is_refused(
    began_with: str, demanded: tuple[str, ...], newer: str
) -> None:
    begun, _ = entry(*began_with.split(","))
    for scope in demanded:
        begun.demand((scope,))
    before = begun.principal
    with pytest.raises(OutOfScope):
        await begun.renew(newer)
    assert begun.principal is before
    await begun.renew(began_with)
    assert begun.principal is not before


async def test_what_was_not_asked_for_may_be_missing_in_a_newer_token() -> None:
    begun, _ = entry("runs:read", "tasks:write")
    begun.demand(("runs:read", "sessions:read"))
    await begun.renew("sessions:read")


async def test_a_token_that_has_ended_is_not_renewed() -> None:
    """Its end is told already, and nobody would watch the newer one's."""
    begun, clock = entry("runs:read")
    clock.now = ENDS
    with pytest.raises(Unauthorized):
        await begun.renew("runs:read")


# ── a follow at the end ────────────────────────────────────────────────────────────────────────────────────────


class SampleConnection:
    """Takes all that is written."""

    is_open = is_writable = True
    pending_bytes = 0

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.write = self.written.append


async def test_a_stream_that_is_let_in_while_the_token_ends_does_not_begin() -> None:
    """The others have been told of the end by then; this one would go on without one, and keep the connection open."""
    begun, clock = entry("runs:read")
    connection = SampleConnection()
    said: list[Any] = []
    messages = [
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": '{"op":"follow","ref":"late","channel":"runs"}'},
        {"type": "websocket.disconnect"},
    ]

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        said.append(message)

    async def admit(follow: Follow) -> Any:
        clock.now = ENDS  # it takes a while
        return SimpleNamespace(filter=SimpleNamespace(tenant="acme"), on_reset="reset")

    scope = {"subprotocols": [], "path": "/", "state": {CONNECTION: connection}, KEY: begun}
    socket: Any = SimpleNamespace(scope=scope, receive=receive, send=send)
    await serve_channels(socket, Streams(Settings()), admit)
    await staying.finish(scope, receive, send)
    [refused] = [frame for told in connection.written for frame in json.loads(told[told.index(b"[") :])]
    assert (refused["ref"], refused["event"]["type"], refused["event"]["problem"]["status"]) == ("late", "refused", 401)
