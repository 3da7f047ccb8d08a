"""Previews: launching, listing, looking, and acting on them."""

import zlib
from collections.abc import Callable
from typing import Any, get_args

import msgspec
from litestar import Response, delete, get, patch, post
from litestar.params import FromPath

from services.previews.api.common import BASE, PREVIEW, backend_of, preview_of
from services.previews.events import Kind, PreviewState
from services.previews.launch import LaunchFailed, check_recipe
from services.previews.model import Health, NewPreview, PreviewView, Recipe
from services.previews.owners import sees_all
from services.previews.requests import ChangeFiles, CreatePreview, PreviewFiles, PreviewPage
from services.previews.store import FILTERS
from shared.edge.admission import AnyRequest, flag
from shared.edge.etags import etag_of, is_known
from shared.edge.idempotency import key_of
from shared.edge.ids import is_name
from shared.edge.listing import LIST_PARAMETERS, listing
from shared.edge.openapi import ETAG
from shared.edge.parameters import one_of
from shared.edge.principal import Principal, principal_of
from shared.edge.problems import BadInput, Unprocessable
from shared.protocol.position import Position


@post(
    PREVIEW,
    status_code=202,
    parameters=("replace",),
    scope="previews:write",
    request_headers=("Idempotency-Key",),
    response_headers=(ETAG,),
    refusals=(409, 422),
)
async def launch_preview(
    request: AnyRequest, generation_id: FromPath[str], data: CreatePreview
) -> Response[PreviewView]:
    """Launch a generated program. It is `preparing` now; its streams tell what becomes of it.

    A generation has one active preview: another is refused with 409, or with `?replace=true` takes its place. With
    `Idempotency-Key`, the same request gets the same answer.
    """
    if not is_name(generation_id):
        raise BadInput("a generation's id has 1 to 200 printable characters and no slash")
    backend, principal = backend_of(request), principal_of(request)
    ttl = data.ttl_seconds or backend.ttl_seconds
    if ttl > backend.ttl_seconds:
        raise BadInput(f"ttl_seconds is {ttl:g}; a preview lives at most {backend.ttl_seconds:g} s here")
    if data.network and not backend.network:
        raise Unprocessable("Programs are given no network here: TAILRACE_PREVIEW_NETWORK is false.")
    health = Health(**msgspec.structs.asdict(data.health))
    recipe = Recipe(
        entry=data.entry, command=data.command, env=data.env, health=health, ttl_seconds=ttl, network=data.network
    )
    try:
        check_recipe(data.kind, data.entry, data.command, data.env)
    except LaunchFailed as error:
        raise BadInput(str(error)) from None
    backend.check_files(data.files)
    key = key_of(request, f"launch {generation_id}", data)
    new = NewPreview(
        tenant=principal.tenant,
        owner=principal.owner,
        generation_id=generation_id,
        kind=data.kind,
        recipe=recipe,
        files=data.files,
    )
    return _shown(await backend.launch(new, key, principal, replace=flag(request, "replace")), status=202)


@get(
    BASE,
    parameters=(*LIST_PARAMETERS, *FILTERS),
    narrowed={"status": one_of(get_args(PreviewState)), "kind": one_of(get_args(Kind))},
    scope="previews:read",
)
async def list_previews(request: AnyRequest) -> PreviewPage:
    """Previews, newest first; of other users' only what the feed tells of them, without the program and its output."""
    asked = listing(request, "prv", FILTERS, {"status": get_args(PreviewState), "kind": get_args(Kind)})
    backend, principal = backend_of(request), principal_of(request)
    previews, epoch, head = await backend.store.page(backend.store.pool, principal.reach, asked)
    more = len(previews) > asked.limit
    previews = previews[: asked.limit]
    shown = [_shown_to(principal, backend.shown(preview)) for preview in previews]
    return PreviewPage(shown, previews[-1].id if more else None, str(Position(epoch, head)))


@get(
    PREVIEW,
    scope="previews:read",
    request_headers=("If-None-Match",),
    response_headers=(ETAG,),
    answers={304: "The caller has it."},
)
async def get_preview(request: AnyRequest, generation_id: FromPath[str]) -> Response[PreviewView | None]:
    """The generation's newest preview."""
    shown = backend_of(request).shown(await preview_of(request, generation_id))
    etag = _etag(shown)
    if is_known(request, etag):
        return Response(None, status_code=304, headers={"etag": etag})
    return Response(shown, headers={"etag": etag})


@delete(
    PREVIEW,
    status_code=202,
    scope="previews:write",
    response_headers=(ETAG,),
    answers={204: "It had ended, and is removed."},
    refusals=(409,),
)
async def stop_preview(request: AnyRequest, generation_id: FromPath[str]) -> Response[PreviewView | None]:
    """Stop an active preview: 202, its output stays. Remove one that has ended, with its output: 204."""
    backend, preview = backend_of(request), await preview_of(request, generation_id)
    if preview.is_over:
        await backend.lifecycle.delete(preview.id)
        return Response(None, status_code=204)
    shown = backend.shown(await backend.stop(preview))
    return Response(shown, status_code=202, headers={"etag": _etag(shown)})


@post(
    f"{PREVIEW}/restart",
    status_code=202,
    scope="previews:write",
    response_headers=(ETAG,),
    refusals=(409, 422),
)
async def restart_preview(request: AnyRequest, generation_id: FromPath[str]) -> Response[PreviewView]:
    """Start the program again, from its files: the next attempt of the same preview, whose streams go on."""
    backend, preview = backend_of(request), await preview_of(request, generation_id)
    return _shown(backend.shown(await backend.restart(preview)), status=202)


@get(f"{PREVIEW}/files", scope="previews:read")
async def get_files(request: AnyRequest, generation_id: FromPath[str]) -> PreviewFiles:
    """What its next attempt begins with. What the program has written itself is not among it."""
    backend, preview = backend_of(request), await preview_of(request, generation_id)
    return PreviewFiles(preview.id, await backend.store.files(backend.store.pool, preview.id))


@patch(f"{PREVIEW}/files", scope="previews:write", response_headers=(ETAG,), refusals=(409,))
async def change_files(request: AnyRequest, generation_id: FromPath[str], data: ChangeFiles) -> Response[PreviewView]:
    """Write or remove files where the program runs, and for its next attempts: all, or none if one is refused."""
    backend, preview = backend_of(request), await preview_of(request, generation_id)
    return _shown(backend.shown(await backend.change_files(preview, data.files)))


def _shown_to(principal: Principal, shown: PreviewView) -> PreviewView:
    """Without what only its user may see."""
    if principal.owner == shown.owner or sees_all(principal):
        return shown
    return msgspec.structs.replace(shown, entry="", command=(), files=(), tail=(), health=Health())


def _shown(shown: PreviewView, *, status: int = 200) -> Response[PreviewView]:
    return Response(shown, status_code=status, headers={"etag": _etag(shown)})


def _etag(shown: PreviewView) -> str:
    """It changes with the status, and with the names of the files, which are told by no event."""
    return etag_of(f"{shown.last_position}-{zlib.crc32(msgspec.json.encode(shown.files)):08x}")


HANDLERS: tuple[Callable[..., Any], ...] = (
    launch_preview,
    list_previews,
    get_preview,
    stop_preview,
    restart_preview,
    get_files,
    change_files,
)
