"""Runs: creating, listing, looking, and acting on them from outside."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, get_args

import msgspec
from litestar import Response, delete, get, post
from litestar.params import FromPath

from services.runs.api.common import BASE, backend_of, check_id
from services.runs.backend import Backend
from services.runs.events import RunStatus
from services.runs.model import Mode, RunView, view
from services.runs.requests import (
    CreateBatch,
    CreateRun,
    InputRun,
    RunDetail,
    RunList,
    RunnerList,
    RunnerView,
    RunPage,
    RunState,
)
from services.runs.steps import NewRun
from services.runs.store import FILTERS
from services.runs.subscriptions import Subscriptions
from shared.edge.admission import AnyRequest, Connection
from shared.edge.etags import etag_of, is_known
from shared.edge.gate import entry_of
from shared.edge.idempotency import IdempotencyKey, key_of
from shared.edge.ids import is_name
from shared.edge.listing import LIST_PARAMETERS, listing
from shared.edge.openapi import ETAG, LOCATION
from shared.edge.parameters import one_of
from shared.edge.principal import principal_of
from shared.edge.problems import BadInput, Busy, Missing, Unprocessable
from shared.protocol.position import Position

DETAIL_EVENTS = 1_000
MAX_WAIT_SECONDS = 60


@post(
    BASE,
    scope="runs:write",
    request_headers=("Idempotency-Key", "Prefer"),
    response_headers=(LOCATION, ETAG),
    answers={202: "The run is queued."},
    refusals=(422,),
)
async def create_run(request: AnyRequest, data: CreateRun) -> Response[RunView]:
    """Start a run. `inline` answers 201 and is running already; `queued` answers 202 and waits for a worker.

    `Prefer: wait=N` waits up to N seconds for its end. With `Idempotency-Key`, the same request gets the same answer.
    """
    backend = backend_of(request)
    wait = _preferred_wait(request)
    key = key_of(request, "create run", data)
    new = NewRun(**_own(request), **msgspec.structs.asdict(data))
    status = 201 if data.mode == "inline" else 202
    answer = await _create(backend, [new], key, inline=data.mode == "inline")
    run = msgspec.json.decode(answer, type=list[RunView])[0]
    headers = {"location": f"{BASE}/{run.id}"}
    if wait is not None:
        run = await _ended(backend, request, run, wait)
        headers["preference-applied"] = f"wait={wait:g}"
    return Response(run, status_code=status, headers={**headers, "etag": etag_of(run.last_position)})


@post(
    f"{BASE}/batch",
    status_code=202,
    scope="runs:write",
    request_headers=("Idempotency-Key",),
    refusals=(422,),
)
async def create_batch(request: AnyRequest, data: CreateBatch) -> Response[RunList]:
    """Start several runs of the same kind, one `stagger_ms` after the other."""
    fields = msgspec.structs.asdict(data)
    count, stagger = fields.pop("count"), fields.pop("stagger_ms") / 1000
    _check_runner(backend_of(request), data.runner, inline=data.mode == "inline")
    own = {**_own(request), **fields, "mode": "queued"}
    news = [NewRun(**own, delay_seconds=place * stagger) for place in range(count)]
    answer = await _create(backend_of(request), news, key_of(request, "create batch", data), inline=False)
    return Response(RunList(msgspec.json.decode(answer, type=list[RunView])), status_code=202)


@post(
    f"{BASE}/{{run_id:str}}/retry",
    status_code=202,
    scope="runs:write",
    request_headers=("Idempotency-Key",),
    response_headers=(LOCATION, ETAG),
    refusals=(422,),
)
async def retry_run(request: AnyRequest, run_id: FromPath[str]) -> Response[RunView]:
    """Start a run like one that has ended, as a new run."""
    backend = backend_of(request)
    run = await backend.subscriptions.require(principal_of(request).tenant, run_id)
    if not run.is_over:
        raise Unprocessable(f"the run is {run.status}: it can be retried when it has ended", run_status=run.status)
    kept = {name: getattr(run, name) for name in CreateRun.__struct_fields__ if name != "mode"}
    new = NewRun(**_own(request), **kept, mode="queued", retry_of=run.id)
    answer = await _create(backend, [new], key_of(request, f"retry {run.id}", None), inline=False)
    shown = msgspec.json.decode(answer, type=list[RunView])[0]
    return Response(
        shown, status_code=202, headers={"location": f"{BASE}/{shown.id}", "etag": etag_of(shown.last_position)}
    )


async def _create(backend: Backend, news: Sequence[NewRun], key: IdempotencyKey | None, *, inline: bool) -> bytes:
    """Store the runs; inline ones are started on places reserved before."""
    executor = backend.executor
    _check_runner(backend, news[0].runner, inline=inline)
    _check_session(news[0].session_id)
    if not inline:
        return (await backend.lifecycle.create(news, key=key)).answer
    if not executor.reserve():
        if key is not None and (answer := await backend.lifecycle.recall(key)) is not None:
            return answer
        raise Busy("no room for another inline run here; try again, or use mode=queued", retry_after_seconds=2)
    leased = False
    try:
        created = await backend.lifecycle.create(news, holder=executor.name, key=key)
        for run, lease in created.leases:
            leased = True
            executor.start(run, lease)
    finally:
        if not leased:
            executor.release()
    return created.answer


def _check_session(session_id: str | None) -> None:
    if session_id is not None and not is_name(session_id):
        raise BadInput("session_id must be 1 to 200 printable characters without a slash: it stands in URLs")


def _check_runner(backend: Backend, runner: str, *, inline: bool) -> None:
    """Raise Unprocessable for an inline runner that is not here, or one that lacks a setting."""
    known = backend.executor.runners
    if inline and runner not in known:
        names = ", ".join(sorted(known))
        raise Unprocessable(f"no runner {runner!r} runs inline; choose {names}, or queue it for your own workers")
    missing = backend.missing_settings.get(runner)
    if missing:
        raise Unprocessable(f"the runner {runner!r} is not set up here: {missing}")


async def _ended(backend: Backend, request: AnyRequest, run: RunView, seconds: float) -> RunView:
    """The run at its end, or as it is after so many seconds."""
    tenant = principal_of(request).tenant
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await backend.until_ended(tenant, run.id)
        permit = entry_of(request.scope).permit
        if permit is None or permit.why_over() is not None:
            return run  # as it was made: what became of it is not for a token that has ended
        return view(await backend.subscriptions.require(tenant, run.id), backend.channel.state.epoch)
    except Missing:  # it was deleted, and the request is a repeat of the one that made it
        return run


@get(
    BASE,
    parameters=(*LIST_PARAMETERS, *FILTERS),
    narrowed={"status": one_of(get_args(RunStatus)), "mode": one_of(get_args(Mode))},
    scope="runs:read",
)
async def list_runs(request: AnyRequest) -> RunPage:
    """Runs, newest first."""
    asked = listing(request, "run", FILTERS, {"status": get_args(RunStatus), "mode": get_args(Mode)})
    store, tenant = backend_of(request).store, principal_of(request).reach
    runs, epoch, head = await store.page(store.pool, tenant, asked)
    more = len(runs) > asked.limit
    runs = runs[: asked.limit]
    return RunPage([view(run, epoch) for run in runs], runs[-1].id if more else None, str(Position(epoch, head)))


@get(f"{BASE}/runners", scope="runs:read")
async def list_runners(request: AnyRequest) -> RunnerList:
    """The runners of the service, and whether they can work here."""
    backend = backend_of(request)
    return RunnerList([RunnerView(name, backend.missing_settings.get(name)) for name in backend.executor.runners])


@get(
    f"{BASE}/{{run_id:str}}",
    scope="runs:read",
    request_headers=("If-None-Match",),
    response_headers=(ETAG,),
    answers={304: "The caller has it."},
)
async def get_run(request: AnyRequest, run_id: FromPath[str]) -> Response[RunDetail | None]:
    """A run with its stored events."""
    backend = backend_of(request)
    run = await backend.subscriptions.require(principal_of(request).reach, run_id)
    channel = backend.channel
    shown = view(run, channel.state.epoch)
    etag = etag_of(shown.last_position)
    if is_known(request, etag):
        return Response(None, status_code=304, headers={"etag": etag})
    state = await channel.ask()
    page = await channel.read(Subscriptions.of_run(run), state.start, limit=DETAIL_EVENTS)
    detail = RunDetail(
        **msgspec.structs.asdict(shown),
        events=[msgspec.Raw(record.data) for record in page.records],
        events_trimmed=run.first_seq < state.oldest,
        events_next=str(Position(state.epoch, page.scanned_to)) if page.scanned_to < run.last_seq else None,
    )
    return Response(detail, headers={"etag": etag})


@post(f"{BASE}/{{run_id:str}}/cancel", status_code=202, scope="runs:write", refusals=(409,))
async def cancel_run(request: AnyRequest, run_id: FromPath[str]) -> RunState:
    """Ask a run to stop. A queued one is cancelled at once, a running one when its worker has noticed."""
    check_id(run_id)
    run, epoch = await backend_of(request).lifecycle.cancel(principal_of(request).reach, run_id)
    return RunState(view(run, epoch), cancel=run.should_stop)


@post(f"{BASE}/{{run_id:str}}/input", status_code=202, scope="runs:write", refusals=(409,))
async def input_run(request: AnyRequest, run_id: FromPath[str], data: InputRun) -> RunState:
    """Give a run that is `waiting_input` what it waits for; it is running again."""
    check_id(run_id)
    run, epoch = await backend_of(request).lifecycle.input(principal_of(request).tenant, run_id, data.input)
    return RunState(view(run, epoch), cancel=run.should_stop)


@delete(f"{BASE}/{{run_id:str}}", status_code=204, scope="runs:write", refusals=(409,))
async def delete_run(request: AnyRequest, run_id: FromPath[str]) -> None:
    """Remove a run that has ended; its events are gone from every read."""
    check_id(run_id)
    await backend_of(request).lifecycle.delete(principal_of(request).tenant, run_id)


def _own(connection: Connection) -> dict[str, Any]:
    principal = principal_of(connection)
    return {"tenant": principal.tenant, "owner": principal.owner}


def _preferred_wait(request: AnyRequest) -> float | None:
    """`Prefer: wait=N` (RFC 7240, section 4.3), at most MAX_WAIT_SECONDS. Raise BadInput for what is no number."""
    for preference in request.headers.get("prefer", "").split(","):
        name, _, value = preference.strip().partition("=")
        if name.lower() == "wait":
            if not value.isascii() or not value.isdigit():
                raise BadInput(f"Prefer: wait={value[:20]} needs a number of seconds")
            return min(float(value), MAX_WAIT_SECONDS)
    return None


HANDLERS: tuple[Callable[..., Any], ...] = (
    create_run,
    create_batch,
    retry_run,
    list_runs,
    list_runners,
    get_run,
    cancel_run,
    input_run,
    delete_run,
)
