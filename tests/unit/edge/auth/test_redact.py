"""What is taken out of the log, whichever way it gets there."""

import io
import json
import logging
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.edge.auth.redact import HIDDEN, RedactingFilter, redact
from shared.edge.logs import FieldFormatter
from tests.unit.edge.auth.sample import private_key, token

JWT = token()
TICKET = "hQ3-x_9Zk2mmWc8T0pVqv1aFJrYbN6sLdEoGiUuXe7A"
SECRET = "correct horse battery staple, twice over"

# a text, and what must not be left of it
TOLD = [
    (f"GET /api/v1/runs/stream?ticket={TICKET} HTTP/1.1", TICKET),
    (f"GET /x?after=start&ticket={TICKET}&types=status", TICKET),
    (f"/x?TICKET={TICKET}#top", TICKET),
    (f"/login?next=%2Fx%3Fticket%3D{TICKET}", TICKET),
    (f"b'ticket={TICKET}'", TICKET),
    (f'query_string: b"a=1&ticket={TICKET}"', TICKET),
    ("?access_token=abc.def", "abc.def"),
    ("?access_token=", "access_token=&"),
    ("grant_type=x&refresh_token=r-1-2-3&client_secret=s-1-2-3", "1-2-3"),
    ("id_token=i-1-2-3;", "1-2-3"),
    ("api_key=k-1-2-3 apikey=k-1-2-3", "1-2-3"),
    ("Authorization: Bearer abcdef", "abcdef"),
    ("authorization: Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
    ("authorization: Digest username=ann, response=6629fae4", "6629fae4"),
    ("AUTHORIZATION:Bearer abcdef\nHost: localhost", "abcdef"),
    ("Proxy-Authorization: Bearer abcdef", "abcdef"),
    ("{'authorization': 'Bearer abcdef', 'host': 'x'}", "abcdef"),
    ('{"Authorization":"Bearer abcdef"}', "abcdef"),
    ("[(b'host', b'x'), (b'authorization', b'Bearer abcdef')]", "abcdef"),
    ("[(b'cookie', b'tailrace=s3ss10n; theme=\"dark\"')]", "s3ss10n"),
    ("Headers({'host': 'x', 'authorization': '[secure] abcdef'})", "abcdef"),
    ("Cookie: tailrace=s3ss10n; theme=dark", "s3ss10n"),
    ("set-cookie: tailrace=s3ss10n; HttpOnly", "s3ss10n"),
    ("Tailrace-Lease: l-1-2-3", "1-2-3"),
    ("authorization=Bearer abcdef", "abcdef"),
    ("Sec-WebSocket-Protocol: tailrace.v1, bearer." + JWT, JWT),
    ("subprotocols=['tailrace.v1', 'bearer.opaque~token/1+2=']", "opaque"),
    (f"Bearer.{JWT}", JWT),
    ("the header was Bearer opaqueopaqueopaque", "opaqueopaque"),
    ("Bearer%20opaqueopaqueopaque", "opaqueopaque"),
    (JWT, JWT),
    (f"token {JWT} is bad", JWT),
    (f"<{JWT}>", JWT),
    (f"({JWT!r},)", JWT),
    (f"x={JWT}", JWT),
    (JWT[:70] + "...", JWT[:60]),
    (JWT.rpartition(".")[0], JWT.split(".")[1]),
    (token(private_key("ES256"), "ES256"), "eyJ"),
    ("ewogICJhbGciOiAiSFMyNTYi.eyJzdWIiOiJhbm4ifQ.c2ln", "eyJzdWIi"),
    ("ewogICJhbGciOiAiSFMyNTYi.ewogICJzdWIiOiAiYW5uIgp9.c2ln", "ewogICJzdWIi"),
    ("eyAiYWxnIjogIkhTMjU2IiB9.eyAic3ViIjogImFubiIgfQ.c2ln", "eyAic3Vi"),
    ("eyJhbGciOiJSU0EtT0FFUCJ9.OKOawDo13gRp.48V1_ALb6US0.5eym8TW_c8Su.XFBoMYUZod", "48V1_ALb6US0"),
    ("{'ticket': '" + TICKET + "'}", TICKET),
    ('{"token": "t-1-2-3", "n": 1}', "1-2-3"),
    ('{"token":"a \\" 1-2-3"}', "1-2-3"),
    ("{'password': b'p-1-2-3'}", "1-2-3"),
    (f"Ticket(ticket='{TICKET}', path='/x')", TICKET),
    ('Leased(lease_token="l-1-2-3")', "1-2-3"),
    ("{'lease_token': 'l-1-2-3'}", "1-2-3"),
    ("token=b'1-2-3'", "1-2-3"),
    ("postgresql://ann:hunter2@db.example/tailrace", "hunter2"),
    ("cannot connect to postgresql+asyncpg://:hunter2@db/x", "hunter2"),
    ("https://ann:hunter2@issuer.example/keys", "hunter2"),
]
HARMLESS = [
    "",
    "stream ended",
    "GET /api/v1/runs/run_01j5x/stream?after=k3f9a2-1042&types=status HTTP/1.1",
    "POST /api/v1/stream-tickets",
    "shared.edge.auth.tokens.TokenRefused: The token has expired.",
    'File "/app/shared/edge/auth/tokens.py", line 12, in verify',
    "litestar.exceptions.http_exceptions.NotAuthorizedException",
    "an authorization was refused",
    "the bearer of this token",
    "a ticket is used, too old, or for something else",
    "the keys for tokens could not be fetched host='issuer.example'",
    "http://127.0.0.1:8000/api/v1/runs",
    "postgresql://postgres@/postgres?host=/tmp/x&port=5432",
    "eyes.on.the.road",
    "keyboard.eyJ",
    "5 tokens_in=12 tokens_out=400 tokens_per_second=3",
    "2026-11-20 14:59:45,001 INFO tailrace.stream stream ended reason='terminal' events=12",
    "cookie-cutter authorization-free",
]


@pytest.mark.parametrize(("text", "secret"), TOLD)
def test_a_credential_is_taken_out(text: str, secret: str) -> None:
    clean = redact(text)
    assert secret not in clean
    assert HIDDEN in clean
    assert redact(clean) == clean


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_none_stays(text: str) -> None:
    assert redact(text) == text


def test_what_is_around_a_credential_stays() -> None:
    assert redact(f"GET /x?after=start&ticket={TICKET}&types=status HTTP/1.1") == (
        f"GET /x?after=start&ticket={HIDDEN}&types=status HTTP/1.1"
    )
    assert redact("{'authorization': 'Bearer abcdef', 'host': 'x'}") == f"{{'authorization': '{HIDDEN}', 'host': 'x'}}"
    assert redact("Authorization: Bearer abcdef\nHost: x") == f"Authorization: {HIDDEN}\nHost: x"
    assert redact("postgresql://ann:hunter2@db/x") == f"postgresql://{HIDDEN}@db/x"
    assert redact(f"tailrace.v1, bearer.{JWT}, x") == f"tailrace.v1, bearer.{HIDDEN}, x"


@given(st.text(max_size=40), st.text(max_size=40))
def test_a_token_is_taken_out_wherever_it_stands(before: str, after: str) -> None:
    clean = redact(f"{before} {JWT} {after}")
    assert JWT.split(".")[1] not in clean


@pytest.mark.parametrize(
    "text",
    [
        "eyJ" + "a" * 200_000,
        "eyJaaaaaaaaa." * 20_000,
        "a." * 100_000,
        "bearer " * 30_000,
        "bearer" + " " * 200_000,
        "authorization" + " " * 200_000,
        "authorization: '" * 20_000,
        "'token':" * 30_000,
        "'token': '" + "\\" * 200_000,
        "token=" * 40_000,
        "a://" * 50_000,
        "a" * 200_000 + "://x:y",
        "https://" + "a:" * 100_000,
    ],
)
def test_no_text_takes_long(text: str) -> None:
    """Quadratic work on these would take minutes."""
    began = time.thread_time()
    redact(text)
    assert time.thread_time() - began < 2


# ── records ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What a logger below the root writes, as the process formats it."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(FieldFormatter("%(levelname)s %(name)s %(message)s"))
    handler.addFilter(RedactingFilter([SECRET, ""]))
    logger = logging.getLogger("redact-test")
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel("DEBUG")
    try:
        yield stream
    finally:
        logger.removeHandler(handler)


log: Any = logging.getLogger("redact-test.child")  # Any: the tests log badly on purpose


def test_messages_and_their_arguments_are_clean(lines: io.StringIO) -> None:
    log.info('%s - "%s %s" %d', "127.0.0.1", "GET", f"/x?ticket={TICKET}", 200)
    log.info("subprotocol %s", "bearer." + JWT)
    log.info("headers: %r", {"authorization": f"Bearer {JWT}"})
    log.info("%(token)s", {"token": JWT})
    assert lines.getvalue().splitlines() == [
        f'INFO redact-test.child 127.0.0.1 - "GET /x?ticket={HIDDEN}" 200',
        f"INFO redact-test.child subprotocol bearer.{HIDDEN}",
        f"INFO redact-test.child headers: {{'authorization': '{HIDDEN}'}}",
        f"INFO redact-test.child {HIDDEN}",
    ]


def test_fields_are_clean_and_harmless_ones_stay(lines: io.StringIO) -> None:
    log.info("told", extra={"url": f"/x?ticket={TICKET}", "headers": [(b"authorization", b"Bearer abcdef")], "n": 5})
    log.info("told", extra={"error": ValueError(JWT), "names": ["a", "b"], "none": None, "well": True})
    written = lines.getvalue()
    assert TICKET not in written
    assert "abcdef" not in written
    assert JWT not in written
    assert " n=5" in written
    assert ' names="[\\"a\\",\\"b\\"]" none=null well=true' in written


def test_fields_of_a_telling_name_are_not_shown(lines: io.StringIO) -> None:
    log.info("told", extra={"token": "t-1", "lease_token": b"t-2", "Authorization": ["t-3"], "ticket": ("t-4",)})
    log.info("told", extra={"token_id": "known", "tokens_in": 12, "secret": None})
    first, second = lines.getvalue().splitlines()
    assert not any(f"t-{number}" in first for number in range(5))
    assert first.count(HIDDEN) == 4
    assert "token_id=known tokens_in=12 secret=null" in second


def test_exceptions_and_what_led_to_them_are_clean(lines: io.StringIO) -> None:
    try:
        try:
            raise ValueError(f"ticket={TICKET}")
        except ValueError as error:
            raise ExceptionGroup("several", [RuntimeError(JWT), KeyError(SECRET)]) from error
    except ExceptionGroup:
        log.exception("it failed")
    written = lines.getvalue()
    assert "Traceback" in written
    assert "RuntimeError" in written
    for secret in (TICKET, JWT, SECRET):
        assert secret not in written


def test_stacks_are_clean(lines: io.StringIO) -> None:
    log.info("told", stack_info=True)
    assert "Stack (most recent call last)" in lines.getvalue()
    record = logging.makeLogRecord({"msg": "told", "stack_info": JWT, "exc_text": JWT})
    RedactingFilter().filter(record)
    assert JWT not in str(vars(record))


def test_secrets_that_look_like_nothing_are_taken_out_too(lines: io.StringIO) -> None:
    log.info("the secret is %s", SECRET, extra={"again": SECRET, "nested": {"x": SECRET}})
    assert SECRET not in lines.getvalue()
    assert lines.getvalue().count(HIDDEN) == 3


def test_arguments_that_do_not_fit_are_not_shown(lines: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    """logging itself would print them to standard error."""

    class Broken:
        def __str__(self) -> str:
            raise RuntimeError(JWT)

    for sentence, argument in (("%s and %s", JWT), ("%d", JWT), ("%s", Broken())):
        log.info(sentence, argument)
    assert JWT not in lines.getvalue() + capsys.readouterr().err
    assert lines.getvalue().count("its arguments cannot be shown") == 3


def test_what_cannot_be_shown_does_not_keep_the_line_back(lines: io.StringIO) -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError(JWT)

    log.info("told", extra={"broken": Broken()})
    assert JWT not in lines.getvalue()
    assert "told" in lines.getvalue()


def test_a_filter_lets_every_record_pass() -> None:
    record = logging.makeLogRecord({"msg": 5, "args": ()})
    assert RedactingFilter().filter(record)
    assert record.getMessage() == "5"
    assert json.dumps(record.msg) == '"5"'
    sys.stdout.flush()
