"""Which headers pass. Pure.

In: nothing that is between two neighbours only (RFC 9110, 7.6.1), no credentials of ours. Out: nothing that reaches
beyond the program's own pages.
"""

from collections.abc import Iterable
from typing import Literal

Header = tuple[bytes, bytes]
Door = Literal["passage", "origin"]

COOKIE = "tailrace_preview"  # ours, at the program's own origin
_NEIGHBOURS = frozenset(
    (b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te")
) | frozenset((b"trailer", b"transfer-encoding", b"upgrade"))
_FRAMING = frozenset((b"content-length",))  # not the caller's to take away: the body would have no end, or two
_HANDSHAKE = (b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-extensions", b"sec-websocket-accept")
_FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip")
_OURS = (b"authorization", b"last-event-id", b"tailrace-lease", b"idempotency-key", b"x-request-id")
_OWN = (b"date", b"server")  # of whoever answers, and that is us
_KEPT_FROM_BROWSERS = (
    *(b"clear-site-data", b"service-worker-allowed", b"alt-svc", b"strict-transport-security"),
    *(b"nel", b"report-to", b"accept-ch", b"critical-ch"),  # reports and hints of a whole origin
)
SANDBOX = (
    b"content-security-policy",
    b"sandbox allow-scripts allow-forms allow-popups allow-modals allow-downloads",
)


def inward(headers: Iterable[Header], door: Door, *, host: str, scheme: str, client: str) -> list[Header]:
    """What the program is sent of a request's headers. `host` is what the caller called it."""
    headers = [(name.lower(), value) for name, value in headers]
    named = _named_by_connection(headers)
    passed: list[Header] = []
    for name, value in headers:
        if name in _NEIGHBOURS or name in named or name in _HANDSHAKE or name in _FORWARDED or name == b"host":
            continue
        if door == "passage" and (name in _OURS or name == b"cookie"):
            continue
        kept = without_cookie(value) if name == b"cookie" else value
        if kept or name != b"cookie":
            passed.append((name, kept))
    return [
        (b"host", host.encode()),
        *passed,
        (b"x-forwarded-for", client.encode()),
        (b"x-forwarded-host", host.encode()),
        (b"x-forwarded-proto", scheme.encode()),
    ]


def outward(headers: Iterable[Header], door: Door) -> list[Header]:
    """What the caller is sent of an answer's headers."""
    headers = [(name.lower(), value) for name, value in headers]
    named = _named_by_connection(headers)
    chunked = any(name == b"transfer-encoding" for name, _ in headers)
    passed: list[Header] = []
    for name, value in headers:
        if name == b"content-length" and chunked:
            continue  # RFC 9112, 6.3: it does not count
        if name in _NEIGHBOURS or name in named or name in _OWN or name in _KEPT_FROM_BROWSERS:
            continue
        if name == b"set-cookie" and (door == "passage" or _is_ours(value)):
            continue  # at the passage's origin it would be a cookie of Tailrace
        passed.append((name, without_domain(value) if name == b"set-cookie" else value))
    if door == "passage":
        passed.append(SANDBOX)
    return passed


def _named_by_connection(headers: Iterable[Header]) -> frozenset[bytes]:
    """The headers that are between two neighbours only, as one of them says."""
    said = (value for name, value in headers if name == b"connection")
    return frozenset(token.strip().lower() for value in said for token in value.split(b",")) - _FRAMING


def without_cookie(value: bytes) -> bytes:
    """A Cookie header without ours."""
    pairs = (pair.strip() for pair in value.split(b";"))
    return b"; ".join(pair for pair in pairs if pair and not _is_ours(pair))


def cookies_in(headers: Iterable[Header]) -> list[str]:
    """The values of all cookies of our name: a page can add one of a longer path, or of a parent domain, to ours."""
    return [
        str(pair.partition(b"=")[2].strip(), "latin-1")
        for name, value in headers
        if name.lower() == b"cookie"
        for pair in value.split(b";")
        if _is_ours(pair)
    ]


def without_domain(value: bytes) -> bytes:
    """A Set-Cookie header for this host alone, not for its neighbours."""
    first, *attributes = value.split(b";")
    kept = [part for part in attributes if part.partition(b"=")[0].strip().lower() != b"domain"]
    return b";".join((first, *kept))


def _is_ours(value: bytes) -> bool:
    """A cookie without a name is sent as its value alone, which may look like ours."""
    return value.partition(b";")[0].strip(b" \t=").partition(b"=")[0].strip() == COOKIE.encode()


def is_service_worker(headers: Iterable[Header]) -> bool:
    """Whether a browser asks for the script of a service worker, which would outlive the program at its origin."""
    return any(name.lower() == b"service-worker" for name, _ in headers)
