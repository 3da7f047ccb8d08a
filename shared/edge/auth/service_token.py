"""The token with which one service follows the others."""

import secrets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from shared.edge.auth.signing import sign, signing_secret
from shared.edge.auth.tokens import SERVICE_SCOPE
from shared.edge.settings import Settings

LIFE_SECONDS = 900.0  # a new one is made when one is refused
SCOPES = (SERVICE_SCOPE, "runs:write")  # a task that is cancelled stops its runs


def service_token(settings: Settings, name: str) -> Callable[[], Awaitable[str]] | None:
    """What gives the service `name` a token whenever it needs one; None: there is none to be had, or none is needed."""
    if settings.auth == "off":
        return None
    if settings.service_token or settings.service_token_file:
        return lambda: _given(settings)
    return (lambda: _made(settings, name)) if settings.jwt_secret else None


async def _given(settings: Settings) -> str:
    if settings.service_token:
        return settings.service_token
    return Path(settings.service_token_file).read_text("utf-8").strip()  # noqa: ASYNC240  a few bytes, on this machine


async def _made(settings: Settings, name: str) -> str:
    now = time.time()
    claims = {
        "iss": settings.jwt_issuer,
        "aud": settings.jwt_audience,
        "sub": f"tailrace-{name}",
        settings.jwt_tenant_claim: f"tailrace-{name}",
        "scope": " ".join(SCOPES),
        "iat": int(now),
        "exp": now + LIFE_SECONDS,
        "jti": secrets.token_urlsafe(12),
    }
    return sign(claims, signing_secret(settings.jwt_secret))
