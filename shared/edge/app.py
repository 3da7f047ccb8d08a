"""Building a service's Litestar application: the same guards, errors and documentation for each."""

from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from litestar import Litestar
from litestar.connection import ASGIConnection
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException, WebSocketException
from litestar.handlers import BaseRouteHandler
from litestar.openapi import OpenAPIConfig

import shared
from shared.edge.admission import check_parameters
from shared.edge.auth.scopes import PUBLIC
from shared.edge.gate import entry_of
from shared.edge.openapi import EventfulJson, complete, components, schemas_of
from shared.edge.problems import BadInput, Problem, WrongMedia, handle
from shared.edge.settings import Settings
from shared.protocol.schema import Schema as EventSchema


def build_app(
    name: str, handlers: Sequence[Any], settings: Settings, events: EventSchema | None, **options: Any
) -> Litestar:
    """The application of the service `name`. `options` go to Litestar."""
    document = EventfulJson()
    app = Litestar(
        route_handlers=handlers,
        guards=[_check_request],
        exception_handlers={HTTPException: handle, Exception: handle},
        request_max_body_size=settings.body_bytes,
        logging_config=None,  # the process has set logging up
        openapi_config=OpenAPIConfig(
            title=f"Tailrace {name}",
            version=shared.__version__,
            path=f"/api/v1/{name}/schema",
            use_handler_docstrings=True,
            components=components(),
            render_plugins=[document],  # Litestar's pages load scripts from elsewhere
        ),
        **options,
    )
    _check_scopes(app)
    _document(app)
    http = (handler for handler, _ in handlers_of(app) if hasattr(handler, "http_methods"))
    document.schemas = schemas_of(tuple(http), events)
    return app


def _check_scopes(app: Litestar) -> None:
    """Raise RuntimeError for a handler that does not say who may: a new one must not forget."""
    for handler, path in handlers_of(app):
        if "scope" not in handler.opt:
            raise RuntimeError(f'{handler} at {path} must say whom it is for: scope="…", ANY or PUBLIC')


def handlers_of(app: Litestar) -> Iterator[tuple[Any, str]]:
    """The handlers that were built for the application, each with its path: Litestar adds some of its own."""
    for route in app.routes:
        handlers = getattr(route, "route_handlers", None) or (getattr(route, "route_handler", None),)
        for handler in handlers:
            if handler is not None and not handler.fn.__module__.startswith("litestar."):
                yield handler, route.path_format


async def _check_request(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """One guard, and a coroutine: plain ones run in a thread each, and the handler is copied for every guard."""
    _check_scope(connection, handler)
    _check_query(connection, handler)
    _check_media_type(connection, handler)


def _check_scope(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    scopes = scopes_of(handler)
    if scopes is None:
        return
    entry = entry_of(connection.scope)
    entry.required = scopes
    if entry.permit is None and connection.scope["type"] == ScopeType.WEBSOCKET:
        return  # its first frame will say
    try:
        entry.demand(scopes)
    except Problem as error:
        _refuse(connection, error)


def scopes_of(handler: BaseRouteHandler) -> Sequence[str] | None:
    """The scopes of which one is needed; empty: any token will do; None: not even that."""
    scope: str | Sequence[str] | None = handler.opt.get("scope", PUBLIC)
    return (scope,) if isinstance(scope, str) else scope


def _refuse(connection: ASGIConnection[Any, Any, Any, Any], error: Problem) -> NoReturn:
    if connection.scope["type"] != ScopeType.WEBSOCKET:
        raise error
    # Litestar's word for a refused upgrade, which the front turns into the status
    raise WebSocketException(detail=error.detail, code=4000 + error.status) from None


def _check_query(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    try:
        check_parameters(connection, handler.opt.get("parameters", ()))
    except BadInput as error:
        _refuse(connection, error)


def _check_media_type(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    if getattr(handler, "parsed_data_field", None) is None:
        return
    given = connection.headers.get("content-type", "").partition(";")[0].strip().lower()
    allowed = handler.opt.get("media_types", ("application/json",))
    if given not in allowed:
        raise WrongMedia(f"the body must be {' or '.join(allowed)}; the request says {given[:80] or 'nothing'}")


def _document(app: Litestar) -> None:
    """What the edge does for all handlers: query parameters, which WebSockets share, refusals, scopes."""
    paths = app.openapi_schema.paths or {}
    for handler, path in handlers_of(app):
        for method in getattr(handler, "http_methods", ()):
            operation = getattr(paths.get(path), method.lower(), None)
            if operation is not None:
                complete(operation, handler, path, scopes_of(handler))
