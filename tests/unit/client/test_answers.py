import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.client import errors
from shared.client.answers import Answer
from shared.client.errors import AccessRevoked, ClientError, Conflict, Forbidden, Gone, Missing, Refused, Unauthorized

NOW = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
PROBLEM = {"content-type": "application/problem+json; charset=utf-8"}


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 7 ", 7),
        ("Fri, 20 Nov 2026 12:00:30 GMT", 30),
        ("Friday, 20-Nov-26 12:00:30 GMT", 30),
        ("Fri Nov 20 12:00:30 2026", 30),  # asctime, which has no zone: UTC
        ("Fri, 20 Nov 2026 11:59:00 GMT", 0),
        ("Fri, 20 Nov 2026 13:00:00 +0100", 0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("\u0661", None),  # a digit, though not of ASCII
        ("9" * 400, None),
        ("Fri, 99 Nov 2026 12:00:30 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str, seconds: float | None) -> None:
    assert Answer(503, {"retry-after": header}).retry_after(NOW) == seconds


@given(st.text())
def test_retry_after_is_whatever_a_proxy_makes_of_it(header: str) -> None:
    seconds = Answer(503, {"retry-after": header}).retry_after(NOW)
    assert seconds is None or seconds >= 0


def test_what_is_transient() -> None:
    transient = {status for status in range(200, 600) if Answer(status, {}).is_transient}
    assert {408, 425, 429, 500, 502, 503, 504, 520, 524} <= transient
    assert not transient & {200, 204, 301, 400, 401, 403, 404, 409, 410, 413, 422, 501, 505}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Refused),
        (401, Unauthorized),
        (403, Forbidden),
        (404, Missing),
        (409, Conflict),
        (410, Gone),
        (413, Refused),
        (422, Refused),
        (307, Refused),
    ],
)
def test_a_refusal_is_an_error_of_its_kind(status: int, kind: type[Refused]) -> None:
    body = {"status": status, "title": "T", "detail": "do this", "request_id": "r1", "expected_producer_seq": 7}
    error = Answer(status, PROBLEM, json.dumps(body).encode()).error
    assert type(error) is kind
    assert error.status == status
    assert error.problem == body
    assert str(error) == f"do this (status {status}, request r1)"


@pytest.mark.parametrize(
    ("headers", "body", "text"),
    [
        ({"content-type": "text/html"}, b"<html>", "the server answered 404 with text/html (status 404)"),
        ({}, b"", "the server answered 404 with nothing (status 404)"),
        (PROBLEM, b"{", "the server answered 404 with application/problem+json (status 404)"),
        (PROBLEM, b"[1]", "the server answered 404 with application/problem+json (status 404)"),
        (PROBLEM, b"{}", "the server answered 404 (status 404)"),
        (PROBLEM, b'{"title":"Not Found"}', "Not Found (status 404)"),
        ({"content-type": "application/json"}, b'{"detail":"here too"}', "here too (status 404)"),
    ],
)
def test_a_refusal_says_something_whatever_its_body(headers: dict[str, str], body: bytes, text: str) -> None:
    assert str(Answer(404, headers, body).error) == text


@given(st.binary(max_size=50), st.sampled_from(["application/json", "application/problem+json", "text/html", ""]))
def test_any_body_makes_a_problem(body: bytes, media_type: str) -> None:
    assert isinstance(Answer(500, {"content-type": media_type}, body).problem, dict)


def test_the_drawn_tree_is_the_tree() -> None:
    """Each line of the module's docstring names a class below the one that it is drawn under."""
    drawn: dict[str, str] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"([│├└─ ]*)([A-Z]\w+)(?:\s{2,}|$)", line)
        if match:
            depth = len(match[1]) // 4
            above = [*above[:depth], match[2]]
            drawn[match[2]] = above[-2] if depth else "Exception"
    classes: dict[str, Any] = {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, ClientError)
    }
    assert drawn == {name: value.__bases__[0].__name__ for name, value in classes.items()}


def test_access_that_is_revoked_is_what_a_next_request_would_be_told() -> None:
    assert AccessRevoked(404, {"detail": "gone"}).status == 404
