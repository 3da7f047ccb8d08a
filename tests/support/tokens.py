"""Tokens of several tenants and users, and a server that takes them."""

import secrets
import time
from collections.abc import Iterable
from typing import Any

import httpx

from shared.edge.auth.scopes import SCOPES
from shared.edge.auth.signing import sign, signing_secret

SECRET = "a secret for tests, of more than 32 bytes"
ISSUER, AUDIENCE = "https://issuer.example", "tailrace"
JWT = {"auth": "jwt", "jwt_secret": SECRET, "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}
USER_SCOPES = tuple(scope for scope in SCOPES if scope not in ("feed:consume", "previews:admin"))
TICKETS = "/api/v1/stream-tickets"


def token(
    sub: str = "ann", tenant: str = "acme", scopes: Iterable[str] = USER_SCOPES, seconds: float = 3600, **claims: Any
) -> str:
    """A token that is good for so many seconds; None among `claims` leaves one out."""
    now = time.time()
    all_claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": sub,
        "tenant": tenant,
        "scope": " ".join(scopes),
        "exp": now + seconds,
        "jti": secrets.token_hex(8),
        **claims,
    }
    return sign({name: value for name, value in all_claims.items() if value is not None}, signing_secret(SECRET))


def bearing(text: str) -> dict[str, str]:
    """The header that carries it."""
    return {"authorization": f"Bearer {text}"}


def client_of(url: str, text: str | None = None) -> httpx.AsyncClient:
    """A client that sends the token with everything."""
    return httpx.AsyncClient(base_url=url, headers=bearing(text) if text else {}, timeout=httpx.Timeout(60))


async def ticket_for(client: httpx.AsyncClient, path: str) -> str:
    """A ticket for a path."""
    answer = await client.post(TICKETS, json={"path": path})
    answer.raise_for_status()
    return str(answer.json()["ticket"])
