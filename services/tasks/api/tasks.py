"""Tasks: creating, listing, looking, and changing them."""

from collections.abc import Callable
from typing import Any, get_args

import msgspec
from litestar import Response, delete, get, patch, post
from litestar.params import FromPath

from services.tasks.api.common import BASE, backend_of, check_id
from services.tasks.events import TaskStatus
from services.tasks.lifecycle import Check
from services.tasks.model import Task, TaskView, view
from services.tasks.requests import CreateTask, TaskPage, TaskPatch
from services.tasks.store import FILTERS
from shared.edge.admission import AnyRequest
from shared.edge.etags import check_if_match, etag_of, is_known
from shared.edge.idempotency import key_of
from shared.edge.listing import LIST_PARAMETERS, listing
from shared.edge.openapi import ETAG, LOCATION
from shared.edge.parameters import one_of
from shared.edge.principal import principal_of
from shared.protocol.position import Position

MERGE_PATCH = "application/merge-patch+json"


@post(
    BASE, scope="tasks:write", request_headers=("Idempotency-Key",), response_headers=(LOCATION, ETAG), refusals=(422,)
)
async def create_task(request: AnyRequest, data: CreateTask) -> Response[TaskView]:
    """Make a task, `queued` or `running`. With `Idempotency-Key`, the same request gets the same answer."""
    principal = principal_of(request)
    key = key_of(request, "create task", data)
    answer = await backend_of(request).lifecycle.create(principal.tenant, principal.owner, data, key)
    shown = msgspec.json.decode(answer, type=TaskView)
    return _shown(shown, status=201, location=f"{BASE}/{shown.id}")


@get(
    BASE,
    parameters=(*LIST_PARAMETERS, *FILTERS),
    narrowed={"status": one_of(get_args(TaskStatus))},
    scope="tasks:read",
)
async def list_tasks(request: AnyRequest) -> TaskPage:
    """Tasks, newest first."""
    asked = listing(request, "task", FILTERS, {"status": get_args(TaskStatus)})
    store, tenant = backend_of(request).store, principal_of(request).reach
    tasks, epoch, head = await store.page(store.pool, tenant, asked)
    more = len(tasks) > asked.limit
    tasks = tasks[: asked.limit]
    return TaskPage([view(task, epoch) for task in tasks], tasks[-1].id if more else None, str(Position(epoch, head)))


@get(
    f"{BASE}/{{task_id:str}}",
    scope="tasks:read",
    request_headers=("If-None-Match",),
    response_headers=(ETAG,),
    answers={304: "The caller has it."},
)
async def get_task(request: AnyRequest, task_id: FromPath[str]) -> Response[TaskView | None]:
    """A task as it is now."""
    backend = backend_of(request)
    task = await backend.subscriptions.require(principal_of(request).reach, task_id)
    shown = view(task, backend.channel.state.epoch)
    etag = etag_of(shown.last_position)
    if is_known(request, etag):
        return Response(None, status_code=304, headers={"etag": etag})
    return Response(shown, headers={"etag": etag})


@patch(
    f"{BASE}/{{task_id:str}}",
    media_types=(MERGE_PATCH, "application/json"),
    document_body=TaskPatch,
    scope="tasks:write",
    request_headers=("If-Match",),
    response_headers=(ETAG,),
    refusals=(409, 412),
)
async def patch_task(request: AnyRequest, task_id: FromPath[str], data: dict[str, Any]) -> Response[TaskView]:
    """Change what a JSON merge patch (RFC 7396) names; `If-Match` guards against changes of others."""
    check_id(task_id)
    lifecycle, tenant = backend_of(request).lifecycle, principal_of(request).tenant
    return _changed(*await lifecycle.patch(tenant, task_id, data, _unchanged(request)))


@post(
    f"{BASE}/{{task_id:str}}/cancel",
    status_code=200,
    scope="tasks:write",
    request_headers=("If-Match",),
    response_headers=(ETAG,),
    refusals=(409, 412),
)
async def cancel_task(request: AnyRequest, task_id: FromPath[str]) -> Response[TaskView]:
    """End a task as `cancelled`, and ask its runs to stop."""
    check_id(task_id)
    lifecycle, tenant = backend_of(request).lifecycle, principal_of(request).tenant
    return _changed(*await lifecycle.cancel(tenant, task_id, _unchanged(request)))


@delete(f"{BASE}/{{task_id:str}}", status_code=204, scope="tasks:write", request_headers=("If-Match",), refusals=(412,))
async def delete_task(request: AnyRequest, task_id: FromPath[str]) -> None:
    """Remove a task; its snapshots are gone from every read. Its runs go on."""
    check_id(task_id)
    await backend_of(request).lifecycle.delete(principal_of(request).tenant, task_id, _unchanged(request))


def _unchanged(request: AnyRequest) -> Check:
    """What `If-Match` says about the task as it is in the change's own transaction."""
    return lambda position: check_if_match(request, etag_of(position))


def _changed(task: Task, epoch: str) -> Response[TaskView]:
    return _shown(view(task, epoch))


def _shown(shown: TaskView, *, status: int = 200, **headers: str) -> Response[TaskView]:
    return Response(shown, status_code=status, headers={**headers, "etag": etag_of(shown.last_position)})


HANDLERS: tuple[Callable[..., Any], ...] = (
    create_task,
    list_tasks,
    get_task,
    patch_task,
    cancel_task,
    delete_task,
)
