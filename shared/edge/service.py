"""A service as its process sees it, and the front that puts one or several of them behind one port."""

import asyncio
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from shared.edge import metrics
from shared.edge.problems import MEDIA_TYPE, http_document
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

    def __init__(self, services: Sequence[Service], streams: Streams, pages: Asgi | None = None) -> None:
        self.streams = streams
        self._services = services
        self._pages = pages
        prefixes = ((prefix, service.asgi) for service in services for prefix in service.prefixes)
        self._routes = sorted(prefixes, key=lambda route: -len(route[0]))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        request_id = _request_id(scope)
        scope["tailrace.request_id"] = request_id
        send = _with_request_id(send, request_id.encode())
        if scope["type"] == "websocket":
            send = _with_problem_refusals(send, request_id)
        await self._route(scope)(scope, receive, send)

    def _route(self, scope: Any) -> Asgi:
        path = scope["path"]
        host = _host(scope)
        for service in self._services:
            if service.host_pattern is not None and service.host_pattern.fullmatch(host):
                return service.asgi
        if scope["type"] == "http":
            if path in ("/health", "/metrics", "/ready"):
                return {"/health": self._health, "/metrics": _metrics, "/ready": self._ready}[path]
            for service in self._services:
                if path == f"/api/v1/{service.name}/ready":
                    return self._ready
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
    request_id = scope["tailrace.request_id"]
    shown = http_document(404, f"There is nothing at {scope['path'][:200]}.", {}, request_id)
    if scope["type"] == "websocket":
        await refuse(send, shown)
    else:
        await _answer(send, shown.status, MEDIA_TYPE, shown.body)


async def _answer(send: Any, status: int, media_type: str, body: bytes) -> None:
    headers = [(b"content-type", media_type.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
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


def _with_request_id(send: Any, request_id: bytes) -> Any:
    starts = ("http.response.start", "websocket.http.response.start", "websocket.accept")

    async def tagged(message: Any) -> None:
        if message["type"] in starts:
            message = {**message, "headers": [*message.get("headers", ()), (b"x-request-id", request_id)]}
        await send(message)

    return tagged


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
