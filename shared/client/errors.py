"""What can go wrong for a client of Tailrace.

ClientError
├── Refused            the server says no, and asking again will not change that: `status`, `problem`
│   ├── Unauthorized   401: no token, or one that is not accepted, also after it was renewed
│   ├── Forbidden      403
│   ├── Missing        404
│   ├── Conflict       409
│   ├── Gone           410: continuity cannot be proved, and an error was asked for (`on_reset="error"`)
│   └── AccessRevoked  a stream's subject is not the caller's any more
├── Unavailable        the server cannot be reached or is overloaded, for longer than the caller wanted to wait
└── Unreadable         what came is not Tailrace's: wrong URL, or a version that is too new
"""

from collections.abc import Mapping
from typing import Any


class ClientError(Exception):
    """The root of what this client raises by itself."""


class Refused(ClientError):
    """The server says no. `problem` is its problem document (RFC 9457), `status` the HTTP status.

    The text is the document's `detail`, which says what to do, with the id that finds the request in the server's log.
    """

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(describe(status, problem))
        self.status = status
        self.problem = dict(problem)


class Unauthorized(Refused):
    """No token, or one that is not accepted."""


class Forbidden(Refused):
    """Known, and not allowed; or a lease that is not held any more."""


class Missing(Refused):
    """There is no such thing, or none of the caller's."""


class Conflict(Refused):
    """Not in the state it is in now."""


class Gone(Refused):
    """Continuity from the position cannot be proved: read the state anew, and follow from there."""


class AccessRevoked(Refused):
    """The stream's subject is not the caller's any more. `status` is what asking again would be answered: 404."""


class Unavailable(ClientError):
    """No answer, or one that says "later", for as long as the caller was willing to wait.

    `status` and `problem` are those of the last answer, 0 and empty where there was none. `may_have_happened`: the
    request was sent and its answer did not come, so nobody knows whether it was carried out.
    """

    def __init__(
        self,
        text: str,
        *,
        status: int = 0,
        problem: Mapping[str, Any] | None = None,
        may_have_happened: bool = False,
    ) -> None:
        super().__init__(text)
        self.status = status
        self.problem = dict(problem or {})
        self.may_have_happened = may_have_happened


class Unreadable(ClientError):
    """What came is not what Tailrace sends."""


_KINDS: dict[int, type[Refused]] = {401: Unauthorized, 403: Forbidden, 404: Missing, 409: Conflict, 410: Gone}


def refused(status: int, problem: Mapping[str, Any]) -> Refused:
    """The error of the kind that belongs to a status."""
    return _KINDS.get(status, Refused)(status, problem)


def describe(status: int, problem: Mapping[str, Any]) -> str:
    """A problem document in one line."""
    text = str(problem.get("detail") or problem.get("title") or f"the server answered {status}")
    request_id = problem.get("request_id")
    return f"{text} (status {status}, request {request_id})" if request_id else f"{text} (status {status})"
