"""Streams of tasks and their polling twins."""

from collections.abc import Callable
from typing import Any

from litestar import Response, get, websocket
from litestar.params import FromPath

from services.tasks.api.common import BASE, backend_of
from services.tasks.events import SCHEMA
from services.tasks.subscriptions import INTERVALS, MAX_TICKS
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
from shared.edge.parameters import POLL_VALUES, POSITION, number, whole
from shared.edge.polling import answer, poll_of
from shared.edge.sse import EventStream
from shared.edge.websocket import serve_channels, serve_stream

PACED_PARAMETERS = (*STREAM_PARAMETERS, "interval", "max_ticks")


@get(
    f"{BASE}/{{task_id:str}}/stream",
    parameters=PACED_PARAMETERS,
    narrowed={"interval": number(*INTERVALS), "max_ticks": whole(1, MAX_TICKS)},
    request_headers=(POSITION,),
    answers=STREAMED,
    refusals=RESUMING,
    scope="tasks:read",
)
async def stream_task(request: AnyRequest, task_id: FromPath[str]) -> Response[Any]:
    """The task's present snapshot, then the newest at most once per interval, until it ends; as server-sent events."""
    backend = backend_of(request)
    return await EventStream.admit(await backend.subscriptions.task(request, task_id), backend.streams)


@websocket(f"{BASE}/{{task_id:str}}/stream", parameters=PACED_PARAMETERS, scope="tasks:read")
async def stream_task_socket(socket: AnyWebSocket, task_id: FromPath[str]) -> None:
    """The same over a WebSocket."""
    backend = backend_of(socket)
    await serve_stream(socket, backend.streams, lambda: backend.subscriptions.task(socket, task_id))


@get(
    f"{BASE}/{{task_id:str}}/events",
    parameters=POLL_PARAMETERS,
    request_headers=(POSITION,),
    narrowed=POLL_VALUES,
    answers=POLLED,
    refusals=RESUMING,
    scope="tasks:read",
)
async def poll_task(request: AnyRequest, task_id: FromPath[str]) -> Response[Any]:
    """The task's snapshots after a position, all that are stored; without one, the present snapshot."""
    backend = backend_of(request)
    subscription = await backend.subscriptions.task(request, task_id, polling=True)
    return await answer(subscription, poll_of(request), backend.streams)


@get(
    f"{BASE}/stream",
    parameters=STREAM_PARAMETERS,
    request_headers=(POSITION,),
    answers=STREAMED,
    refusals=RESUMING,
    scope="tasks:read",
)
async def stream_board(request: AnyRequest) -> Response[Any]:
    """Snapshots of all tasks, and which are deleted, from now unless told; as server-sent events."""
    backend = backend_of(request)
    return await EventStream.admit(backend.subscriptions.board(request), backend.streams)


@websocket(f"{BASE}/stream", parameters=STREAM_PARAMETERS, scope="tasks:read")
async def stream_board_socket(socket: AnyWebSocket) -> None:
    """The same over a WebSocket."""
    backend = backend_of(socket)

    async def admit() -> Subscription:
        return backend.subscriptions.board(socket)

    await serve_stream(socket, backend.streams, admit)


@get(
    f"{BASE}/events",
    parameters=POLL_PARAMETERS,
    request_headers=(POSITION,),
    narrowed=POLL_VALUES,
    answers=POLLED,
    refusals=RESUMING,
    scope="tasks:read",
)
async def poll_board(request: AnyRequest) -> Response[Any]:
    """Snapshots of all tasks after a position."""
    backend = backend_of(request)
    return await answer(backend.subscriptions.board(request, polling=True), poll_of(request), backend.streams)


@websocket(f"{BASE}/ws", scope="tasks:read")
async def follow_channels(socket: AnyWebSocket) -> None:
    """Any number of streams on one WebSocket; `channel` is `task/<id>` or `tasks`."""
    backend = backend_of(socket)

    async def admit(follow: Follow) -> Subscription:
        return await backend.subscriptions.channel(socket, follow)

    await serve_channels(socket, backend.streams, admit)


@get(f"{BASE}/schema/events.json", scope=PUBLIC)
async def event_schema() -> dict[str, Any]:
    """JSON Schema of the events in this service's streams."""
    return SCHEMA.json_schema()


HANDLERS: tuple[Callable[..., Any], ...] = (
    stream_task,
    stream_task_socket,
    poll_task,
    stream_board,
    stream_board_socket,
    poll_board,
    follow_channels,
    event_schema,
)
