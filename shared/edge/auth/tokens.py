"""Tokens: a JSON Web Token becomes a principal, or is refused with a sentence that never holds a piece of it.

Rules: RFC 7519, and RFC 8725 for what goes wrong. The signature is the library's work; the claims are decoded into a
type here, so that none is taken for what it is not (`exp` as text, `sub` as a number, a time beyond all calendars).
"""

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import jwt
import msgspec
from msgspec import Meta, Raw, Struct

from shared.edge.auth.jwks import Jwks
from shared.edge.auth.keys import Keys, OneKey, UnfitKey, check_algorithms, pem_key, secret_key
from shared.edge.auth.scopes import known
from shared.edge.fields import Reference
from shared.edge.principal import Principal

MAX_TOKEN_BYTES = 8 * 1024
MAX_KID = 200
LEEWAY_SECONDS = 10.0  # by which the clocks of two machines in one place may differ
SERVICE_SCOPE = "feed:consume"

_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)

Time = Annotated[float, Meta(ge=0, le=253_402_300_799)]  # unix seconds, up to the year 9999


class TokenRefused(Exception):
    """A token is not taken. `reason` is a sentence for its bearer."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TokenRules(Struct, frozen=True, kw_only=True):
    """Which tokens are taken: signed by one of a secret, a public key (PEM) and the keys at a URL; by this issuer, for
    this audience. `algorithms` narrow what goes with the key.
    """

    issuer: str
    audience: str
    secret: str = ""
    public_key: str = ""
    jwks_url: str = ""
    algorithms: tuple[str, ...] = ()
    tenant_claim: str = "tenant"

    def __repr__(self) -> str:
        return f"TokenRules(issuer={self.issuer!r}, audience={self.audience!r})"


class Claims(Struct, frozen=True):
    """The claims of a token that every one has, and some that it may have."""

    iss: str
    aud: str | list[str]
    exp: Time
    sub: Reference
    nbf: Time = 0.0
    iat: Time = 0.0
    jti: Reference | None = None
    scope: str | list[str] = ""

    @property
    def scopes(self) -> frozenset[str]:
        """Those of ours."""
        return known(self.scope.split() if isinstance(self.scope, str) else self.scope)


_claims = msgspec.json.Decoder(Claims)
_members = msgspec.json.Decoder(dict[str, Raw])
_tenant = msgspec.json.Decoder(Reference)
_jws = jwt.PyJWS()


class Verifier:
    """Turns tokens into principals. `now` is the time in unix seconds."""

    def __init__(self, rules: TokenRules, *, keys: Keys | None = None, now: Callable[[], float] = time.time) -> None:
        """Raise UnfitKey when the rules cannot be followed, with a sentence for whoever wrote the settings."""
        if not rules.issuer or not rules.audience:
            raise UnfitKey("tokens are for one audience and from one issuer: say which")
        if not rules.tenant_claim:
            raise UnfitKey("tokens name their tenant: say in which claim")
        self._rules = rules
        self._keys = keys if keys is not None else keys_of(rules)
        self._now = now

    async def verify(self, token: str) -> Principal:
        """Whose token it is. Raise TokenRefused, and KeysUnavailable when nobody can say now."""
        header = _header(token)
        algorithm, kid = header["alg"], header.get("kid")
        key = await self._keys.find(kid, algorithm)
        if key is None:
            raise TokenRefused("The token is signed with a key that is not known here.")
        try:
            payload = _jws.decode_complete(token, key.material, algorithms=sorted(key.algorithms))["payload"]
        except (jwt.PyJWTError, ValueError, TypeError):
            raise TokenRefused("The token's signature is wrong.") from None
        claims, tenant = _read(payload, self._rules.tenant_claim)
        self._check(claims)
        return Principal(
            tenant=tenant,
            owner=claims.sub,
            scopes=claims.scopes,
            token_id=token_id(token, claims.jti),
            expires_at=claims.exp,
            is_service=SERVICE_SCOPE in claims.scopes,
        )

    def failing(self) -> str:
        """Why `/ready` should complain; empty when all is well."""
        return self._keys.failing()

    async def aclose(self) -> None:
        """Let go of what it holds."""
        await self._keys.aclose()

    def _check(self, claims: Claims) -> None:
        now = self._now()
        audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud
        if claims.iss != self._rules.issuer:
            raise TokenRefused("The token is from another issuer.")
        if self._rules.audience not in audiences:
            raise TokenRefused("The token is for another audience.")
        if now >= claims.exp:  # without leeway: a stream ends then too, and its client must not come back with this
            raise TokenRefused("The token has expired.")
        if now < claims.nbf - LEEWAY_SECONDS:
            raise TokenRefused("The token is not valid yet.")
        if now < claims.iat - LEEWAY_SECONDS:
            raise TokenRefused("The token was issued in the future: is a clock wrong?")


def keys_of(rules: TokenRules) -> Keys:
    """The keys that the rules name. Raise UnfitKey unless there is just one source: with two of different kinds a
    public key might come to be taken for a secret.
    """
    sources = [source for source in (rules.secret, rules.public_key, rules.jwks_url) if source]
    if len(sources) != 1:
        raise UnfitKey("tokens are checked with a secret, or a public key, or the keys at a URL: give one of the three")
    check_algorithms(rules.algorithms)
    if rules.secret:
        return OneKey(secret_key(rules.secret, rules.algorithms))
    if rules.public_key:
        return OneKey(pem_key(rules.public_key, rules.algorithms))
    return Jwks(rules.jwks_url, rules.algorithms)


def token_id(token: str, jti: str | None) -> str:
    """What names a token in the list of the revoked. Without a `jti`, a hash of what is signed: a signature can be
    written in more than one way (of ECDSA's (r, s), (r, -s) is one too), and a revoked token must not come back so.
    """
    if jti is not None:
        return f"jti:{jti}"
    return "sha256:" + hashlib.sha256(token.rpartition(".")[0].encode()).hexdigest()


def unverified(token: str) -> tuple[str, float]:
    """A token's id and when it expires, without knowing whether it is genuine: for whoever revokes it. Raise
    TokenRefused for what no token can be.
    """
    _header(token)
    try:
        payload = _jws.decode_complete(token, options={"verify_signature": False})["payload"]
        claims = _claims.decode(payload)
    except (jwt.PyJWTError, msgspec.DecodeError, ValueError, RecursionError):
        raise TokenRefused("This is no token that was ever taken.") from None
    return token_id(token, claims.jti), claims.exp


def _header(token: str) -> Mapping[str, Any]:
    """The header, not to be believed yet. Raise TokenRefused."""
    if len(token) > MAX_TOKEN_BYTES:
        raise TokenRefused(f"The token is longer than {MAX_TOKEN_BYTES} bytes.")
    if not _COMPACT.fullmatch(token):
        raise TokenRefused("This is no token: it has three parts with dots in between, of letters, digits, - and _.")
    try:
        header = _jws.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise TokenRefused("This is no token: it cannot be decoded.") from None
    if "crit" in header or "b64" in header:
        raise TokenRefused("The token asks for extensions that are not known here.")
    if not isinstance(header.get("alg"), str):
        raise TokenRefused("The token does not say how it is signed.")
    kid = header.get("kid")
    if kid is not None and not (isinstance(kid, str) and len(kid) <= MAX_KID):
        raise TokenRefused("The token names its key in a way that is not taken here.")
    return header


def _read(payload: bytes, tenant_claim: str) -> tuple[Claims, str]:
    """The claims and the tenant. Raise TokenRefused that names the claim at fault, not its value."""
    try:
        claims = _claims.decode(payload)
        members = _members.decode(payload)
    except msgspec.ValidationError as error:
        raise TokenRefused(_fault(str(error))) from None
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise TokenRefused("The token holds no claims.") from None
    try:
        return claims, _tenant.decode(members[tenant_claim])
    except KeyError:
        raise TokenRefused(f"The token lacks the claim {tenant_claim!r}, which names its tenant.") from None
    except (msgspec.DecodeError, ValueError):
        raise TokenRefused(f"The token's claim {tenant_claim!r} is not of the kind it should be.") from None


def _fault(told: str) -> str:
    """msgspec says "Object missing required field `exp`", or what was expected and where: "… - at `$.exp`"."""
    if found := re.search(r"missing required field `(\w+)`", told):
        return f"The token lacks the claim {found[1]!r}."
    if found := re.search(r" - at `\$\.(\w+)", told):
        return f"The token's claim {found[1]!r} is not of the kind it should be."
    return "The token holds no claims."
