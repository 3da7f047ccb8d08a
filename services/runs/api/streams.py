"""Streams of runs and their polling twins."""

from collections.abc import Callable
from typing import Any

from litestar import Response, get, websocket
from litestar.params import FromPath

from services.runs.api.common import (
    BASE,
    backend_of,
)
from services.runs.events import SCHEMA
from shared.edge.admission import POLL_PARAMETERS, STREAM_PARAMETERS, AnyRequest, AnyWebSocket, Follow
from shared.edge.auth.scopes import PUBLIC
from shared.edge.openapi import POLLED, RESUMING, STREAMED
from shared.edge.parameters import POLL_VALUES, POSITION
from shared.edge.polling import answer, poll_of
from shared.edge.sse import EventStream
from shared.edge.websocket import serve_channels, serve_stream


@get(
    f"{BASE}/{{run_id:str}}/stream",
    parameters=STREAM_PARAMETERS,
    request_headers=(POSITION,),
    answers=STREAMED,
    refusals=RESUMING,
    scope="runs:read",
)
async def stream_run(request: AnyRequest, run_id: FromPath[str]) -> Response[Any]:
    """Everything about the run, from its start unless told, until it ends; as server-sent events."""
    backend = backend_of(request)
    return await EventStream.admit(await backend.subscriptions.run(request, run_id), backend.streams)


@websocket(f"{BASE}/{{run_id:str}}/stream", parameters=STREAM_PARAMETERS, scope="runs:read")
async def stream_run_socket(socket: AnyWebSocket, run_id: FromPath[str]) -> None:
    """The same over a WebSocket."""
    backend = backend_of(socket)
    await serve_stream(socket, backend.streams, lambda: backend.subscriptions.run(socket, run_id))


@get(
    f"{BASE}/{{run_id:str}}/events",
    parameters=POLL_PARAMETERS,
    request_headers=(POSITION,),
    narrowed=POLL_VALUES,
    answers=POLLED,
    refusals=RESUMING,
    scope="runs:read",
)
async def poll_run(request: AnyRequest, run_id: FromPath[str]) -> Response[Any]:
    """The run's events after a position, as JSON or ndjson."""
    backend = backend_of(request)
    subscription = await backend.subscriptions.run(request, run_id, polling=True)
    return await answer(subscription, poll_of(request), backend.streams)


@get(
    f"{BASE}/stream",
    parameters=("run", *STREAM_PARAMETERS),
    request_headers=(POSITION,),
    answers=STREAMED,
    refusals=(404, *RESUMING),
    scope="runs:read",
)
async def stream_runs(request: AnyRequest) -> Response[Any]:
    """Events of several runs, or of all, from now unless told; as server-sent events."""
    backend = backend_of(request)
    return await EventStream.admit(await backend.subscriptions.feed(request), backend.streams)


@websocket(f"{BASE}/stream", parameters=("run", *STREAM_PARAMETERS), scope="runs:read")
async def stream_runs_socket(socket: AnyWebSocket) -> None:
    """The same over a WebSocket."""
    backend = backend_of(socket)
    await serve_stream(socket, backend.streams, lambda: backend.subscriptions.feed(socket))


@get(
    f"{BASE}/events",
    parameters=("run", *POLL_PARAMETERS),
    request_headers=(POSITION,),
    narrowed=POLL_VALUES,
    answers=POLLED,
    refusals=(404, *RESUMING),
    scope="runs:read",
)
async def poll_runs(request: AnyRequest) -> Response[Any]:
    """Events of several runs, or of all, after a position."""
    backend = backend_of(request)
    subscription = await backend.subscriptions.feed(request, polling=True)
    return await answer(subscription, poll_of(request), backend.streams)


@websocket(f"{BASE}/ws", scope=("runs:read", "sessions:read"))
async def follow_channels(socket: AnyWebSocket) -> None:
    """Any number of streams on one WebSocket; `channel` is `run/<id>`, `runs`, `session/<id>` or
    `session/<id>/worker/<worker>`.
    """
    backend = backend_of(socket)

    async def admit(follow: Follow) -> Any:
        return await backend.subscriptions.channel(socket, follow)

    await serve_channels(socket, backend.streams, admit)


@get(f"{BASE}/schema/events.json", scope=PUBLIC)
async def event_schema() -> dict[str, Any]:
    """JSON Schema of the events in this service's streams."""
    return SCHEMA.json_schema()


HANDLERS: tuple[Callable[..., Any], ...] = (
    stream_run,
    stream_run_socket,
    poll_run,
    stream_runs,
    stream_runs_socket,
    poll_runs,
    follow_channels,
    event_schema,
)
