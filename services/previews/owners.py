"""Whose a preview is: its launcher's, and that of those who look after the tenant."""

from shared.edge.auth.scopes import allows
from shared.edge.principal import Principal
from shared.edge.problems import Forbidden

ADMIN = "previews:admin"


def sees_all(principal: Principal) -> bool:
    """Whether the principal may do with the previews of the tenant's other users what it may do with its own."""
    return principal.is_service or allows(principal, ADMIN)


def check_owner(principal: Principal, owner: str) -> None:
    """Raise Forbidden for a preview of another user's."""
    if principal.owner != owner and not sees_all(principal):
        raise Forbidden(f"The preview is another user's; the scope {ADMIN} is for those.", scope=ADMIN)
