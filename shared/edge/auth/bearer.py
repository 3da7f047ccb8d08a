"""What a request carries to say who it is from: a token, a ticket, or nothing. Pure.

A token travels in the `Authorization` header (RFC 6750, section 2.1), or beside `tailrace.v1` among the subprotocols of
a WebSocket, since a browser's cannot have headers. In an address it would stay in histories and logs, so it is refused
there; a ticket, good once and for seconds, may stand there.
"""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote

from msgspec import Struct

from shared.edge.problems import BadInput

SUBPROTOCOL_PREFIX = "bearer."
TICKET = "ticket"
MAX_TICKET = 200

_TOKEN_NAMES = frozenset(("access_token", "token", "id_token", "jwt", "bearer", "authorization", "api_key", "apikey"))
_LOOKS_LIKE_A_TOKEN = re.compile(r"e[wy][A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_SCHEME = re.compile(r"bearer +(\S+)", re.IGNORECASE | re.ASCII)


class Bearer(Struct, frozen=True):
    """At most one of the two is not empty."""

    token: str = ""
    ticket: str = ""


def bearer_of(scope: Mapping[str, Any], *, reads_query: bool = True) -> Bearer:
    """What an ASGI scope carries; without `reads_query` its query is none of ours. Raise BadInput for a token in the
    address and for more than one.
    """
    headers = [str(value, "latin-1") for name, value in scope["headers"] if name == b"authorization"]
    given = [_of_header(value) for value in headers] + _of_subprotocols(scope)
    ticket = _of_query(str(scope["query_string"], "latin-1")) if reads_query else ""
    if len(given) + bool(ticket) > 1:
        raise BadInput("The request says more than once who it is from: send one token, or one ticket.")
    return Bearer(token=given[0] if given else "", ticket=ticket)


def without_bearer(scope: Any, bearer: Bearer) -> None:
    """Take it out of the scope: what handles the request needs it no more, and would take a ticket for a parameter."""
    query: bytes = scope["query_string"]
    if bearer.ticket:
        kept = [part for part in query.split(b"&") if unquote(part.partition(b"=")[0].decode("latin-1")) != TICKET]
        scope["query_string"] = b"&".join(kept)
    if scope["type"] == "websocket":
        scope["subprotocols"] = plain = _plain(scope["subprotocols"])
        told = (b"sec-websocket-protocol", ", ".join(plain).encode("latin-1"))
        others = [header for header in scope["headers"] if header[0] != b"sec-websocket-protocol"]
        scope["headers"] = [*others, told] if plain else others


def _plain(subprotocols: list[str]) -> list[str]:
    return [name for name in subprotocols if not name.startswith(SUBPROTOCOL_PREFIX)]


def _of_header(value: str) -> str:
    matched = _SCHEME.fullmatch(value.strip())
    return "-" if matched is None else matched[1]  # of another scheme, or none: no token, as whoever checks it will say


def _of_subprotocols(scope: Mapping[str, Any]) -> list[str]:
    offered: list[str] = scope.get("subprotocols") or []
    tokens = [name.removeprefix(SUBPROTOCOL_PREFIX) for name in offered if name.startswith(SUBPROTOCOL_PREFIX)]
    if tokens and len(tokens) == len(offered):
        raise BadInput("A token among the subprotocols goes beside tailrace.v1, which is what is spoken: offer both.")
    return tokens


def _of_query(query: str) -> str:
    if not query:
        return ""
    pairs = parse_qsl(query, keep_blank_values=True)
    if any(name.lower() in _TOKEN_NAMES or _LOOKS_LIKE_A_TOKEN.fullmatch(value) for name, value in pairs):
        raise BadInput(
            "There is a token in the address, which gets into histories and logs: get a new one, and send it in the "
            "header Authorization. Where no header can be sent, POST /api/v1/stream-tickets gives a ticket."
        )
    tickets = [value for name, value in pairs if name == TICKET]
    if len(tickets) > 1 or any(not ticket or len(ticket) > MAX_TICKET for ticket in tickets):
        raise BadInput("ticket is given more than once, or is none: POST /api/v1/stream-tickets gives one")
    return tickets[0] if tickets else ""
