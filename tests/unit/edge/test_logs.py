"""Log lines: a sentence, then fields that a program can read again."""

import json
import logging
import sys

import pytest

from shared.edge.auth.redact import RedactingFilter
from shared.edge.logs import FORMATTERS


def record(message: str = "stream ended", **fields: object) -> logging.LogRecord:
    made = logging.getLogger("tailrace.stream").makeRecord(
        "tailrace.stream", logging.INFO, __file__, 1, message, (), None, extra=fields
    )
    made.created = 1_790_000_000.25
    return made


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("terminal", "terminal"),
        (12, "12"),
        (0.25, "0.25"),
        (None, "null"),
        ("two words", '"two words"'),
        ('a "quoted" one\nof two lines', r'"a \"quoted\" one\nof two lines"'),
        ({"subjects": ["run/1"]}, r'"{\"subjects\":[\"run/1\"]}"'),
        ("", '""'),
        ("half a \ud83d surrogate", r'"half a \ud83d surrogate"'),
    ],
)
def test_a_field_is_one_word_or_quoted(value: object, shown: str) -> None:
    assert FORMATTERS["text"].format(record(field=value)).endswith(f"INFO tailrace.stream stream ended field={shown}")


def test_a_line_of_json_is_one_object() -> None:
    line = FORMATTERS["json"].format(record(reason="terminal", events=12, filter={"types": ("a",)}))
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2026-09-21T14:13:20.250+00:00",
        "level": "INFO",
        "logger": "tailrace.stream",
        "message": "stream ended",
        "reason": "terminal",
        "events": 12,
        "filter": {"types": ["a"]},
    }


def test_a_line_of_json_tells_the_exception_without_secrets() -> None:
    made = record("a stream failed")
    try:
        raise ValueError("the secret is hunter2")
    except ValueError:
        made.exc_info = sys.exc_info()
    RedactingFilter(["hunter2"]).filter(made)
    line = FORMATTERS["json"].format(made)
    assert "ValueError: the secret is" in json.loads(line)["exception"]
    assert "hunter2" not in line


def test_what_json_cannot_hold_is_told_all_the_same() -> None:
    for value in (object(), 2**70, {1: 2}, "\udfff"):
        assert json.loads(FORMATTERS["json"].format(record(value=value)))["message"] == "stream ended"
