"""Sessions: publishing into the agent event bus, and following it."""

from collections.abc import Callable
from typing import Any

from litestar import Response, get, post, websocket
from litestar.params import FromPath

from services.runs.api.common import (
    backend_of,
    build_events,
    check_producer,
)
from services.runs.events import AGENT_TYPE_NAMES
from services.runs.requests import AppendEvents
from services.runs.sessions import Published
from services.runs.subscriptions import check_session
from shared.edge.admission import POLL_PARAMETERS, STREAM_PARAMETERS, AnyRequest, AnyWebSocket, Subscription
from shared.edge.openapi import EITHER, RESUMING, STREAMED
from shared.edge.parameters import POLL_VALUES, POSITION
from shared.edge.polling import answer, poll_of
from shared.edge.principal import principal_of
from shared.edge.sse import EventStream
from shared.edge.websocket import serve_stream

SESSION = "/api/v1/sessions/{session_id:str}"
WORKER = f"{SESSION}/workers/{{worker:str}}"
BOTH_PARAMETERS = tuple(dict.fromkeys((*STREAM_PARAMETERS, *POLL_PARAMETERS)))


@post(f"{SESSION}/events", status_code=200, scope="sessions:write", refusals=(409,))
async def publish(request: AnyRequest, session_id: FromPath[str], data: AppendEvents) -> Published:
    """Publish events into a session: all of them or none."""
    check_session(session_id)
    check_producer(data.producer, data.producer_seq)
    tenant = principal_of(request).tenant
    events = build_events(data.events, AGENT_TYPE_NAMES, tenant=tenant, session_id=session_id)
    return await backend_of(request).sessions.publish(
        tenant, session_id, events, producer=data.producer, producer_seq=data.producer_seq
    )


@get(
    f"{SESSION}/stream",
    parameters=STREAM_PARAMETERS,
    request_headers=(POSITION,),
    answers=STREAMED,
    refusals=RESUMING,
    scope="sessions:read",
)
async def stream_session(request: AnyRequest, session_id: FromPath[str]) -> Response[Any]:
    """The session's events; without a position, only what makes visible messages or sets state is replayed."""
    return await _stream(request, backend_of(request).subscriptions.session(request, session_id))


@websocket([f"{SESSION}/stream", f"{SESSION}/events"], parameters=STREAM_PARAMETERS, scope="sessions:read")
async def stream_session_socket(socket: AnyWebSocket, session_id: FromPath[str]) -> None:
    """The same over a WebSocket."""
    await _serve(socket, lambda: backend_of(socket).subscriptions.session(socket, session_id))


@get(
    f"{SESSION}/events",
    parameters=BOTH_PARAMETERS,
    request_headers=(POSITION,),
    narrowed=POLL_VALUES,
    answers=EITHER,
    refusals=RESUMING,
    scope="sessions:read",
)
async def poll_session(request: AnyRequest, session_id: FromPath[str]) -> Response[Any]:
    """The session's events as JSON or ndjson, or streamed when `Accept` asks for `text/event-stream`."""
    polling = not _wants_stream(request)
    subscription = backend_of(request).subscriptions.session(request, session_id, polling=polling)
    return await (_poll(request, subscription) if polling else _stream(request, subscription))


@get(
    f"{WORKER}/stream",
    parameters=STREAM_PARAMETERS,
    request_headers=(POSITION,),
    answers=STREAMED,
    refusals=RESUMING,
    scope="sessions:read",
)
async def stream_worker(request: AnyRequest, session_id: FromPath[str], worker: FromPath[str]) -> Response[Any]:
    """Everything of one worker in the session, from the start unless told."""
    return await _stream(request, backend_of(request).subscriptions.session(request, session_id, worker=worker))


@websocket([f"{WORKER}/stream", f"{WORKER}/events"], parameters=STREAM_PARAMETERS, scope="sessions:read")
async def stream_worker_socket(socket: AnyWebSocket, session_id: FromPath[str], worker: FromPath[str]) -> None:
    """The same over a WebSocket."""
    await _serve(socket, lambda: backend_of(socket).subscriptions.session(socket, session_id, worker=worker))


@get(
    f"{WORKER}/events",
    parameters=BOTH_PARAMETERS,
    request_headers=(POSITION,),
    narrowed=POLL_VALUES,
    answers=EITHER,
    refusals=RESUMING,
    scope="sessions:read",
)
async def poll_worker(request: AnyRequest, session_id: FromPath[str], worker: FromPath[str]) -> Response[Any]:
    """One worker's events, as JSON or ndjson, or streamed when `Accept` asks for it."""
    polling = not _wants_stream(request)
    subscription = backend_of(request).subscriptions.session(request, session_id, worker=worker, polling=polling)
    return await (_poll(request, subscription) if polling else _stream(request, subscription))


def _wants_stream(request: AnyRequest) -> bool:
    return "text/event-stream" in request.headers.get("accept", "")


async def _stream(request: AnyRequest, subscription: Subscription) -> Response[Any]:
    return await EventStream.admit(subscription, backend_of(request).streams)


async def _poll(request: AnyRequest, subscription: Subscription) -> Response[Any]:
    return await answer(subscription, poll_of(request), backend_of(request).streams)


async def _serve(socket: AnyWebSocket, subscribe: Callable[[], Subscription]) -> None:
    async def admit() -> Subscription:
        return subscribe()

    await serve_stream(socket, backend_of(socket).streams, admit)


HANDLERS: tuple[Callable[..., Any], ...] = (
    publish,
    stream_session,
    stream_session_socket,
    poll_session,
    stream_worker,
    stream_worker_socket,
    poll_worker,
)
