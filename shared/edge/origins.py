"""Where a request comes from: which `Host` it calls us by, and which page of which origin sent it. Pure.

A browser sends what any page tells it to. Two things it does not let the page choose: the name under which it found us
(`Host`; a page whose name was pointed at this machine's address, by DNS rebinding, says its own), and its `Origin`. Who
is no browser may write what it likes there, and has no use for it: this protects people's browsers, and is no login.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TypeVar

from msgspec import Struct

LOOPBACK = ("localhost", "127.0.0.1", "::1")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
METHODS = "GET, HEAD, POST, PATCH, DELETE"
ALLOWED_HEADERS = "Authorization, Last-Event-ID, Idempotency-Key, If-Match, If-None-Match, Content-Type, Tailrace-Lease"
EXPOSED_HEADERS = "ETag, Location, Retry-After, X-Request-Id"
PREFLIGHT_SECONDS = 600

T = TypeVar("T")

_PORTS = {"http": 80, "https": 443}
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*", re.ASCII)
_AUTHORITY = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::(?P<port>[1-9][0-9]{0,4}))?", re.ASCII
)
_ORIGIN = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/?#\\@\s]+)", re.ASCII | re.IGNORECASE)


class BadOrigin(Exception):
    """An entry of an allow-list is none; the message says what to write."""


class Authority(Struct, frozen=True):
    """A name or an address in lower case, IPv6 without brackets and at its shortest, and the port if one is said."""

    host: str
    port: int | None = None

    @staticmethod
    @lru_cache(maxsize=256)  # every request has one, and nearly all the same
    def parse(text: str) -> "Authority | None":
        """From `Host`, or the middle of an origin. None for what no browser writes: names have letters, digits, `-` and
        `_` (others come as punycode) and no final dot, ports are not empty, and numbers are full addresses.
        """
        parts = _AUTHORITY.fullmatch(text)
        if parts is None:
            return None
        port = None if parts["port"] is None else int(parts["port"])
        host = _host(parts["host"])
        return None if host is None or (port or 0) > 65_535 else Authority(host, port)


class Origin(Struct, frozen=True):
    """What a page belongs to (RFC 6454): its scheme, its host and its port, the usual one if none is said."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Origin | None":
        """None for what is no origin of the web, `null` among it."""
        parts = _ORIGIN.fullmatch(text)
        authority = None if parts is None else Authority.parse(parts["authority"])
        if parts is None or authority is None:
            return None
        scheme = parts["scheme"].lower()
        return cls(scheme, authority.host, authority.port or _PORTS[scheme])


class Request(Struct, frozen=True, kw_only=True):
    """What of a request matters here: each header with all its values. `is_secure`: it is known to have come by TLS."""

    method: str
    is_websocket: bool = False
    is_secure: bool = False
    host: tuple[str, ...] = ()
    origin: tuple[str, ...] = ()
    fetch_site: tuple[str, ...] = ()

    @classmethod
    def of_scope(cls, scope: Mapping[str, object]) -> "Request":
        """From an ASGI scope."""
        found: dict[bytes, list[str]] = {b"host": [], b"origin": [], b"sec-fetch-site": []}
        headers: Iterable[tuple[bytes, bytes]] = scope["headers"]  # type: ignore[assignment]  # as ASGI has it
        for name, value in headers:
            if name in found:
                found[name].append(str(value, "latin-1"))
        return cls(
            method=str(scope.get("method", "GET")),
            is_websocket=scope["type"] == "websocket",
            is_secure=scope.get("scheme") in ("https", "wss"),
            host=tuple(found[b"host"]),
            origin=tuple(found[b"origin"]),
            fetch_site=tuple(found[b"sec-fetch-site"]),
        )


class Origins:
    """The hosts we answer to and the origins whose pages may use us, beside those that we serve ourselves."""

    def __init__(self, *, hosts: Iterable[str] = (), preview_domain: str = "", allowed: Iterable[str] = ()) -> None:
        """`hosts`: names or addresses, with a port if only that one is meant. `preview_domain`: each name of one label
        below it is ours. `allowed`: origins such as https://app.example. Raise BadOrigin.
        """
        self._hosts = frozenset({*map(Authority, LOOPBACK), *map(_entry, hosts)})
        self._preview_domain = "" if not preview_domain else _domain(preview_domain)
        self._allowed = frozenset(map(_allowed, allowed))

    def refuse(self, request: Request) -> str | None:
        """Why a request is not taken, as a sentence; None when it is."""
        return self.refuse_host(request.host) or self._refuse_origin(request)

    def refuse_host(self, values: Sequence[str]) -> str | None:
        """Why a request for this `Host` is not taken."""
        authority = _only(values, Authority.parse)
        if authority is None:
            return "The request does not say which host it is for, or says it in a way that no browser does."
        if authority in self._hosts or Authority(authority.host) in self._hosts or self._is_preview(authority.host):
            return None
        return "This server does not go by that name: the setting TAILRACE_HOSTS lists those it answers to."

    def is_allowed(self, origin: str) -> bool:
        """Whether the pages of another origin may use us."""
        return Origin.parse(origin) in self._allowed

    def _is_preview(self, host: str) -> bool:
        label, _, domain = host.partition(".")
        return bool(self._preview_domain) and bool(label) and domain == self._preview_domain

    def _refuse_origin(self, request: Request) -> str | None:
        """Plain reading is not refused: without CORS headers no page gets to see the answer."""
        if request.method in SAFE_METHODS and not request.is_websocket:
            return None
        if not request.origin:  # no browser, or one that would not say
            is_elsewhere = any(site in ("cross-site", "same-site") for site in request.fetch_site)
            return _ELSEWHERE if is_elsewhere else None
        origin = _only(request.origin, Origin.parse)
        if origin is None:
            return "The request comes from a page without an origin, such as a file or a sandboxed frame."
        if origin in self._allowed:
            return None
        return None if _is_own(origin, request) else _ELSEWHERE

    # ── CORS ───────────────────────────────────────────────────────────────────────────────────────────────────

    def preflight(self, origin: Sequence[str]) -> Mapping[str, str]:
        """The headers of the answer to `OPTIONS` with `Access-Control-Request-Method`; a browser whose page may not
        finds nothing there that says it may.
        """
        headers = {"vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"}
        if len(origin) == 1 and self.is_allowed(origin[0]):
            headers |= {
                "access-control-allow-origin": origin[0],
                "access-control-allow-methods": METHODS,
                "access-control-allow-headers": ALLOWED_HEADERS,
                "access-control-max-age": str(PREFLIGHT_SECONDS),
            }
        return headers

    def grant(self, origin: Sequence[str]) -> Mapping[str, str]:
        """The headers that let a page read an answer. Never for cookies: who may is told by a token, which no browser
        adds by itself.
        """
        if not self._allowed:
            return {}
        if len(origin) != 1 or not self.is_allowed(origin[0]):
            return {"vary": "Origin"}
        return {
            "access-control-allow-origin": origin[0],
            "access-control-expose-headers": EXPOSED_HEADERS,
            "vary": "Origin",
        }


_ELSEWHERE = "The request comes from a page of another origin, which is not among those in TAILRACE_ORIGINS."


def _is_own(origin: Origin, request: Request) -> bool:
    """Whether the page was served under the name and port that the request is for. Behind a proxy that ends TLS the
    scheme is not known to us: then the port that goes without saying is that of the page's own.
    """
    host = _only(request.host, Authority.parse)
    if host is None or (request.is_secure and origin.scheme != "https"):
        return False
    if any(site in ("cross-site", "same-site") for site in request.fetch_site):
        return False  # the browser knows better: the scheme differs, or the way led over somebody else's redirect
    return (host.host, host.port or _PORTS[origin.scheme]) == (origin.host, origin.port)


def _only(values: Sequence[str], parse: Callable[[str], T | None]) -> T | None:
    """The one value there must be, parsed; None otherwise."""
    return parse(values[0]) if len(values) == 1 else None


def _host(text: str) -> str | None:
    if text.startswith("["):
        try:
            return str(ipaddress.IPv6Address(text[1:-1]))
        except ValueError:
            return None
    name = text.lower()
    if _is_number(name):
        try:  # a browser takes 127.1 and 0x7f000001 for addresses, and writes them out
            return str(ipaddress.IPv4Address(name))
        except ValueError:
            return None
    return name if _NAME.fullmatch(name) else None


def _is_number(name: str) -> bool:
    """Whether a browser would take it for an IPv4 address: the last label decides (URL standard, section 3.5)."""
    last = name.rpartition(".")[2]
    return last.isdigit() or last.startswith("0x")


def _entry(text: str) -> Authority:
    authority = Authority.parse(text.strip())
    if authority is None:
        raise BadOrigin(f"{text!r} is no host; give a name or an address, with a port if only that one is meant")
    return authority


def _domain(text: str) -> str:
    authority = Authority.parse(text)
    if authority is None or authority.port is not None or ":" in text or _is_number(authority.host):
        raise BadOrigin(f"{text!r} is no domain; give a name such as previews.example")
    return authority.host


def _allowed(text: str) -> Origin:
    origin = Origin.parse(text.strip())
    if origin is None:
        raise BadOrigin(
            f"{text!r} is no origin; give each as in https://app.example, without a path. There is no * for all: any "
            "page anywhere could act in the name of whoever looks at it"
        )
    return origin
