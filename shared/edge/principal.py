"""Who asks: the bearer of a token; with auth off everybody is the same local user of the tenant `default`."""

from typing import Any, Protocol

from litestar.connection import ASGIConnection
from msgspec import Struct

from shared.edge.auth.scopes import ALL

KEY = "tailrace.entry"  # in the scope of a request, where the gate has left who it is from


class Principal(Struct, frozen=True):
    """The tenant whose rows and events may be seen, the user inside it (a token's `sub`), and what the two may do.

    `token_id` names the token for its revocation, and is no secret; empty where there is none. `expires_at`, in unix
    seconds, is when the token ends; None: never. A service (`is_service`) reads what all tenants have.
    """

    tenant: str
    owner: str
    scopes: frozenset[str] = frozenset()
    token_id: str = ""
    expires_at: float | None = None
    is_service: bool = False

    @property
    def reach(self) -> str | None:
        """Whose rows and events may be read: one tenant's, None: all tenants'."""
        return None if self.is_service else self.tenant

    def is_same(self, other: "Principal") -> bool:
        """Whether it is the same user of the same tenant."""
        return (self.tenant, self.owner) == (other.tenant, other.owner)


LOCAL = Principal(tenant="default", owner="local", scopes=ALL)


class Entered(Protocol):
    """What the gate leaves in a request's scope."""

    @property
    def principal(self) -> Principal:
        """Raise Unauthorized while it is not known: a WebSocket may say so in its first frame."""
        ...


def principal_of(connection: ASGIConnection[Any, Any, Any, Any]) -> Principal:
    """The principal of a request or a WebSocket. Raise Unauthorized."""
    return principal_of_scope(connection.scope)


def principal_of_scope(scope: Any) -> Principal:
    """The same, where there is no framework."""
    entered: Entered = scope[KEY]
    return entered.principal
