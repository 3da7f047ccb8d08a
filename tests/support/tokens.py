"""Tokens for a service with authentication on, and the settings of one."""

import time
from typing import Any

import jwt

SECRET = "a secret of more than thirty-two bytes"
ISSUER, AUDIENCE = "https://issuer.example", "tailrace"
ALL_SCOPES = " ".join(f"{service}:{right}" for service in ("tasks", "runs", "previews") for right in ("read", "write"))

WITH_TOKENS: dict[str, Any] = {
    "auth": "jwt",
    "jwt_secret": SECRET,
    "jwt_issuer": ISSUER,
    "jwt_audience": AUDIENCE,
}
"""Settings; tokens of `token_for` are taken under them."""


def token_for(subject: str = "ann", *, seconds: float = 600, secret: str = SECRET, **claims: Any) -> str:
    """A token of this person, good for so long."""
    now = time.time()
    given = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "tenant": "acme", "scope": ALL_SCOPES}
    return jwt.encode({**given, "iat": now, "exp": now + seconds, **claims}, secret, algorithm="HS256")


def bearer(token: str) -> dict[str, str]:
    """The header that carries it."""
    return {"authorization": f"Bearer {token}"}
