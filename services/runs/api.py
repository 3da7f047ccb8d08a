"""The runs service over HTTP and WebSocket. Handlers check and translate; what happens is in `lifecycle`."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from litestar import Request, Response, WebSocket, get, post, websocket
from litestar.params import FromPath

from services.runs.backend import Backend
from services.runs.events import SCHEMA, WORKER_TYPES, RunEvent, Status, cut_snippet
from services.runs.lifecycle import NO_RUN, Appended, Batch, Finish, Lease, NewRun
from services.runs.model import Run, RunView, view
from services.runs.requests import (
    AppendEvents,
    CreateRun,
    FinishRun,
    LeaseGiven,
    LeaseRenewed,
    LeaseRequest,
    RunDetail,
    RunPage,
    RunState,
)
from services.runs.store import FILTERS
from services.runs.subscriptions import FEED, RUN, Subscriptions
from shared.edge.admission import Connection, Follow, whole_number
from shared.edge.ids import is_id, new_id
from shared.edge.polling import answer, poll_of
from shared.edge.principal import principal_of
from shared.edge.problems import BadInput, Busy, Forbidden, Missing, Unprocessable
from shared.edge.sse import EventStream
from shared.edge.websocket import serve_channels, serve_stream
from shared.protocol.errors import InvalidEvent
from shared.protocol.position import Position
from shared.protocol.record import Record

BASE = "/api/v1/runs"
STREAM_PARAMETERS = ("after", "types", "lossless", "on_reset")
POLL_PARAMETERS = ("after", "until", "types", "limit", "wait", "on_reset")
DETAIL_EVENTS = 1_000

AnyRequest = Request[Any, Any, Any]
AnyWebSocket = WebSocket[Any, Any, Any]


# ── creating, listing, looking ─────────────────────────────────────────────────────────────────────────────────


@post(BASE)
async def create_run(request: AnyRequest, data: CreateRun) -> Response[RunView]:
    """Start a run. `inline` answers 201 and is running already; `queued` answers 202 and waits for a worker."""
    backend = _backend(request)
    if data.mode == "inline":
        run, epoch = await _start_inline(backend, request, data)
    else:
        run, epoch, _ = await backend.lifecycle.create(new_id("run"), _new_run(request, data))
    shown = view(run, epoch)
    headers = {"location": f"{BASE}/{run.id}", "etag": _etag(shown)}
    return Response(shown, status_code=201 if data.mode == "inline" else 202, headers=headers)


async def _start_inline(backend: Backend, request: AnyRequest, data: CreateRun) -> tuple[Run, str]:
    executor = backend.executor
    if data.runner not in executor.runners:
        known = ", ".join(sorted(executor.runners))
        raise Unprocessable(
            f"no runner {data.runner!r} runs inline; choose {known}, or mode=queued for your own workers"
        )
    if not executor.reserve():
        raise Busy(
            "this process runs as many inline runs as it may; try again, or use mode=queued", retry_after_seconds=2
        )
    lease: Lease | None = None
    try:
        new = _new_run(request, data)
        run, epoch, lease = await backend.lifecycle.create(new_id("run"), new, holder=executor.name)
    finally:
        if lease is None:
            executor.release()
    if lease is not None:
        executor.start(run, lease)
    return run, epoch


def _new_run(connection: Connection, data: CreateRun) -> NewRun:
    principal = principal_of(connection)
    return NewRun(tenant=principal.tenant, owner=principal.owner, **msgspec.structs.asdict(data))


@get(BASE, parameters=("limit", "cursor", *FILTERS))
async def list_runs(request: AnyRequest) -> RunPage:
    """Runs, newest first."""
    limit = whole_number(request, "limit", 50, 1, 500)
    cursor = request.query_params.get("cursor")
    if cursor is not None and not is_id("run", cursor):
        raise BadInput(f"cursor is {cursor[:60]!r}; give a page's next_cursor")
    filters = {name: request.query_params[name] for name in FILTERS if name in request.query_params}
    _check_text(filters)
    store, tenant = _backend(request).store, principal_of(request).tenant
    runs, epoch, head = await store.page(store.pool, tenant, filters=filters, before=cursor, limit=limit + 1)
    more = len(runs) > limit
    runs = runs[:limit]
    return RunPage([view(run, epoch) for run in runs], runs[-1].id if more else None, str(Position(epoch, head)))


@get(f"{BASE}/{{run_id:str}}")
async def get_run(request: AnyRequest, run_id: FromPath[str]) -> Response[RunDetail | None]:
    """A run with its stored events."""
    backend = _backend(request)
    run = await _require(backend, request, run_id)
    channel = backend.channel
    shown = view(run, channel.state.epoch)
    etag = _etag(shown)
    if etag in request.headers.get("if-none-match", ""):
        return Response(None, status_code=304, headers={"etag": etag})
    state = await channel.ask()
    page = await channel.read(Subscriptions.of_run(run), state.start, limit=DETAIL_EVENTS)
    detail = RunDetail(
        **msgspec.structs.asdict(shown),
        events=[msgspec.Raw(record.data) for record in page.records],
        events_trimmed=not page.records or not _is_first(page.records[0]),
        events_next=str(Position(state.epoch, page.scanned_to)) if page.scanned_to < run.last_seq else None,
    )
    return Response(detail, headers={"etag": etag})


@post(f"{BASE}/{{run_id:str}}/cancel", status_code=202)
async def cancel_run(request: AnyRequest, run_id: FromPath[str]) -> RunState:
    """Ask a run to stop. A queued one is cancelled at once, a running one when its worker has noticed."""
    _check_id(run_id)
    run, epoch = await _backend(request).lifecycle.cancel(principal_of(request).tenant, run_id)
    return RunState(view(run, epoch), cancel=run.should_stop)


# ── workers ────────────────────────────────────────────────────────────────────────────────────────────────────


@post(f"{BASE}/lease", status_code=200)
async def lease_run(request: AnyRequest, data: LeaseRequest) -> Response[LeaseGiven | None]:
    """Take the oldest queued run of one of these runners, under a lease; 204 when there is none in time."""
    leased = await _backend(request).lease(
        principal_of(request).tenant, data.runners, data.worker, wait_seconds=data.wait_seconds, left=_left(request)
    )
    if leased is None:
        return Response(None, status_code=204)
    run, epoch, lease = leased
    return Response(LeaseGiven(view(run, epoch), lease, cancel=run.should_stop))


async def _left(request: AnyRequest) -> None:
    """Returns when the client has gone; the body has been read already."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


@post(f"{BASE}/{{run_id:str}}/lease/renew", status_code=200)
async def renew_lease(request: AnyRequest, run_id: FromPath[str]) -> LeaseRenewed:
    """Keep the lease for another period."""
    _check_id(run_id)
    lifecycle = _backend(request).lifecycle
    lease, cancel = await lifecycle.renew(principal_of(request).tenant, run_id, _lease_token(request))
    return LeaseRenewed(lease, cancel)


@post(f"{BASE}/{{run_id:str}}/events", status_code=200)
async def append_events(request: AnyRequest, run_id: FromPath[str], data: AppendEvents) -> Appended:
    """Store events of a leased run: all of them or none."""
    _check_id(run_id)
    if (data.producer is None) != (data.producer_seq is None):
        raise BadInput("producer and producer_seq go together: give both, or neither")
    tenant = principal_of(request).tenant
    given = {"tenant": tenant, "run_id": run_id, "ts": datetime.now(UTC)}
    events = [_event(place, fields, given) for place, fields in enumerate(data.events)]
    batch = Batch(events, data.producer, data.producer_seq)
    return await _backend(request).lifecycle.append(tenant, run_id, _lease_token(request), batch)


@post(f"{BASE}/{{run_id:str}}/finish", status_code=200)
async def finish_run(request: AnyRequest, run_id: FromPath[str], data: FinishRun) -> RunState:
    """End a leased run."""
    _check_id(run_id)
    finish = Finish(status=data.status, error=data.error, output=data.output)
    lifecycle = _backend(request).lifecycle
    run, epoch = await lifecycle.finish(principal_of(request).tenant, run_id, _lease_token(request), finish)
    return RunState(view(run, epoch), cancel=run.should_stop)


def _event(place: int, fields: Mapping[str, Any], given: Mapping[str, Any]) -> RunEvent:
    if isinstance(fields.get("snippet"), str):
        fields = {**fields, "snippet": cut_snippet(fields["snippet"])}
    try:
        event = SCHEMA.build(fields, given, WORKER_TYPES)
    except InvalidEvent as error:
        raise BadInput(f"events[{place}]: {error}. Nothing of this request was stored.") from None
    assert isinstance(event, RunEvent)
    return event


def _lease_token(request: AnyRequest) -> str:
    token = request.headers.get("tailrace-lease")
    if not token:
        raise Forbidden("send the lease's token in the header Tailrace-Lease; POST /api/v1/runs/lease gives one")
    return token


# ── streams and polling ────────────────────────────────────────────────────────────────────────────────────────


@get(f"{BASE}/{{run_id:str}}/stream", parameters=STREAM_PARAMETERS)
async def stream_run(request: AnyRequest, run_id: FromPath[str]) -> Response[Any]:
    """Everything about the run, from its start unless told, until it ends; as server-sent events."""
    backend = _backend(request)
    return await EventStream.admit(await backend.subscriptions.run(request, run_id), backend.streams)


@websocket(f"{BASE}/{{run_id:str}}/stream", parameters=STREAM_PARAMETERS)
async def stream_run_socket(socket: AnyWebSocket, run_id: FromPath[str]) -> None:
    """The same over a WebSocket."""
    backend = _backend(socket)
    await serve_stream(socket, backend.streams, lambda: backend.subscriptions.run(socket, run_id))


@get(f"{BASE}/{{run_id:str}}/events", parameters=POLL_PARAMETERS)
async def poll_run(request: AnyRequest, run_id: FromPath[str]) -> Response[Any]:
    """The run's events after a position, as JSON or ndjson."""
    subscription = await _backend(request).subscriptions.run(request, run_id, polling=True)
    return await answer(subscription, poll_of(request), _backend(request).streams)


@get(f"{BASE}/stream", parameters=("run", *STREAM_PARAMETERS))
async def stream_runs(request: AnyRequest) -> Response[Any]:
    """Events of several runs, or of all, from now unless told; as server-sent events."""
    backend = _backend(request)
    return await EventStream.admit(await backend.subscriptions.feed(request), backend.streams)


@websocket(f"{BASE}/stream", parameters=("run", *STREAM_PARAMETERS))
async def stream_runs_socket(socket: AnyWebSocket) -> None:
    """The same over a WebSocket."""
    backend = _backend(socket)
    await serve_stream(socket, backend.streams, lambda: backend.subscriptions.feed(socket))


@get(f"{BASE}/events", parameters=("run", *POLL_PARAMETERS))
async def poll_runs(request: AnyRequest) -> Response[Any]:
    """Events of several runs, or of all, after a position."""
    backend = _backend(request)
    subscription = await backend.subscriptions.feed(request, polling=True)
    return await answer(subscription, poll_of(request), backend.streams)


@websocket(f"{BASE}/ws")
async def follow_channels(socket: AnyWebSocket) -> None:
    """Any number of streams on one WebSocket; `channel` is `run/<id>` or `runs`."""
    backend = _backend(socket)

    async def admit(follow: Follow) -> Any:
        kind, _, run_id = follow.channel.partition("/")
        if kind == RUN and run_id:
            return await backend.subscriptions.run(socket, run_id, follow=follow)
        if follow.channel == FEED:
            return await backend.subscriptions.feed(socket, follow=follow)
        raise BadInput(f"there is no channel {follow.channel[:80]!r}; give run/<id> or runs")

    await serve_channels(socket, backend.streams, admit)


@get(f"{BASE}/schema/events.json")
async def event_schema() -> dict[str, Any]:
    """JSON Schema of the events in this service's streams."""
    return SCHEMA.json_schema()


HANDLERS: tuple[Callable[..., Any], ...] = (
    create_run,
    list_runs,
    get_run,
    cancel_run,
    lease_run,
    renew_lease,
    append_events,
    finish_run,
    stream_run,
    stream_run_socket,
    poll_run,
    stream_runs,
    stream_runs_socket,
    poll_runs,
    follow_channels,
    event_schema,
)


# ── helpers ────────────────────────────────────────────────────────────────────────────────────────────────────


def _backend(connection: Connection) -> Backend:
    backend: Backend = connection.app.state.backend
    return backend


async def _require(backend: Backend, connection: Connection, run_id: str) -> Run:
    return await backend.subscriptions.require(principal_of(connection).tenant, run_id)


def _is_first(record: Record) -> bool:
    """Whether a run begins with this event. One that is put back into the queue says why, or is a later attempt."""
    event = SCHEMA.decode(record.data)
    return isinstance(event, Status) and event.status == "queued" and event.attempt == 1 and event.message is None


def _check_id(run_id: str) -> None:
    """One that cannot exist is refused in the same words as one that does not."""
    if not is_id("run", run_id):
        raise Missing(NO_RUN)


def _check_text(values: Mapping[str, str]) -> None:
    for name, value in values.items():
        if "\0" in value or len(value) > 200:
            raise BadInput(f"{name} must be up to 200 characters without NUL")


def _etag(shown: RunView) -> str:
    return f'"{shown.last_position}"'
