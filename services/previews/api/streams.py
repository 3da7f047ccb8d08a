"""Streams of previews and their polling twins."""

from collections.abc import Callable
from typing import Any

from litestar import Response, get, websocket
from litestar.params import FromPath

from services.previews.api.common import BASE, PREVIEW, backend_of
from services.previews.events import SCHEMA
from services.previews.subscriptions import MAX_TAIL
from shared.edge.admission import (
    POLL_PARAMETERS,
    STREAM_PARAMETERS,
    AnyRequest,
    AnyWebSocket,
    Follow,
    Subscription,
)
from shared.edge.auth.scopes import PUBLIC
from shared.edge.openapi import POLLED, RESUMING, STREAMED
from shared.edge.parameters import POLL_VALUES, POSITION, whole
from shared.edge.polling import answer, poll_of
from shared.edge.sse import EventStream
from shared.edge.websocket import serve_channels, serve_stream

TAIL_PARAMETERS = (*STREAM_PARAMETERS, "tail")
TAIL_VALUES = {"tail": whole(0, MAX_TAIL)}


@get(
    f"{PREVIEW}/logs/stream",
    parameters=TAIL_PARAMETERS,
    narrowed=TAIL_VALUES,
    request_headers=(POSITION,),
    answers=STREAMED,
    refusals=RESUMING,
    scope="previews:read",
)
async def stream_logs(request: AnyRequest, generation_id: FromPath[str]) -> Response[Any]:
    """The preview's output, from its last lines unless told, until it ends; as server-sent events."""
    backend = backend_of(request)
    return await EventStream.admit(await backend.subscriptions.logs(request, generation_id), backend.streams)


@websocket(f"{PREVIEW}/logs/stream", parameters=TAIL_PARAMETERS, scope="previews:read")
async def stream_logs_socket(socket: AnyWebSocket, generation_id: FromPath[str]) -> None:
    """The same over a WebSocket."""
    backend = backend_of(socket)
    await serve_stream(socket, backend.streams, lambda: backend.subscriptions.logs(socket, generation_id))


@get(
    f"{PREVIEW}/logs/events",
    parameters=(*POLL_PARAMETERS, "tail"),
    request_headers=(POSITION,),
    narrowed={**POLL_VALUES, **TAIL_VALUES},
    answers=POLLED,
    refusals=RESUMING,
    scope="previews:read",
)
async def poll_logs(request: AnyRequest, generation_id: FromPath[str]) -> Response[Any]:
    """The preview's events after a position, as JSON or ndjson."""
    backend = backend_of(request)
    subscription = await backend.subscriptions.logs(request, generation_id, polling=True)
    return await answer(subscription, poll_of(request), backend.streams)


@get(
    f"{BASE}/stream",
    parameters=STREAM_PARAMETERS,
    request_headers=(POSITION,),
    answers=STREAMED,
    refusals=RESUMING,
    scope="previews:read",
)
async def stream_previews(request: AnyRequest) -> Response[Any]:
    """What becomes of all previews, from now unless told; as server-sent events."""
    backend = backend_of(request)
    return await EventStream.admit(backend.subscriptions.feed(request), backend.streams)


@websocket(f"{BASE}/stream", parameters=STREAM_PARAMETERS, scope="previews:read")
async def stream_previews_socket(socket: AnyWebSocket) -> None:
    """The same over a WebSocket."""
    backend = backend_of(socket)

    async def admit() -> Subscription:
        return backend.subscriptions.feed(socket)

    await serve_stream(socket, backend.streams, admit)


@get(
    f"{BASE}/events",
    parameters=POLL_PARAMETERS,
    request_headers=(POSITION,),
    narrowed=POLL_VALUES,
    answers=POLLED,
    refusals=RESUMING,
    scope="previews:read",
)
async def poll_previews(request: AnyRequest) -> Response[Any]:
    """What became of all previews after a position."""
    backend = backend_of(request)
    return await answer(backend.subscriptions.feed(request, polling=True), poll_of(request), backend.streams)


@websocket(f"{BASE}/ws", scope="previews:read")
async def follow_channels(socket: AnyWebSocket) -> None:
    """Any number of streams on one WebSocket; `channel` is `preview/<generation>` or `previews`."""
    backend = backend_of(socket)

    async def admit(follow: Follow) -> Subscription:
        return await backend.subscriptions.channel(socket, follow)

    await serve_channels(socket, backend.streams, admit)


@get(f"{BASE}/schema/events.json", scope=PUBLIC)
async def event_schema() -> dict[str, Any]:
    """JSON Schema of the events in this service's streams."""
    return SCHEMA.json_schema()


HANDLERS: tuple[Callable[..., Any], ...] = (
    stream_logs,
    stream_logs_socket,
    poll_logs,
    stream_previews,
    stream_previews_socket,
    poll_previews,
    follow_channels,
    event_schema,
)
