"""Every parameter of the product, once, as the OpenAPI documents describe it; WebSockets share those of the query.

Handlers name those they take: `parameters=` the query's, `request_headers=` the headers. Where one takes fewer values
than another, its `narrowed=` says which.
"""

from collections.abc import Mapping, Sequence

from litestar.openapi.spec import OpenAPIType, Parameter, Schema
from msgspec import Struct, structs

from shared.edge.admission import LISTS
from shared.edge.ids import MAX_NAME
from shared.edge.listing import MAX_LIMIT as MAX_LISTED
from shared.edge.listing import MAX_VALUE
from shared.edge.polling import MAX_LIMIT, MAX_WAIT_SECONDS
from shared.protocol.schema import MAX_PATTERN, MAX_PATTERNS

_POSITION = "[a-z0-9]{1,16}-(0|[1-9][0-9]{0,18})"
_ULID = "[0-7][0-9a-hjkmnp-tv-z]{25}"


def text(pattern: str | None = None, *, shortest: int | None = None, longest: int | None = None) -> Schema:
    return Schema(type=OpenAPIType.STRING, pattern=pattern, min_length=shortest, max_length=longest)


def one_of(values: Sequence[str]) -> Schema:
    return Schema(type=OpenAPIType.STRING, enum=list(values))


def number(lowest: float | None = None, highest: float | None = None) -> Schema:
    return Schema(type=OpenAPIType.NUMBER, minimum=lowest, maximum=highest)


def whole(lowest: int | None = None, highest: int | None = None) -> Schema:
    return Schema(type=OpenAPIType.INTEGER, minimum=lowest, maximum=highest)


def identifier(prefix: str) -> Schema:
    """An id that can exist."""
    return text(f"^{prefix}_{_ULID}$")


def several(item: Schema, highest: int) -> Schema:
    return Schema(type=OpenAPIType.ARRAY, items=item, min_items=1, max_items=highest)


POSITION, LEASE = "Last-Event-ID", "Tailrace-Lease"

FLAG = Schema(type=OpenAPIType.BOOLEAN)
VALUE = text(r"^[^\x00]*$", longest=MAX_VALUE)
NAME = text("^[^/]+$", shortest=1, longest=MAX_NAME)  # and every character printable, which no pattern says shortly


class Described(Struct, frozen=True):
    """What a parameter means, and the values it takes."""

    meaning: str
    schema: Schema


PARAMETERS: Mapping[str, Described] = {
    "after": Described(
        "start, now or a position such as k3f9a2-1042: events after it are sent", text(f"^(start|now|{_POSITION})$")
    ),
    "until": Described("a position: events after it are left out", text(f"^{_POSITION}$")),
    "types": Described(
        "a comma list of event types; * stands for any characters",
        several(text("^[a-z0-9_.*]+$", longest=MAX_PATTERN), MAX_PATTERNS),
    ),
    "lossless": Described("true: nothing is shed or conflated, however far this reader falls behind", FLAG),
    "on_reset": Described("reset: a reset frame; error: 410", one_of(("reset", "error"))),
    "limit": Described("at most so many items", whole(1, MAX_LISTED)),
    "wait": Described("seconds to wait for the first event", number(0, MAX_WAIT_SECONDS)),
    "run": Described("a run's id; may be repeated", several(identifier("run"), 200)),
    "status": Described("only with this status", VALUE),
    "runner": Described("only of this runner", VALUE),
    "mode": Described("only of this mode", VALUE),
    "session_id": Described("only of this session", VALUE),
    "task_id": Described("only of this task", VALUE),
    "kind": Described("only of this kind", VALUE),
    "generation_id": Described("only of this generation", VALUE),
    "replace": Described("true: an active preview of the generation is stopped first", FLAG),
    "tail": Described("begin with so many of the last lines", whole(0)),
    "before": Described("only lines before this one", whole(0)),
    "level": Described("lines of this level and above", VALUE),
    "stream": Described("stdout or stderr", one_of(("stdout", "stderr"))),
    "q": Described("only lines with this text, in whatever case", text(r"^[^\x00]+$", shortest=1)),
    "cursor": Described("the next_cursor of the page before", text(f"^[a-z]+_{_ULID}$")),
    "interval": Described("seconds between two snapshots", number()),
    "max_ticks": Described("the stream ends after so many intervals, the first snapshot being the first", whole(1)),
}

POLL_VALUES: Mapping[str, Schema] = {"limit": whole(1, MAX_LIMIT)}  # what polls say with `narrowed=`

PATHS: Mapping[str, Schema] = {
    "run_id": identifier("run"),
    "task_id": identifier("task"),
    "session_id": NAME,
    "worker": NAME,
    "generation_id": NAME,
}

_TAGS = text(r'^(\*|(W/)?"[^"]*"( *, *(W/)?"[^"]*")*)$')
HEADERS: Mapping[str, Described] = {
    "If-None-Match": Described("ETags that the caller has: 304 if one of them is the newest", _TAGS),
    "If-Match": Described("only if the newest ETag is one of these, else 412", _TAGS),
    "Idempotency-Key": Described(
        "sent again with the same body within 24 hours: the first answer again",
        text("^[!-~]([ -~]*[!-~])?$", shortest=1, longest=255),
    ),
    "Prefer": Described("wait=N: answer when the run has ended, or after N seconds", text("^wait=[0-9]{1,6}$")),
    POSITION: Described(
        "the position that the reader has seen; it wins over after, and one that is none is answered with a reset",
        text(f"^(start|now|{_POSITION})$"),
    ),
    LEASE: Described("the token of the lease", text("^[!-~]+$", shortest=1)),
}
REQUIRED = (LEASE,)


def in_query(name: str, narrowed: Mapping[str, Schema | Described]) -> Parameter:
    """A parameter of the query. One with several values is a comma list, or repeated if its values may have commas."""
    described = PARAMETERS[name]
    own = narrowed.get(name, described)
    if isinstance(own, Schema):
        own = structs.replace(described, schema=own)
    explode = False if name in LISTS and name != "run" else None
    return Parameter(
        name=name,
        param_in="query",
        required=False,
        description=own.meaning,
        schema=own.schema,
        style=None if explode is None else "form",
        explode=explode,
    )


def in_header(name: str) -> Parameter:
    described = HEADERS[name]
    return Parameter(
        name=name,
        param_in="header",
        required=name in REQUIRED,
        description=described.meaning,
        schema=described.schema,
    )
