"""Log lines: a constant sentence, then its fields."""

import json
import logging
import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Literal

import msgspec

from shared.edge.auth.redact import RedactingFilter

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


_BARE = re.compile(r"[\w.:/+-]+", re.ASCII)


class FieldFormatter(logging.Formatter):
    """`time LEVEL logger sentence key=value …`, the values as logfmt has them: quoted when they are not one word."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record) + "".join(f" {key}={_word(value)}" for key, value in _fields(record).items())


class JsonFormatter(logging.Formatter):
    """One object a line: `time`, `level`, `logger`, `message`, the fields, and `exception` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_text:  # as the filter has left it
            line["exception"] = record.exc_text
        return _json(line)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _word(value: object) -> str:
    text = value if isinstance(value, str) else _json(value)
    return text if _BARE.fullmatch(text) else _json(text)


def _json(value: object) -> str:
    try:
        return msgspec.json.encode(value, enc_hook=str).decode()
    except (UnicodeEncodeError, TypeError, OverflowError):  # half a surrogate, a key that is no string, 2**64
        return json.dumps(value, default=str, skipkeys=True)


FORMATTERS = {"text": FieldFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"), "json": JsonFormatter()}


def set_up(level: str, secrets: Iterable[str] = (), *, form: Literal["text", "json"] = "text") -> None:
    """Log to standard error, without credentials, `secrets` among them."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(RedactingFilter(secrets))
    handler.setFormatter(FORMATTERS[form])
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("httpx").setLevel("WARNING")  # it tells of every request, with its URL
