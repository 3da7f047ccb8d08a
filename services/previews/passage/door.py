"""The two doors to programs: the passage below the API, and each program's own origin.

At its own origin a program is entered with a ticket, which becomes a cookie of that host alone. The cookie ends with
the preview's attempt here: a process that starts anew knows none.
"""

import hashlib
import re
import secrets
from typing import Any
from urllib.parse import unquote

from msgspec import Struct

from services.previews.model import SERVING, Preview, passage_of
from services.previews.owners import check_owner
from services.previews.passage import http, websocket
from services.previews.passage.headers import COOKIE, cookies_in, is_service_worker
from services.previews.passage.way import Way
from services.previews.program import Program
from services.previews.programs import Programs
from services.previews.store import PreviewStore
from services.previews.subscriptions import Subscriptions
from shared.channel.log import LogUnavailable
from shared.edge.auth.permit import Permit
from shared.edge.auth.scopes import allows
from shared.edge.connection import connection_of
from shared.edge.gate import entry_of
from shared.edge.ids import is_id
from shared.edge.principal import Principal
from shared.edge.problems import Away, Conflict, Forbidden, Missing, OutOfScope, Problem

PASSAGE = re.compile(r"/api/v1/generations/([^/]+)/preview/app(/.*)?", re.DOTALL)
_RAW_PASSAGE = re.compile(PASSAGE.pattern.encode(), re.DOTALL)
MAX_COOKIES = 1_000
USE = ("previews:use",)


class _Entered(Struct, frozen=True):
    """Who came in, and to which preview."""

    preview_id: str
    principal: Principal


class Doors:
    """Answers requests for programs of this process."""

    def __init__(
        self,
        programs: Programs,
        store: PreviewStore,
        subscriptions: Subscriptions,
        domain: str,
    ) -> None:
        self._programs = programs
        self._store = store
        self._subscriptions = subscriptions
        self._domain = domain
        self._entered: dict[str, _Entered] = {}  # by the hashes of cookies

    def preview_of_host(self, host: str) -> str | None:
        """The id of the preview whose own origin this is."""
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        label, _, domain = name.lower().partition(".")
        if domain != self._domain or "_" in label:  # an id as it stands is no name of a host
            return None
        preview_id = label.replace("-", "_", 1)
        return preview_id if is_id("prv", preview_id) else None

    async def passage(self, scope: Any, receive: Any, send: Any) -> None:
        """`…/preview/app/…`: for programs, with the caller's own credentials."""
        try:
            match = _RAW_PASSAGE.fullmatch(_path(scope))
            if match is None:
                raise Missing("There is nothing at this URL.")  # a slash of the passage's own was escaped
            entry = entry_of(scope)
            entry.demand(USE)
            preview = await self._subscriptions.require(entry.principal, unquote(match[1].decode("latin-1")))
            _refuse_service_worker(scope)
            program = self._program(preview)
            way = Way(program.socket, _target(scope, match[2] or b"/"), "passage")
            await hand_through(scope, receive, send, way, entry.permit_of(entry.principal))
        except (Problem, LogUnavailable) as problem:
            await _tell(send, scope, problem)

    async def origin(self, scope: Any, receive: Any, send: Any, preview_id: str) -> None:
        """`prv-01j….<domain>`: for people."""
        try:
            preview = await self._store.get(self._store.pool, preview_id)
            if preview is None:
                raise Missing("There is no such preview.")
            ticket = _ticket_in(scope)
            if ticket is not None and scope["type"] == "http":
                await self._admit(scope, send, preview, ticket)
                return
            permit = self._permit(scope, preview)
            _refuse_service_worker(scope)
            program = self._program(preview)
            way = Way(program.socket, _target(scope, _path(scope)), "origin")
            await hand_through(scope, receive, send, way, permit)
        except (Problem, LogUnavailable) as problem:
            await _tell(send, scope, problem)

    def _permit(self, scope: Any, preview: Preview) -> Permit:
        """What a cookie stands for: whoever entered, while the token behind the ticket is good. Raise Forbidden."""
        for cookie in cookies_in(scope["headers"]):
            entered = self._entered.get(_hash(cookie))
            if entered is not None and entered.preview_id == preview.id:
                permit = entry_of(scope).permit_of(entered.principal)
                if permit.why_over() is None:
                    check_owner(entered.principal, preview.owner)
                    return permit
        raise Forbidden("Enter with a ticket: POST /api/v1/stream-tickets gives one for the preview's passage.")

    def _program(self, preview: Preview) -> Program:
        program = self._programs.get(preview.id)
        if preview.status not in SERVING or program is None:
            raise Conflict(f"The preview is {preview.status}: it answers while it runs.", preview_status=preview.status)
        return program

    async def _admit(self, scope: Any, send: Any, preview: Preview, ticket: str) -> None:
        """A ticket becomes a cookie; the browser comes again without it in the address."""
        path = unquote(f"{passage_of(preview.generation_id)}/")
        entry = entry_of(scope)
        principal = await entry.redeem(ticket, path)
        if principal is None or principal.tenant != preview.tenant:
            raise Forbidden("This ticket is used, too old, or for something else: get another.")
        check_owner(principal, preview.owner)
        if not allows(principal, *USE):
            raise OutOfScope(USE)
        cookie = secrets.token_urlsafe(32)
        while len(self._entered) >= MAX_COOKIES:
            del self._entered[next(iter(self._entered))]
        self._entered[_hash(cookie)] = _Entered(preview.id, principal)
        told = f"{COOKIE}={cookie}; Path=/; HttpOnly; {_reach(scope)}"
        headers = [
            (b"location", b"/" + _path(scope).lstrip(b"/\\")),  # //elsewhere is another host, and so is /\elsewhere
            (b"set-cookie", told.encode()),
            (b"cache-control", b"no-store"),
            (b"referrer-policy", b"no-referrer"),
            (b"content-length", b"0"),
        ]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


async def hand_through(scope: Any, receive: Any, send: Any, way: Way, permit: Permit) -> None:
    """Until both are done, or the caller's token has ended: then the connection is cut, whatever it carries."""
    transport = http if scope["type"] == "http" else websocket
    permit.watch(lambda reason: connection_of(scope).abort())
    try:
        await transport.hand_through(scope, receive, send, way)
    finally:
        permit.close()


def _path(scope: Any) -> bytes:
    """As it was sent: what is escaped stays escaped."""
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    return path.partition(b"?")[0]


def _target(scope: Any, path: bytes) -> bytes:
    query: bytes = scope["query_string"]
    return path + (b"?" + query if query else b"")


def _refuse_service_worker(scope: Any) -> None:
    if is_service_worker(scope["headers"]):
        raise Forbidden("A preview cannot install a service worker: it would outlive the preview.")


def _reach(scope: Any) -> str:
    """Where the cookie is sent from. In a frame of Tailrace's page the program is a third party, whatever the two are
    called: browsers take its cookie only if it says so, is for secure origins, which `*.localhost` are too, and is kept
    apart for each page that has such a frame.
    """
    if any(name == b"sec-fetch-dest" and value == b"iframe" for name, value in scope["headers"]):
        return "SameSite=None; Secure; Partitioned"
    return "SameSite=Lax; Secure" if scope["scheme"] == "https" else "SameSite=Lax"


def _ticket_in(scope: Any) -> str | None:
    query = scope["query_string"]
    return (
        str(query.removeprefix(b"ticket="), "latin-1") if query.startswith(b"ticket=") and b"&" not in query else None
    )


def _hash(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()


async def _tell(send: Any, scope: Any, error: Exception) -> None:
    problem = error if isinstance(error, Problem) else Away(str(error), retry_after_seconds=2)
    headers = tuple((name.encode(), value.encode()) for name, value in problem.headers.items())
    await http.refuse(send, scope, problem.status, problem.detail, headers)
