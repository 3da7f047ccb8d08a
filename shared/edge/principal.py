"""Who asks: with auth off everybody is the same local user of the tenant `default`."""

from typing import Any

from litestar.connection import ASGIConnection
from msgspec import Struct


class Principal(Struct, frozen=True):
    """The tenant whose rows and events may be seen, and the user inside it."""

    tenant: str
    owner: str


LOCAL = Principal(tenant="default", owner="local")


def principal_of(connection: ASGIConnection[Any, Any, Any, Any]) -> Principal:
    """The principal of a request or a WebSocket."""
    return principal_of_scope(connection.scope)


def principal_of_scope(scope: Any) -> Principal:
    """The same, where there is no framework."""
    return LOCAL
