"""The gate: every request passes it before anything of it is looked at. Does it come from where it may, is there room
for it, and who is it from?
"""

import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from shared.channel.postgres import Database
from shared.edge import metrics
from shared.edge.auth.bearer import bearer_of, without_bearer
from shared.edge.auth.keys import KeysUnavailable, UnfitKey
from shared.edge.auth.permit import Permit
from shared.edge.auth.revoked import Revocations
from shared.edge.auth.scopes import allows
from shared.edge.auth.tokens import TokenRefused, TokenRules, Verifier
from shared.edge.origins import BadOrigin, Origins, Request
from shared.edge.principal import KEY, LOCAL, Principal
from shared.edge.problems import Away, BadInput, Busy, Forbidden, OutOfScope, Problem, Unauthorized
from shared.edge.rates import Rate, RequestRates, address_key, retry_after
from shared.edge.settings import Settings, SettingsError
from shared.edge.tickets import Tickets

NO_TOKEN = "The request has no token: send one in the header Authorization, as Bearer."


class Entry:
    """A request that was let in. A WebSocket may be let in before it has said who it is from, and says so then."""

    __slots__ = ("_gate", "permit", "required")

    def __init__(self, gate: "Gate", permit: Permit | None) -> None:
        self._gate = gate
        self.permit = permit
        self.required: Sequence[str] = ()

    @property
    def principal(self) -> Principal:
        """Raise Unauthorized while it is not known."""
        if self.permit is None:
            raise Unauthorized(NO_TOKEN, "")
        return self.permit.principal

    def demand(self, scopes: Sequence[str]) -> None:
        """Raise OutOfScope unless the principal has one of these, or none is named."""
        if scopes and not any(allows(self.principal, scope) for scope in scopes):
            raise OutOfScope(scopes)

    def permit_of(self, principal: Principal) -> Permit:
        """What a connection of this principal lives by."""
        return self._gate.permit(principal)

    async def redeem(self, ticket: str, path: str) -> Principal | None:
        """Whose ticket it is; None for one that is not good for this path, or whose token is good no more."""
        principal = await self._gate.tickets.redeem(ticket, path)
        return None if principal is None or self.permit_of(principal).why_over() is not None else principal

    async def introduce(self, token: str) -> None:
        """Say who it is from. Raise Unauthorized, OutOfScope, Away."""
        self.permit = self._gate.permit(await self._gate.authenticate(token))
        self.demand(self.required)

    async def renew(self, token: str) -> None:
        """Go on with a newer token. Raise Unauthorized, OutOfScope, Away, and Forbidden for one of somebody else's."""
        newer = await self._gate.authenticate(token)
        if not newer.is_same(self.principal):
            raise Forbidden("The token belongs to somebody else than the one this connection began with.")
        renewed = Entry(self._gate, self._gate.permit(newer))
        renewed.demand(self.required)
        assert self.permit is not None
        self.permit.renew(newer)


def entry_of(scope: Any) -> Entry:
    """What the gate has left in a request's scope."""
    entry: Entry = scope[KEY]
    return entry


class Gate:
    """One of a process, for all its services. `clock` is monotonic."""

    tickets: Tickets

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Raise SettingsError for what cannot be followed."""
        self.origins = _origins(settings)
        self._clock = clock
        self._rates = _rates(settings)
        self._verifier = _verifier(settings)
        self._revocations: Revocations | None = None

    async def start(self, database: Database) -> None:
        """Before anything is let in. Raise LogUnavailable."""
        self.tickets = Tickets(database)
        await self.tickets.start()
        if self._verifier is not None:
            self._revocations = Revocations(database)
            await self._revocations.start()

    async def close(self) -> None:
        if self._revocations is not None:
            await self._revocations.close()
        if self._verifier is not None:
            await self._verifier.aclose()

    def checks(self) -> dict[str, str]:
        """What it needs, by name: `ok`, or what is wrong."""
        if self._verifier is None or self._revocations is None:
            return {}
        failing = self._revocations.failing() or not self._revocations.listening
        return {
            "keys": self._verifier.failing() or "ok",
            "revocations": "those of other processes are heard of late" if failing else "ok",
        }

    # ── whose request it is ────────────────────────────────────────────────────────────────────────────────────

    def check_origin(self, scope: Any) -> None:
        """Raise Forbidden for a host that we do not go by, and for what a page from elsewhere sends."""
        reason = self.origins.refuse(Request.of_scope(scope))
        if reason is not None:
            raise _counted("origin", Forbidden(reason))

    def check_rate(self, scope: Any) -> None:
        """Raise Busy when the client's address has made too many requests."""
        client = scope.get("client")
        self._ask(address=address_key(client[0] if client else ""))

    async def admit(self, scope: Any, *, reads_query: bool = True) -> Entry:
        """Find out who it is from, and leave that in the scope; without `reads_query` its query is none of ours. Raise
        BadInput, Unauthorized, Busy, Away.
        """
        bearer = bearer_of(scope, reads_query=reads_query)
        without_bearer(scope, bearer)
        if bearer.ticket:
            principal: Principal | None = await self._redeem(scope, bearer.ticket)
        elif self._verifier is None:
            principal = LOCAL
        elif bearer.token:
            principal = await self.authenticate(bearer.token)
        elif scope["type"] == "websocket":
            principal = None
        else:
            raise _counted("token", Unauthorized(NO_TOKEN, ""))
        entry = Entry(self, None if principal is None else self.permit(principal))
        if principal is not None:
            self._ask(principal=(principal.tenant, principal.owner), tenant=principal.tenant)
        scope[KEY] = entry
        return entry

    async def authenticate(self, token: str) -> Principal:
        """Whose token it is. Raise Unauthorized, and Away when nobody can say now."""
        if self._verifier is None:
            return LOCAL
        try:
            principal = await self._verifier.verify(token)
        except TokenRefused as refused:
            raise _counted("token", Unauthorized(refused.reason)) from None
        except KeysUnavailable as error:
            raise Away(str(error), retry_after_seconds=2) from None
        return self._good(principal)

    def permit(self, principal: Principal) -> Permit:
        """What its connection lives by."""
        return Permit(principal, self._revocations)

    def stranger(self, scope: Any) -> None:
        """Leave an entry in the scope of a request to an origin that is not ours, which finds out by itself."""
        scope[KEY] = Entry(self, None)

    async def _redeem(self, scope: Any, ticket: str) -> Principal:
        if scope["type"] == "http" and scope["method"] != "GET":
            raise BadInput("A ticket opens a stream, or reads: send a token in the header Authorization for all else.")
        principal = await Entry(self, None).redeem(ticket, scope["path"])
        if principal is None:
            raise _counted("ticket", Unauthorized("The ticket is used, too old, or for another path: get another."))
        return principal

    def _good(self, principal: Principal) -> Principal:
        try:
            self.permit(principal).check()
        except Unauthorized as error:
            raise _counted("token", error) from None
        return principal

    def _ask(self, **keys: Any) -> None:
        if self._rates is None:
            return
        seconds = self._rates.ask(self._clock(), **keys)
        if seconds:
            raise _counted("rate", Busy("too many requests; slow down", retry_after_seconds=retry_after(seconds)))


def _counted(why: str, problem: Problem) -> Problem:
    metrics.REFUSED.labels(why).inc()
    return problem


def _origins(settings: Settings) -> Origins:
    own = [name for name in (settings.host, _host_of(settings.public_url)) if name not in ("", "0.0.0.0", "::")]
    try:
        return Origins(
            hosts=[*(f"[{name}]" if ":" in name else name for name in own), *settings.list_of("hosts")],
            preview_domain=settings.preview_domain,
            allowed=settings.list_of("origins"),
        )
    except BadOrigin as error:
        raise SettingsError(f"TAILRACE_HOSTS, TAILRACE_ORIGINS or TAILRACE_PREVIEW_DOMAIN is wrong: {error}.") from None


def _host_of(url: str) -> str:
    return urlsplit(url).hostname or ""


def _rates(settings: Settings) -> RequestRates | None:
    if not settings.requests_per_second:
        return None
    rate = Rate(settings.requests_per_second, settings.request_burst)
    return RequestRates(address=rate, principal=rate, tenant=rate)


def _verifier(settings: Settings) -> Verifier | None:
    if settings.auth == "off":
        return None
    rules = TokenRules(
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        secret=settings.jwt_secret,
        public_key=settings.jwt_public_key,
        jwks_url=settings.jwks_url,
        algorithms=settings.list_of("jwt_algorithms"),
        tenant_claim=settings.jwt_tenant_claim,
    )
    try:
        return Verifier(rules)
    except UnfitKey as error:
        raise SettingsError(f"TAILRACE_AUTH is jwt, but {error} ({_NAMES}).") from None


_NAMES = (
    "TAILRACE_JWT_ISSUER, TAILRACE_JWT_AUDIENCE, and one of TAILRACE_JWT_SECRET, TAILRACE_JWT_PUBLIC_KEY and "
    "TAILRACE_JWKS_URL"
)
