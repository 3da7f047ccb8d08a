"""The stored output of previews."""

from collections.abc import Callable
from typing import Any

from litestar import Response, get
from litestar.openapi.spec import OpenAPIMediaType, OpenAPIResponse, OpenAPIType, Reference, Schema
from litestar.params import FromPath
from litestar.response import Stream

from services.previews.api.common import PREVIEW, backend_of, preview_of
from services.previews.logs import LEVELS, LOG_PARAMETERS, MAX_LIMIT, MAX_LINE, MAX_TEXT, LogPage, query_of
from shared.edge.admission import AnyRequest
from shared.edge.parameters import Described, one_of, text, whole

PAGE = OpenAPIMediaType(schema=Reference("#/components/schemas/LogPage"))
TEXT = OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING, description="Lines."))
LINE = whole(0, MAX_LINE)


@get(
    f"{PREVIEW}/logs",
    parameters=LOG_PARAMETERS,
    narrowed={
        "after": Described("only lines after this one", LINE),
        "before": LINE,
        "limit": whole(1, MAX_LIMIT),
        "tail": Described("the last so many lines", whole(1, MAX_LIMIT)),
        "level": one_of(LEVELS),
        "q": text(r"^[^\x00]+$", shortest=1, longest=MAX_TEXT),
    },
    answers={200: OpenAPIResponse(description="Lines.", content={"application/json": PAGE, "text/plain": TEXT})},
    scope="previews:read",
)
async def read_logs(request: AnyRequest, generation_id: FromPath[str]) -> Response[LogPage] | Stream:
    """Stored lines, narrowed by number, level, stream and text; with `Accept: text/plain` as text, and all of them
    unless told.
    """
    asked = query_of(request)
    preview = await preview_of(request, generation_id)
    logs = backend_of(request).logs
    if "text/plain" not in request.headers.get("accept", ""):
        return Response(await logs.page(preview.subject, asked))
    headers = {
        "content-disposition": f'attachment; filename="{preview.label}.log"',
        "x-accel-buffering": "no",
        "x-content-type-options": "nosniff",
    }
    return Stream(logs.text(preview.subject, asked), media_type="text/plain", headers=headers)


HANDLERS: tuple[Callable[..., Any], ...] = (read_logs,)
