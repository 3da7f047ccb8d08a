"""Who asks: with auth off everybody is the same local user of the tenant `default`."""

from typing import Any

from litestar.connection import ASGIConnection
from msgspec import Struct

from shared.edge.auth.scopes import ALL


class Principal(Struct, frozen=True):
    """The tenant whose rows and events may be seen, the user inside it (a token's `sub`), and what the two may do.

    `token_id` names the token for its revocation, and is no secret; empty where there is none. `expires_at`, in unix
    seconds, is when the token ends; None: never. A service (`is_service`) sees the feeds of all tenants.
    """

    tenant: str
    owner: str
    scopes: frozenset[str] = frozenset()
    token_id: str = ""
    expires_at: float | None = None
    is_service: bool = False


LOCAL = Principal(tenant="default", owner="local", scopes=ALL)


def principal_of(connection: ASGIConnection[Any, Any, Any, Any]) -> Principal:
    """The principal of a request or a WebSocket."""
    return principal_of_scope(connection.scope)


def principal_of_scope(scope: Any) -> Principal:
    """The same, where there is no framework."""
    return LOCAL
