"""Entity tags (RFC 9110, section 8.8.3): a resource's is the position of its newest event."""

import re

from shared.edge.admission import Connection
from shared.edge.problems import Changed

_TAG = re.compile(r'(W/)?("[^"]*")')


def etag_of(position: str) -> str:
    """The header's value."""
    return f'"{position}"'


def is_known(connection: Connection, etag: str) -> bool:
    """Whether `If-None-Match` says that the caller has it: then 304. Compared weakly, as section 13.1.2 says."""
    return _matches(connection.headers.get("if-none-match"), etag, weakly=True)


def check_if_match(connection: Connection, etag: str) -> None:
    """Raise Changed when `If-Match` names other states than this one. Compared strongly, as section 13.1.1 says."""
    given = connection.headers.get("if-match")
    if given is not None and not _matches(given, etag, weakly=False):
        raise Changed(f"it has changed since you read it: its ETag is {etag} now; read it again, then try again")


def _matches(header: str | None, etag: str, *, weakly: bool) -> bool:
    if header is None or header.strip() == "*":
        return header is not None
    return any(tag == etag and (weakly or not weak) for weak, tag in _TAG.findall(header))
