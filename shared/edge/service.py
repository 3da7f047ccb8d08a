"""A service as its process sees it, and the front that puts one or several of them behind one port."""

import asyncio
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from shared.edge import metrics, staying
from shared.edge.connection import connection_of
from shared.edge.gate import Entry, Gate
from shared.edge.problems import MEDIA_TYPE, Away, Missing, Unauthorized, document, http_document
from shared.edge.streams import Streams
from shared.edge.websocket import refuse

Asgi = Callable[[Any, Any, Any], Awaitable[None]]

# Litestar closes with 4500 for whatever its router refuses, and says only this
_UNROUTED = {
    "Not Found": (404, "There is nothing at this URL."),
    "Bad Request": (400, "This URL takes no WebSocket: send a plain HTTP request."),
}
log = logging.getLogger("tailrace.edge")

STOP_SECONDS = 2.0  # of the 5 in which a process must have left; the streams took up to 2.5
NOSNIFF = (b"x-content-type-options", b"nosniff")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,80}")


class Service(Protocol):
    """One of the three: the paths it answers, its application, its life and its health."""

    @property
    def name(self) -> str: ...

    @property
    def prefixes(self) -> Sequence[str]: ...

    @property
    def host_pattern(self) -> re.Pattern[str] | None:
        """The `Host`s whose requests it answers whatever their path; None: those of its prefixes only."""
        ...

    @property
    def passage_pattern(self) -> re.Pattern[str] | None:
        """The paths whose requests it hands to somebody else, whose own their queries are."""
        ...

    @property
    def asgi(self) -> Asgi: ...

    async def start(self) -> None:
        """Make ready. What it raises ends the start of the process."""
        ...

    async def stop(self) -> None:
        """Give back what it holds; streams have ended already."""
        ...

    async def checks(self) -> Mapping[str, str]:
        """What its work needs, by name: `ok`, `ok: ` and what is to be known of it, or what is wrong."""
        ...


class Front:
    """The ASGI application of a process: request ids, health, and each path to the service that answers it."""

    def __init__(self, services: Sequence[Service], streams: Streams, gate: Gate, pages: Asgi | None = None) -> None:
        self.streams = streams
        self._services = services
        self._gate = gate
        self._pages = pages
        prefixes = ((prefix, service.asgi) for service in services for prefix in service.prefixes)
        self._routes = sorted(prefixes, key=lambda route: -len(route[0]))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        scope["tailrace.request_id"] = request_id = _request_id(scope)
        own_origin = self._at_own_origin(scope)
        headers = [(b"x-request-id", request_id.encode())]
        if own_origin is None:
            headers += [NOSNIFF, *_encoded(self._gate.origins.grant(_values(scope, b"origin")))]
        send = _with_headers(send, headers)
        if scope["type"] == "websocket":
            send = _with_problem_refusals(send, request_id)
        try:
            handler = own_origin or self._probe(scope) or self._preflight(scope)
            if handler is None or own_origin is not None:
                self._gate.check_origin(scope)
                self._gate.check_rate(scope)
            if own_origin is not None:
                self._gate.stranger(scope)
            if handler is None:
                handler = self._route(scope)
                if self._needs_token(scope["path"]):
                    is_passage = self._is_passage(scope["path"])
                    entry = await self._gate.admit(scope, reads_query=not is_passage)
                    if not is_passage:  # which watches over its connections itself
                        receive, send = _permitted(receive, entry), _while_permitted(send, scope, entry)
        except Exception as error:  # noqa: BLE001  whatever it is becomes an answer, a 500 with its log included
            await _refuse(scope, send, error)
            return
        await self._handle(handler, scope, receive, send)
        await staying.finish(scope, receive, send)

    async def _handle(self, handler: Asgi, scope: Any, receive: Any, send: Any) -> None:
        """When the process stops, uvicorn cancels what is not answered after a second, and would answer 500. But what
        has become of such a request is unknown: that is 503.
        """
        has_begun = False

        async def noting(message: Any) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await handler(scope, receive, noting)
        except asyncio.CancelledError:
            if has_begun or scope["type"] != "http" or not self.streams.draining:
                raise
            detail = "This process is shutting down, and may or may not have done what was asked; ask again."
            await _refuse(scope, send, Away(detail, retry_after_seconds=1))

    def _probe(self, scope: Any) -> Asgi | None:
        """What looks whether the process is well: it comes by whatever name and address, and holds nobody's data."""
        if scope["type"] != "http":
            return None
        path = scope["path"]
        if any(path == f"/api/v1/{service.name}/ready" for service in self._services):
            return self._ready
        return {"/health": self._health, "/metrics": _metrics, "/ready": self._ready}.get(path)

    def _preflight(self, scope: Any) -> Asgi | None:
        """What tells a browser whether the page of another origin may do what it wants to."""
        asks = scope["type"] == "http" and scope["method"] == "OPTIONS"
        if not asks or not _values(scope, b"access-control-request-method"):
            return None

        async def answer(scope: Any, receive: Any, send: Any) -> None:
            headers = self._gate.origins.preflight(_values(scope, b"origin"))
            await _answer(send, 204, "", b"", _encoded(headers))

        return answer

    def _at_own_origin(self, scope: Any) -> Asgi | None:
        """The service of a host that is not ours but one of what we show."""
        host = _host(scope)
        for service in self._services:
            if service.host_pattern is not None and service.host_pattern.fullmatch(host):
                return service.asgi
        return None

    def _needs_token(self, path: str) -> bool:
        """All of the API but its own description."""
        described = (f"/api/v1/{service.name}/schema" for service in self._services)
        return path.startswith("/api/") and not any(path == url or path.startswith(f"{url}/") for url in described)

    def _is_passage(self, path: str) -> bool:
        patterns = (service.passage_pattern for service in self._services)
        return any(pattern is not None and pattern.fullmatch(path) for pattern in patterns)

    def _route(self, scope: Any) -> Asgi:
        path = scope["path"]
        for prefix, asgi in self._routes:
            if path == prefix or path.startswith(prefix + "/"):
                return asgi
        return self._pages or _not_found

    # ── health ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _health(self, scope: Any, receive: Any, send: Any) -> None:
        await _answer(send, 200, "application/json", b'{"status":"alive"}')

    async def _ready(self, scope: Any, receive: Any, send: Any) -> None:
        checks = {} if not self.streams.draining else {"draining": "this process is shutting down"}
        if self.streams.failing():
            checks["streams"] = f"not working: {', '.join(self.streams.failing())}"
        for service in self._services:
            for name, state in (await service.checks()).items():
                checks[f"{service.name}.{name}"] = state
        well = all(state.partition(":")[0] == "ok" for state in checks.values())
        body = msgspec.json.encode({"status": "ready" if well else "not ready", "checks": checks})
        await _answer(send, 200 if well else 503, "application/json", body)

    # ── life ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _lifespan(self, receive: Any, send: Any) -> None:
        await receive()
        started: list[Service] = []
        try:
            self.streams.start()
            for service in self._services:
                await service.start()
                started.append(service)
        except Exception as error:  # noqa: BLE001  told to the server, which ends the process with it
            await self._stop(started)
            await send({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._stop(started)
        await send({"type": "lifespan.shutdown.complete"})

    async def _stop(self, services: Sequence[Service]) -> None:
        for service in reversed(services):
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await service.stop()
            except TimeoutError:
                log.error("a service did not stop in time", extra={"service": service.name})
        await self.streams.close()


async def _metrics(scope: Any, receive: Any, send: Any) -> None:
    await _answer(send, 200, metrics.CONTENT_TYPE, metrics.render())


async def _not_found(scope: Any, receive: Any, send: Any) -> None:
    await _refuse(scope, send, Missing(f"There is nothing at {scope['path'][:200]}."))


async def _refuse(scope: Any, send: Any, error: Exception) -> None:
    """The problem document of an error."""
    shown = document(error, scope["tailrace.request_id"])
    if scope["type"] == "websocket":
        await refuse(send, shown)
    else:
        await _answer(send, shown.status, MEDIA_TYPE, shown.body, _encoded(shown.headers))


async def _answer(
    send: Any, status: int, media_type: str, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    told = [(b"content-type", media_type.encode()), (b"content-length", str(len(body)).encode())] if media_type else []
    await send({"type": "http.response.start", "status": status, "headers": [*told, *headers]})
    await send({"type": "http.response.body", "body": body})


def _host(scope: Any) -> str:
    """What the caller calls us, in lower case; empty when it does not say."""
    return next((str(value, "latin-1").lower() for name, value in scope["headers"] if name == b"host"), "")


def _request_id(scope: Any) -> str:
    """The caller's own if it sent a decent one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value, "ascii")
    return secrets.token_hex(8)


def _values(scope: Any, wanted: bytes) -> list[str]:
    return [str(value, "latin-1") for name, value in scope["headers"] if name == wanted]


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


def _with_headers(send: Any, headers: Sequence[tuple[bytes, bytes]]) -> Any:
    starts = ("http.response.start", "websocket.http.response.start", "websocket.accept")

    async def tagged(message: Any) -> None:
        if message["type"] in starts:
            own = message.get("headers", ())
            said = {name for name, _ in own}
            message = {**message, "headers": [*own, *(header for header in headers if header[0] not in said)]}
        await send(message)

    return tagged


def _permitted(receive: Any, entry: Entry) -> Any:
    """A body may come slowly: nothing is done for it when its token has ended before it was complete. Raises
    Unauthorized, within the handler's own reading.
    """
    permit = entry.permit
    if permit is None or not permit.can_end:
        return receive

    async def checked() -> Any:
        message = await receive()
        if message["type"] == "http.request":
            permit.check()
        return message

    return checked


def _while_permitted(send: Any, scope: Any, entry: Entry) -> Any:
    """A read may wait for long: it is not answered when its token has ended meanwhile, and cut where it then is. The
    last message passes: a stream says there why it ends.
    """
    permit = entry.permit
    if permit is None or not permit.can_end or scope.get("method") != "GET":
        return send
    is_over = False

    async def checked(message: Any) -> None:
        nonlocal is_over
        if message["type"] == "http.response.start":
            try:
                permit.check()
            except Unauthorized as error:
                is_over = True
                await _refuse(scope, send, error)
        elif message.get("more_body") and permit.why_over() is not None and not is_over:
            is_over = True
            connection_of(scope).abort()  # else what there is would pass for all
        if not is_over:
            await send(message)

    return checked


def _with_problem_refusals(send: Any, request_id: str) -> Any:
    """Litestar refuses a handshake by closing with 4000 + the HTTP status: make that the status, with a document."""
    accepted = False

    async def refusing(message: Any) -> None:
        nonlocal accepted
        accepted = accepted or message["type"] != "websocket.close"
        if accepted:
            await send(message)
            return
        status, reason = message.get("code", 4403) - 4000, message.get("reason") or "The upgrade is refused."
        if not 400 <= status < 600:
            status = 403
        if status == 500:
            status, reason = _UNROUTED.get(reason, (status, reason))
        await refuse(send, http_document(status, reason, {}, request_id))

    return refusing
