"""Workers: leasing runs, telling of the work, finishing."""

import asyncio
from collections.abc import Callable
from typing import Any

from litestar import Response, post
from litestar.params import FromPath

from services.runs.api.common import BASE, backend_of, build_events, check_id, check_producer
from services.runs.model import view
from services.runs.requests import AppendEvents, FinishRun, LeaseGiven, LeaseRenewed, LeaseRequest, RunState
from services.runs.steps import Appended, Batch, Finish
from shared.edge.admission import AnyRequest
from shared.edge.gate import entry_of
from shared.edge.parameters import LEASE
from shared.edge.principal import principal_of
from shared.edge.problems import Forbidden


@post(f"{BASE}/lease", status_code=200, scope="runs:work", answers={204: "No run came in time."})
async def lease_run(request: AnyRequest, data: LeaseRequest) -> Response[LeaseGiven | None]:
    """Take the oldest queued run of one of these runners, under a lease; 204 when there is none in time."""
    permit = entry_of(request.scope).permit
    assert permit is not None  # since it was let in
    left = asyncio.create_task(_left(request))
    permit.watch(lambda reason: left.cancel())  # with it the wait ends, too
    try:
        leased = await backend_of(request).lease(
            permit.principal.tenant, data.runners, data.worker, wait_seconds=data.wait_seconds, left=left
        )
    finally:
        permit.close()
    if leased is None:
        permit.check()
        return Response(None, status_code=204)
    run, epoch, lease = leased
    return Response(LeaseGiven(view(run, epoch), lease, cancel=run.should_stop))


async def _left(request: AnyRequest) -> None:
    """Returns when the client has gone; the body has been read already."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


@post(
    f"{BASE}/{{run_id:str}}/lease/renew", status_code=200, scope="runs:work", request_headers=(LEASE,), refusals=(409,)
)
async def renew_lease(request: AnyRequest, run_id: FromPath[str]) -> LeaseRenewed:
    """Keep the lease for another period."""
    check_id(run_id)
    lifecycle = backend_of(request).lifecycle
    lease, cancel = await lifecycle.renew(principal_of(request).tenant, run_id, _lease_token(request))
    return LeaseRenewed(lease, cancel)


@post(f"{BASE}/{{run_id:str}}/events", status_code=200, scope="runs:work", request_headers=(LEASE,), refusals=(409,))
async def append_events(request: AnyRequest, run_id: FromPath[str], data: AppendEvents) -> Appended:
    """Store events of a leased run: all of them or none."""
    check_id(run_id)
    check_producer(data.producer, data.producer_seq)
    tenant = principal_of(request).tenant
    batch = Batch(build_events(data.events, tenant=tenant, run_id=run_id), data.producer, data.producer_seq)
    return await backend_of(request).lifecycle.append(tenant, run_id, _lease_token(request), batch)


@post(f"{BASE}/{{run_id:str}}/finish", status_code=200, scope="runs:work", request_headers=(LEASE,), refusals=(409,))
async def finish_run(request: AnyRequest, run_id: FromPath[str], data: FinishRun) -> RunState:
    """End a leased run."""
    check_id(run_id)
    finish = Finish(status=data.status, error=data.error, output=data.output)
    lifecycle = backend_of(request).lifecycle
    run, epoch = await lifecycle.finish(principal_of(request).tenant, run_id, _lease_token(request), finish)
    return RunState(view(run, epoch), cancel=run.should_stop)


def _lease_token(request: AnyRequest) -> str:
    token = request.headers.get(LEASE)
    if not token:
        raise Forbidden("send the lease's token in the header Tailrace-Lease; POST /api/v1/runs/lease gives one")
    return token


HANDLERS: tuple[Callable[..., Any], ...] = (lease_run, renew_lease, append_events, finish_run)
