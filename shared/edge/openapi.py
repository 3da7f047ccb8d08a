"""The OpenAPI document: what the edge knows of every operation, beside what Litestar reads off its handler.

Clients generate their types from it. tests/integration/test_schemas.py calls every operation with what the document
allows and holds the answers against it. A handler says the rest of what Litestar cannot see in its options:
`answers=` by status (a sentence: the usual body, or none where HTTP has none; or a whole response), `refusals=` the
statuses of problem documents beside those that `_refusals` knows, and `document_body=` a Struct for its body.
"""

from collections.abc import Iterator, Mapping, Sequence
from inspect import isclass
from typing import Any

from litestar import Request
from litestar.datastructures import ResponseHeader
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import (
    Components,
    OpenAPIHeader,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Parameter,
    Reference,
    RequestBody,
    Schema,
    SecurityScheme,
)
from msgspec import Struct

from shared.edge.auth.scopes import SCOPES
from shared.edge.parameters import PATHS, in_header, in_query
from shared.edge.polling import NDJSON
from shared.edge.problems import MEDIA_TYPE
from shared.protocol.control import Bookmark, Gap, Hello, Live, Reset, StreamEnd
from shared.protocol.schema import Schema as EventSchema
from shared.protocol.schema import json_schemas

CONTROLS = (Hello, Live, Bookmark, Gap, Reset, StreamEnd)
BODILESS = (204, 304)

ETAG = ResponseHeader(name="ETag", description="It changes with the resource.", documentation_only=True, required=True)
LOCATION = ResponseHeader(
    name="Location", description="Where the new resource is.", documentation_only=True, required=True
)

_TEXT = Schema(type=OpenAPIType.STRING)
# OpenAPI has no word for a stream's items before 3.2: like there, the schema is that of one.
_EVENTS = OpenAPIMediaType(schema=Reference("#/components/schemas/Message"))
_FRAMES = {
    "application/json": OpenAPIMediaType(schema=Reference("#/components/schemas/Poll")),
    NDJSON: OpenAPIMediaType(
        schema=Schema(type=OpenAPIType.STRING, description="A Frame a line; the last is a bookmark.")
    ),
}
STREAM = OpenAPIResponse(description="The stream.", content={"text/event-stream": _EVENTS})
STREAMED: Mapping[int, OpenAPIResponse | str] = {
    200: STREAM,
    204: "The subject has ended, and nothing lies after the position: do not come back.",
}
POLLED: Mapping[int, OpenAPIResponse | str] = {200: OpenAPIResponse(description="The events.", content=_FRAMES)}
EITHER: Mapping[int, OpenAPIResponse | str] = {
    **STREAMED,
    200: OpenAPIResponse(
        description="The events, or the stream of them.", content={**_FRAMES, "text/event-stream": _EVENTS}
    ),
}
RESUMING = (410,)  # refusals of what takes a position


class EventfulJson(JsonRenderPlugin):
    """The document with msgspec's own JSON Schemas of bodies and events: they tell all that is checked."""

    def __init__(self) -> None:
        super().__init__(path=["/", "/openapi.json"])
        self.schemas: Mapping[str, Any] = {}

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        components = openapi_schema.setdefault("components", {})
        components["schemas"] = {**components.get("schemas", {}), **self.schemas}
        return super().render(request, openapi_schema)


# ── what all documents have ────────────────────────────────────────────────────────────────────────────────────────

TOKEN = SecurityScheme(
    type="http",
    scheme="bearer",
    bearer_format="JWT",
    description="Unless the server runs without. Scopes: "
    + "; ".join(f"{name}: {what}" for name, what in SCOPES.items()),
)
PROBLEM = Schema(
    type=OpenAPIType.OBJECT,
    description="A problem document (RFC 9457). It may say more, by further members.",
    required=["type", "title", "status", "detail", "request_id"],
    properties={
        "type": _TEXT,
        "title": _TEXT,
        "status": Schema(type=OpenAPIType.INTEGER, minimum=400, maximum=599),
        "detail": _TEXT,
        "request_id": _TEXT,
    },
)


def _refusal(description: str, **headers: str) -> OpenAPIResponse:
    told = {"X-Request-ID": "Also in the document, and in the server's log.", **headers}
    return OpenAPIResponse(
        description=description,
        content={MEDIA_TYPE: OpenAPIMediaType(schema=Reference("#/components/schemas/Problem"))},
        headers={
            name.replace("_", "-"): OpenAPIHeader(schema=_TEXT, description=what, required=True)
            for name, what in told.items()
        },
    )


def components() -> Components:
    """Anew for each document: Litestar adds to it."""
    return Components(
        responses={
            "Refused": _refusal("A refusal; its detail says what to do."),
            "Unauthorized": _refusal("No good token.", WWW_Authenticate="What is asked for (RFC 6750)."),
            "Busy": _refusal("Not now.", Retry_After="Seconds."),
        },
        security_schemes={"token": TOKEN},
    )


_COMPONENT_OF = {401: "Unauthorized", 429: "Busy", 503: "Busy"}
_REFUSED = {
    400: "The request is wrong; detail names the fault.",
    401: "No good token.",
    403: "It is not the caller's to do.",
    404: "There is no such thing, or it is not the caller's to see.",
    409: "It cannot be done in the present state.",
    410: "Continuity from the position cannot be proved: read the state anew.",
    412: "It has changed since it was read.",
    413: "The body is too large.",
    415: "The body is of a wrong media type.",
    422: "It is well formed, and cannot be done.",
    429: "Too much at once; Retry-After says when to come back.",
    503: "The service cannot answer now; Retry-After says when to come back.",
}


# ── operations ─────────────────────────────────────────────────────────────────────────────────────────────────────


def complete(operation: Operation, handler: Any, path: str, scopes: Sequence[str] | None) -> None:
    """Add what Litestar does not know. `scopes`: of which one is needed; None: the operation is for everybody."""
    options = handler.opt
    for parameter in operation.parameters or ():
        assert isinstance(parameter, Parameter)  # so far, of the path
        parameter.schema = PATHS[parameter.name]
    operation.parameters = [
        *(operation.parameters or ()),
        *(in_query(name, options.get("narrowed", {})) for name in options.get("parameters", ())),
        *(in_header(name) for name in options.get("request_headers", ())),
    ] or None
    if operation.request_body is not None:
        operation.request_body = _body(operation.request_body, options)
    operation.responses = {
        **_answers(operation.responses or {}, handler),
        **_refusals(operation, handler, path, scopes),
    }
    if scopes is not None:
        operation.security = [{"token": [scope]} for scope in scopes] or [{"token": []}]


def _body(body: Any, options: Mapping[str, Any]) -> RequestBody:
    (content,) = body.content.values()
    if "document_body" in options:
        content = OpenAPIMediaType(schema=_reference(options["document_body"]))
    return RequestBody(content=dict.fromkeys(options.get("media_types", ("application/json",)), content), required=True)


def _answers(found: Mapping[str, Any], handler: Any) -> dict[str, Any]:
    """By status. Litestar tells of one beside its own 400, which is not how we refuse."""
    usual = found[str(handler.status_code)]
    for media in (usual.content or {}).values():
        media.schema = _without_null(media.schema)
    for header in (usual.headers or {}).values():
        header.schema = _TEXT
    answers = {handler.status_code: usual}
    for status, told in handler.opt.get("answers", {}).items():
        if isinstance(told, OpenAPIResponse):
            answers[status] = told
        else:
            content = None if status in BODILESS else usual.content
            headers = None if status == 204 else usual.headers
            answers[status] = OpenAPIResponse(description=told, content=content, headers=headers)
    return {str(status): answer for status, answer in answers.items()}


def _without_null(schema: Any) -> Any:
    """`View | None` is a handler's way to say that there may be no body at all, under another status."""
    kept = [one for one in getattr(schema, "one_of", None) or () if getattr(one, "type", None) is not OpenAPIType.NULL]
    return kept[0] if len(kept) == 1 else schema


def _refusals(operation: Operation, handler: Any, path: str, scopes: Sequence[str] | None) -> dict[str, Reference]:
    statuses = {400, 429, 503, *handler.opt.get("refusals", ())}
    if scopes is not None:
        statuses |= {401, 403}
    if "{" in path:
        statuses.add(404)
    if operation.request_body is not None:
        statuses |= {413, 415}
    return {
        str(status): Reference(
            f"#/components/responses/{_COMPONENT_OF.get(status, 'Refused')}", description=_REFUSED[status]
        )
        for status in sorted(statuses)
    }


# ── schemas ────────────────────────────────────────────────────────────────────────────────────────────────────────


def schemas_of(handlers: Sequence[Any], events: EventSchema | None) -> dict[str, Any]:
    """JSON Schemas of all that handlers take and give, of the events, and of what streams say of themselves."""
    structs = {struct: None for handler in handlers for struct in _structs_of(handler)}
    types = () if events is None else tuple(events.types.values())
    schemas = json_schemas((*structs, *types, *(CONTROLS if types else ())), "#/components/schemas/{name}")
    return {"Problem": PROBLEM.to_schema(), **schemas, **(_frames(types) if types else {})}


def _structs_of(handler: Any) -> Iterator[type[Struct]]:
    yield from _structs_in(handler.parsed_return_field)
    if handler.parsed_data_field is not None:
        yield from _structs_in(handler.parsed_data_field)
    if "document_body" in handler.opt:
        yield handler.opt["document_body"]


def _structs_in(field: Any) -> Iterator[type[Struct]]:
    if isclass(field.annotation) and issubclass(field.annotation, Struct):
        yield field.annotation
    for inner in field.inner_types:
        yield from _structs_in(inner)


def _frames(types: Sequence[type[Struct]]) -> dict[str, Any]:
    """What polls answer with, as `shared.edge.polling` writes it, and what streams send."""
    text = {"type": "string"}
    polled = _any_of(*types, Reset, Bookmark)
    told = {"type": "string", "contentMediaType": "application/json", "contentSchema": _any_of(*types, *CONTROLS)}
    return {
        "Frame": _object("An event and its position; or a word about the stream.", id=text, event=polled),
        "Poll": _object(
            "Frames after a position. `next` is the position to go on from, `head` that of the log; `ended` is the "
            "subject's terminal status, once all has been told.",
            data={"type": "array", "items": {"$ref": "#/components/schemas/Frame"}},
            head=text,
            next=text,
            ended={"anyOf": [text, {"type": "null"}]},
        ),
        "Message": {
            "description": "One server-sent event. Without `event` it is of the stream's primary type.",
            "type": "object",
            "required": ["id", "data"],
            "properties": {"id": text, "event": text, "data": told, "retry": {"type": "integer"}},
        },
    }


def _any_of(*types: type[Struct]) -> dict[str, Any]:
    return {"anyOf": [_reference(struct).to_schema() for struct in types]}


def _object(description: str, **properties: Any) -> dict[str, Any]:
    return {"description": description, "type": "object", "required": list(properties), "properties": properties}


def _reference(struct: type[Struct]) -> Reference:
    return Reference(f"#/components/schemas/{struct.__name__}")
