"""Errors over HTTP: RFC 9457 problem documents, one shape for all of them, with the request's id.

Problem            a refusal with a status, a title and a sentence that says what to do
├── BadInput       400
├── Unauthorized   401, with WWW-Authenticate
├── Forbidden      403
│   └── OutOfScope      with WWW-Authenticate
├── Missing        404
├── Conflict       409
├── Gone           410
├── Changed        412
├── TooLarge       413
├── WrongMedia     415
├── Unprocessable  422
├── Busy           429, with Retry-After
└── Away           503, with Retry-After
"""

import http
import logging
from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

from shared.channel.log import EventTooLarge, HistoryTrimmed, LogUnavailable
from shared.protocol.errors import ProtocolError

log = logging.getLogger("tailrace.edge")

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):
    """A refusal. `extra` members go into the document beside the standard ones."""

    status: ClassVar[int] = 500
    retry_after_seconds: int | None = None

    def __init__(self, detail: str, *, retry_after_seconds: int | None = None, **extra: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.extra = extra
        self.retry_after_seconds = retry_after_seconds

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer, beside its media type."""
        return {} if self.retry_after_seconds is None else {"retry-after": str(self.retry_after_seconds)}


class BadInput(Problem):
    status = 400


class Unauthorized(Problem):
    """`challenge` is what the header says beside the scheme (RFC 6750, section 3): nothing when no token came."""

    status = 401

    def __init__(self, detail: str, challenge: str = 'error="invalid_token"') -> None:
        super().__init__(detail)
        self.challenge = challenge

    @property
    def headers(self) -> dict[str, str]:
        return {"www-authenticate": f'Bearer realm="tailrace", {self.challenge}'.rstrip(", ")}


class Forbidden(Problem):
    status = 403


class OutOfScope(Forbidden):
    """A token does not hold what an operation asks for."""

    def __init__(self, scopes: Sequence[str]) -> None:
        super().__init__(f"The token lacks the scope {' or '.join(scopes)}.", scope=" ".join(scopes))

    @property
    def headers(self) -> dict[str, str]:
        challenge = f'error="insufficient_scope", scope="{self.extra["scope"]}"'
        return {"www-authenticate": f'Bearer realm="tailrace", {challenge}'}


class Missing(Problem):
    status = 404


class Conflict(Problem):
    status = 409


class Gone(Problem):
    status = 410


class Changed(Problem):
    status = 412


class TooLarge(Problem):
    status = 413


class WrongMedia(Problem):
    status = 415


class Unprocessable(Problem):
    status = 422


class Busy(Problem):
    status = 429


class Away(Problem):
    status = 503


class Document(msgspec.Struct, frozen=True):
    """What goes out: a status, headers and the JSON body."""

    status: int
    headers: dict[str, str]
    body: bytes


def document(error: Exception, request_id: str) -> Document:
    """The problem document of any exception. What we did not foresee becomes a 500 that says nothing of the inside."""
    problem = _as_problem(error)
    if problem is None:
        log.error("a request failed in a way nobody foresaw", exc_info=error, extra={"request_id": request_id})
        return _write(500, "The service failed; the log has the reason under this request id.", {}, {}, request_id)
    return _write(problem.status, problem.detail, problem.extra, problem.headers, request_id)


def http_document(status: int, detail: str, headers: dict[str, str], request_id: str) -> Document:
    """The problem document of a plain HTTP status, such as the framework's own 405."""
    return _write(status, detail, {}, headers, request_id)


def handle(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Litestar's exception handler for everything."""
    request_id = str(request.scope.get("tailrace.request_id", ""))
    if isinstance(error, HTTPException) and not isinstance(error, ValidationException):
        shown = http_document(error.status_code, error.detail, dict(error.headers or {}), request_id)
    else:
        if isinstance(error, ValidationException):
            error = BadInput(_name_allowed_fields(request, error), errors=error.extra or [])
        shown = document(error, request_id)
    return Response(shown.body, status_code=shown.status, media_type=MEDIA_TYPE, headers=shown.headers)


def _name_allowed_fields(request: Request[Any, Any, Any], error: ValidationException) -> str:
    """The faults in words; for an unknown field also the names that a body may have."""
    extra: Any = error.extra or []
    faults = [f"{fault.get('key', 'body')}: {fault.get('message', '')}" for fault in extra]
    text = "; ".join(faults) or error.detail
    body = request.route_handler.parsed_data_field
    if "unknown field" in text and body is not None and issubclass(body.annotation, msgspec.Struct):
        text += f"; allowed: {', '.join(body.annotation.__struct_encode_fields__)}"
    return text


def _as_problem(error: Exception) -> Problem | None:
    if isinstance(error, Problem):
        return error
    if isinstance(error, LogUnavailable):
        return Away(str(error), retry_after_seconds=2)
    if isinstance(error, HistoryTrimmed):
        return Gone(str(error), reason="history_trimmed")
    if isinstance(error, EventTooLarge):
        return TooLarge(str(error))
    if isinstance(error, RecursionError):
        return BadInput("the body is nested too deeply")
    if isinstance(error, UnicodeDecodeError):  # which msgspec raises for such bytes inside a text, instead of its own
        return BadInput(f"the body is not UTF-8: {error.reason} at byte {error.start} of a text")
    if isinstance(error, ProtocolError | msgspec.ValidationError | msgspec.DecodeError):
        return BadInput(str(error))
    return None


def _write(status: int, detail: str, extra: dict[str, Any], headers: dict[str, str], request_id: str) -> Document:
    body = {
        "type": "about:blank",
        "title": http.HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "request_id": request_id,
        **extra,
    }
    return Document(status, headers, msgspec.json.encode(body))
