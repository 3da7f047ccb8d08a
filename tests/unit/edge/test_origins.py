"""Where requests come from: the hosts, origins and headers that are taken, and those that are not."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.edge.origins import ALLOWED_HEADERS, EXPOSED_HEADERS, Authority, BadOrigin, Origin, Origins, Request

ORIGINS = Origins(
    hosts=["tailrace.example", "only.example:8443", "10.1.2.3", "[2001:DB8::1]", "xn--bcher-kva.example"],
    preview_domain="localhost",
    allowed=["https://app.example", "http://localhost:5173", "https://[2001:db8::2]:8443"],
)

# ── hosts ──────────────────────────────────────────────────────────────────────────────────────────────────────

OURS = [
    "localhost",
    "localhost:8000",
    "LocalHost:65535",
    "127.0.0.1",
    "127.0.0.1:1",
    "[::1]",
    "[::1]:8000",
    "[0:0:0:0:0:0:0:1]:8000",
    "tailrace.example",
    "TAILRACE.example:443",
    "only.example:8443",
    "10.1.2.3:80",
    "[2001:db8::1]:8000",
    "[2001:0db8:0000::0001]",
    "xn--bcher-kva.example",
    "prv-01j5.localhost:8000",
    "PRV-01J5.LOCALHOST",
]
NOT_OURS = [
    "",
    " ",
    "evil.example",
    "evil.example:8000",
    "localhost.evil.example",
    "localhostevil.example",
    "evillocalhost",
    "a.b.localhost",
    ".localhost",
    "-.localhost",
    "localhost.",
    "localhost.:8000",
    "tailrace.example.",
    "tailrace.example.evil.example",
    "sub.tailrace.example",
    "only.example",
    "only.example:443",
    "only.example:84430",
    "127.0.0.2",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "127.0.0.01",
    "127.0.0.1.",
    "127.0.0.1.evil.example",
    "0.0.0.0",
    "[::]",
    "::1",
    "::1:8000",
    "[::1",
    "[::1]8000",
    "[::1]:",
    "[::ffff:127.0.0.1]",
    "[::1%25lo]",
    "[::1%lo]",
    "[localhost]",
    "[]",
    "localhost:",
    "localhost:0",
    "localhost:00080",
    "localhost:080",
    "localhost:65536",
    "localhost:999999",
    "localhost:-1",
    "localhost:+80",
    "localhost:80 ",
    "localhost:8o",
    "localhost:8000:8000",
    "localhost:٨٠",
    " localhost",
    "localhost ",
    "local host",
    "localhost\t",
    "localhost\n",
    "localhost\0",
    "ann@localhost",
    "ann:pw@localhost:8000",
    "localhost@evil.example",
    "localhost/",
    "localhost/../evil",
    "localhost\\",
    "localhost?",
    "localhost#",
    "localhost,evil.example",
    "localhost;evil",
    "http://localhost",
    "//localhost",
    "localh%6fst",
    "LOCALHO\u017fT",  # a long s, which becomes an S in capitals
    "locaɫhost",
    "bücher.example",
    "BÜCHER.example",
    "localhost\u3002",
    "127。0。0。1",
    "-localhost",
    "*",
    "*.localhost",
    "null",
    "x" * 300,
    "a." * 200 + "localhost",
]


@pytest.mark.parametrize("host", OURS)
def test_a_host_of_ours_is_taken(host: str) -> None:
    assert ORIGINS.refuse_host([host]) is None


@pytest.mark.parametrize("host", NOT_OURS)
def test_any_other_host_is_refused(host: str) -> None:
    assert ORIGINS.refuse_host([host]) is not None


@pytest.mark.parametrize("values", [[], ["localhost", "localhost"], ["localhost", "evil.example"], ["evil.example"]])
def test_there_is_one_host(values: list[str]) -> None:
    assert ORIGINS.refuse_host(values) is not None


def test_without_settings_only_this_machine_is_meant() -> None:
    bare = Origins()
    assert bare.refuse_host(["localhost:8000"]) is None
    for host in ("prv-01j5.localhost", "tailrace.example", ".", "x."):
        assert bare.refuse_host([host]) is not None


def test_previews_have_names_of_one_label_below_their_domain() -> None:
    apart = Origins(preview_domain="previews.example")
    assert apart.refuse_host(["prv-01j5.previews.example:8000"]) is None
    for host in ("previews.example", "a.b.previews.example", "xpreviews.example", "prv-01j5.localhost"):
        assert apart.refuse_host([host]) is not None


@given(st.text(alphabet=string.printable + "éſ。", max_size=40))
def test_whatever_is_read_as_a_host_is_written_in_one_way(text: str) -> None:
    authority = Authority.parse(text)
    if authority is not None:
        host = f"[{authority.host}]" if ":" in authority.host else authority.host
        written = host if authority.port is None else f"{host}:{authority.port}"
        assert Authority.parse(written) == authority
        assert written == written.lower()
        assert written.isascii()


# ── origins ────────────────────────────────────────────────────────────────────────────────────────────────────


def asked(
    origin: str | list[str] | None,
    host: str = "localhost:8000",
    *,
    method: str = "POST",
    websocket: bool = False,
    secure: bool = False,
    site: str | None = None,
) -> bool:
    """Whether the request is taken."""
    given = [] if origin is None else [origin] if isinstance(origin, str) else origin
    request = Request(
        method=method,
        is_websocket=websocket,
        is_secure=secure,
        host=(host,),
        origin=tuple(given),
        fetch_site=() if site is None else (site,),
    )
    return ORIGINS.refuse(request) is None


SAME = [
    ("http://localhost:8000", "localhost:8000"),
    ("HTTP://LOCALHOST:8000", "LocalHost:8000"),
    ("http://127.0.0.1:8000", "127.0.0.1:8000"),
    ("http://[::1]:8000", "[0::1]:8000"),
    ("http://tailrace.example", "tailrace.example"),
    ("http://tailrace.example", "tailrace.example:80"),
    ("https://tailrace.example", "tailrace.example"),
    ("https://tailrace.example:443", "tailrace.example"),
    ("https://tailrace.example", "tailrace.example:443"),
    ("http://prv-01j5.localhost:8000", "prv-01j5.localhost:8000"),
]
ALLOWED = ["https://app.example", "HTTPS://APP.example:443", "http://localhost:5173", "https://[2001:db8:0::2]:8443"]
ELSEWHERE = [
    "null",
    "",
    " ",
    "*",
    "https://evil.example",
    "http://evil.example:8000",
    "http://localhost",
    "http://localhost:8001",
    "http://localhost:80000",
    "http://127.0.0.1:8000",
    "http://[::1]:8000",
    "https://localhost:8001",
    "http://localhost.:8000",
    "http://prv-01j5.localhost:8000",
    "http://localhost.evil.example:8000",
    "http://evil.example#localhost:8000",
    "http://evil.example?localhost:8000",
    "http://evil.example/localhost:8000",
    "http://localhost:8000@evil.example",
    "http://ann@localhost:8000",
    "http://ann:pw@localhost:8000",
    "http://localhost:8000/",
    "http://localhost:8000/path",
    "http://localhost:8000?",
    "http://localhost:8000#",
    "http://localhost:8000 ",
    " http://localhost:8000",
    "http://localhost:8000\n",
    "http://localhost:8000, http://localhost:8000",
    "http://localhost:8000 http://localhost:8000",
    "http:localhost:8000",
    "http:/localhost:8000",
    "http:///localhost:8000",
    "http:\\\\localhost:8000",
    "//localhost:8000",
    "localhost:8000",
    "localhost",
    "ws://localhost:8000",
    "file://localhost:8000",
    "file://",
    "chrome-extension://localhost:8000",
    "javascript://localhost:8000",
    "blob:http://localhost:8000",
    "http://app.example",
    "https://app.example:8443",
    "https://app.example.",
    "https://app.example.evil.example",
    "https://evilapp.example",
    "https://sub.app.example",
    "https://app.exampl",
    "https://xn--app-example",
    "https://аpp.example",  # noqa: RUF001  a Cyrillic a
    "https://[2001:db8::2]",
    "http://localhost:05173",
]


@pytest.mark.parametrize("websocket", [False, True])
@pytest.mark.parametrize(("origin", "host"), SAME)
def test_our_own_pages_may_act(origin: str, host: str, websocket: bool) -> None:
    assert asked(origin, host, websocket=websocket, method="GET" if websocket else "POST")
    assert asked(origin, host, websocket=websocket, site="same-origin")


@pytest.mark.parametrize("site", [None, "cross-site", "same-site"])
@pytest.mark.parametrize("origin", ALLOWED)
def test_pages_of_an_allowed_origin_may_act(origin: str, site: str | None) -> None:
    assert asked(origin, site=site)
    assert asked(origin, method="GET", websocket=True, site=site)


@pytest.mark.parametrize("origin", ELSEWHERE)
def test_pages_of_any_other_origin_may_not(origin: str) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "post", "get", "TRACE", "ODD", ""):
        assert not asked(origin, method=method)
    assert not asked(origin, method="GET", websocket=True)


@pytest.mark.parametrize("origin", ["null", "https://evil.example", "http://app.example"])
def test_plain_reading_is_not_refused_for_its_origin(origin: str) -> None:
    """A page that may not gets to see nothing of the answer."""
    for method in ("GET", "HEAD", "OPTIONS"):
        assert asked(origin, method=method, site="cross-site")


def test_but_it_is_refused_for_its_host() -> None:
    for method in ("GET", "HEAD", "OPTIONS", "POST"):
        assert not asked(None, "evil.example:8000", method=method)
        assert not asked("http://evil.example:8000", "evil.example:8000", method=method, site="same-origin")


def test_who_is_no_browser_says_no_origin() -> None:
    assert asked(None)
    assert asked(None, method="GET", websocket=True)


@pytest.mark.parametrize(
    ("site", "taken"), [("cross-site", False), ("same-site", False), ("same-origin", True), ("none", True), ("?", True)]
)
def test_a_browser_that_says_no_origin_may_say_that_it_is_elsewhere(site: str, taken: bool) -> None:
    assert asked(None, site=site) is taken
    assert asked(None, method="GET", websocket=True, site=site) is taken


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_the_browser_says_of_the_site_counts_against_an_origin_that_looks_like_ours(site: str) -> None:
    assert not asked("http://localhost:8000", site=site)


def test_a_page_that_came_in_the_clear_may_not_use_what_is_behind_tls() -> None:
    assert asked("https://tailrace.example", "tailrace.example", secure=True)
    assert not asked("http://tailrace.example", "tailrace.example", secure=True)
    assert not asked("http://tailrace.example:443", "tailrace.example:443", secure=True)


@pytest.mark.parametrize(
    "origin",
    [
        ["http://localhost:8000", "http://localhost:8000"],
        ["http://localhost:8000", "https://evil.example"],
        ["https://app.example", "https://app.example"],
        ["null", "http://localhost:8000"],
        ["", ""],
    ],
)
def test_there_is_one_origin(origin: list[str]) -> None:
    assert not asked(origin)


def test_a_refusal_shows_nothing_of_what_was_sent() -> None:
    for host, origin in (("evil.example", "null"), ("localhost", "https://evil.example"), ("localhost", "evil")):
        said = ORIGINS.refuse(Request(method="POST", host=(host,), origin=(origin,)))
        assert said is not None
        assert "evil" not in said
        assert said.endswith(".")


def test_a_request_is_read_from_its_scope() -> None:
    headers = [(b"host", b"localhost"), (b"origin", b"null"), (b"origin", b"\xe9"), (b"x-forwarded-host", b"evil")]
    scope = {"type": "http", "method": "POST", "scheme": "http", "headers": headers}
    assert Request.of_scope(scope) == Request(method="POST", host=("localhost",), origin=("null", "é"))
    upgrade = {"type": "websocket", "scheme": "wss", "headers": [(b"sec-fetch-site", b"same-origin")]}
    assert Request.of_scope(upgrade) == Request(
        method="GET", is_websocket=True, is_secure=True, fetch_site=("same-origin",)
    )


# ── CORS ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("origin", ALLOWED)
def test_a_page_of_an_allowed_origin_may_read(origin: str) -> None:
    assert ORIGINS.grant([origin]) == {
        "access-control-allow-origin": origin,
        "access-control-expose-headers": EXPOSED_HEADERS,
        "vary": "Origin",
    }
    preflight = ORIGINS.preflight([origin])
    assert preflight["access-control-allow-origin"] == origin
    assert "PATCH" in preflight["access-control-allow-methods"]
    assert "Origin" in preflight["vary"]


@pytest.mark.parametrize("origin", [*ELSEWHERE, *(origin for origin, _ in SAME)])
def test_no_other_page_may(origin: str) -> None:
    for headers in (ORIGINS.grant([origin]), ORIGINS.preflight([origin])):
        assert [name for name in headers if name != "vary"] == []
        assert headers["vary"].startswith("Origin")


@pytest.mark.parametrize("origin", [[], ["https://app.example"] * 2, ["https://app.example", "null"]])
def test_only_one_origin_is_answered(origin: list[str]) -> None:
    for headers in (ORIGINS.grant(origin), ORIGINS.preflight(origin)):
        assert "access-control-allow-origin" not in headers


def test_the_headers_are_those_that_the_clients_need() -> None:
    allowed = "Authorization, Last-Event-ID, Idempotency-Key, If-Match, If-None-Match, Content-Type, Tailrace-Lease"
    assert allowed == ALLOWED_HEADERS
    assert EXPOSED_HEADERS == "ETag, Location, Retry-After, X-Request-Id"


def test_there_is_never_a_star_nor_a_cookie() -> None:
    for origin in [*ALLOWED, *ELSEWHERE]:
        for headers in (ORIGINS.grant([origin]), ORIGINS.preflight([origin])):
            assert "*" not in headers.values()
            assert "access-control-allow-credentials" not in headers


def test_where_no_origin_is_allowed_answers_do_not_depend_on_it() -> None:
    assert Origins().grant(["https://app.example"]) == {}


# ── settings ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "allowed",
    ["*", "null", "", "https://*", "https://*.app.example", "https://app.example/", "app.example", "wss://app.example"],
)
def test_an_entry_that_is_no_origin_is_refused_at_the_start(allowed: str) -> None:
    with pytest.raises(BadOrigin, match="is no origin"):
        Origins(allowed=[allowed])


@pytest.mark.parametrize("host", ["", "*", "*.example", "http://tailrace.example", "a b", "bücher.example", "x."])
def test_an_entry_that_is_no_host_is_refused_at_the_start(host: str) -> None:
    with pytest.raises(BadOrigin, match="is no host"):
        Origins(hosts=[host])


@pytest.mark.parametrize("domain", ["*", "*.localhost", "localhost:8000", "127.0.0.1", "[::1]", ".localhost", "x."])
def test_a_preview_domain_is_a_name(domain: str) -> None:
    with pytest.raises(BadOrigin, match="is no domain"):
        Origins(preview_domain=domain)


def test_entries_may_have_blanks_around_them() -> None:
    spaced = Origins(hosts=[" tailrace.example "], allowed=[" https://app.example"])
    assert spaced.refuse_host(["tailrace.example"]) is None
    assert spaced.is_allowed("https://app.example")


def test_an_origin_is_known_by_what_it_means() -> None:
    assert Origin.parse("HTTPS://App.Example") == Origin("https", "app.example", 443)
    assert Origin.parse("http://[0:0::1]:80") == Origin("http", "::1", 80)
