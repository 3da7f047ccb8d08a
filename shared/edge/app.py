"""Building a service's Litestar application: the same guards, errors and documentation for each."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from litestar import Litestar, Request
from litestar.connection import ASGIConnection
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException, WebSocketException
from litestar.handlers import BaseRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import (
    Components,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Parameter,
    Schema,
    SecurityScheme,
)

import shared
from shared.edge.admission import check_parameters
from shared.edge.auth.scopes import PUBLIC, SCOPES
from shared.edge.gate import entry_of
from shared.edge.problems import MEDIA_TYPE, BadInput, Problem, WrongMedia, handle
from shared.edge.settings import Settings
from shared.protocol.schema import Schema as EventSchema

# every query parameter of the product, once; handlers name those they take in `parameters=`
PARAMETERS: Mapping[str, str] = {
    "after": "start, now or a position such as k3f9a2-1042: events after it are sent",
    "until": "a position: events after it are left out",
    "types": "a comma list of event types; * stands for any characters",
    "lossless": "1: nothing is shed or conflated, however far this reader falls behind",
    "on_reset": "reset: a reset frame; error: 410",
    "limit": "at most so many items",
    "wait": "seconds to wait for the first event",
    "run": "a run's id; may be repeated",
    "status": "only with this status",
    "runner": "only of this runner",
    "mode": "only of this mode",
    "session_id": "only of this session",
    "task_id": "only of this task",
    "kind": "only of this kind",
    "generation_id": "only of this generation",
    "replace": "1: an active preview of the generation is stopped first",
    "tail": "begin with so many of the last lines",
    "before": "only lines before this one",
    "level": "DEBUG, INFO, WARN or ERROR: lines of this level and above",
    "stream": "stdout or stderr",
    "q": "only lines with this text, in whatever case",
    "cursor": "the next_cursor of the page before",
    "interval": "seconds between two snapshots, from 0.1 to 10",
    "max_ticks": "the stream ends after so many intervals, the first snapshot being the first",
}


class EventfulJson(JsonRenderPlugin):
    """The OpenAPI document with the events' JSON Schemas among its components; clients generate their types from it."""

    def __init__(self, events: Mapping[str, Any]) -> None:
        super().__init__(path=["/", "/openapi.json"])
        self._events = events

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        components = openapi_schema.setdefault("components", {})
        components["schemas"] = {**components.get("schemas", {}), **self._events}
        return super().render(request, openapi_schema)


def build_app(
    name: str, handlers: Sequence[Any], settings: Settings, events: EventSchema | None, **options: Any
) -> Litestar:
    """The application of the service `name`. `options` go to Litestar."""
    event_schemas = {} if events is None else events.json_schema("#/components/schemas/{name}")["$defs"]
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
            components=Components(security_schemes={"token": TOKEN}),
            render_plugins=[EventfulJson(event_schemas)],  # Litestar's pages load scripts from elsewhere
        ),
        **options,
    )
    _check_scopes(app)
    _document(app)
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
    if entry.permit is not None:  # else a WebSocket's, whose first frame will say
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
    """What the edge does for all handlers: query parameters, which WebSockets share, and problem documents."""
    paths = app.openapi_schema.paths or {}
    for route in app.routes:
        item = paths.get(route.path_format)
        for handler in getattr(route, "route_handlers", ()):
            for method in getattr(handler, "http_methods", ()):
                operation = getattr(item, method.lower(), None)
                if operation is None:
                    continue
                operation.parameters = [
                    *(operation.parameters or []),
                    *(_parameter(parameter) for parameter in handler.opt.get("parameters", ())),
                ] or None
                operation.responses = {**(operation.responses or {}), "default": PROBLEM}
                scopes = scopes_of(handler)
                if scopes is not None:
                    operation.security = [{"token": [scope]} for scope in scopes] or [{"token": []}]


TOKEN = SecurityScheme(
    type="http",
    scheme="bearer",
    bearer_format="JWT",
    description="Unless the server runs without. Scopes: "
    + "; ".join(f"{name}: {what}" for name, what in SCOPES.items()),
)
PROBLEM = OpenAPIResponse(
    description="A refusal, as a problem document (RFC 9457).",
    content={
        MEDIA_TYPE: OpenAPIMediaType(
            schema=Schema(
                type=OpenAPIType.OBJECT,
                required=["type", "title", "status", "detail", "request_id"],
                properties={
                    "type": Schema(type=OpenAPIType.STRING),
                    "title": Schema(type=OpenAPIType.STRING),
                    "status": Schema(type=OpenAPIType.INTEGER),
                    "detail": Schema(type=OpenAPIType.STRING),
                    "request_id": Schema(type=OpenAPIType.STRING),
                },
            )
        )
    },
)


def _parameter(name: str) -> Parameter:
    return Parameter(
        name=name,
        param_in="query",
        required=False,
        description=PARAMETERS[name],
        schema=Schema(type=OpenAPIType.STRING),
    )
