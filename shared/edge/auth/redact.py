"""What must not get into a log: tokens, tickets, credentials, and whoever quotes them.

The rule is to log none. This is what is behind it: libraries log addresses with their queries, and exceptions tell what
they were given. In doubt more is taken out than need be.
"""

import logging
import re
from collections.abc import Iterable

HIDDEN = "[redacted]"

_STANDARD = frozenset(vars(logging.makeLogRecord({})))
# with a name before it too, such as access_token, and after a ? that is written %3F
_NAMES = r"(?:(?<![A-Za-z0-9])|(?<=%[0-9a-f]{2}))(ticket|token|secret|api_?key|password|code_verifier|assertion)"
_HEADERS = r"(?:proxy-)?authorization|(?:set-)?cookie|tailrace-lease|x-api-key"

_FIELD = re.compile(rf"[a-z0-9_]*{_NAMES}|{_HEADERS}", re.IGNORECASE | re.ASCII)

# Each looks at a character a few times at most, however long the text.
_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE | re.ASCII), put)
    for pattern, put in (
        # headers as on the wire, as a dict, as ASGI's pairs of bytes: up to the quote, or to the end of the line
        (rf"""\b({_HEADERS})(["']\s*[:,=]\s*b?)(["'])(?:(?!\3)[^\r\n])*""", rf"\1\2\3{HIDDEN}"),
        (rf"""\b({_HEADERS})(\s*[:=]\s*)[^\s"'][^"'\r\n]*""", rf"\1\2{HIDDEN}"),
        # a keyword's argument in a repr, then a query or a form, encoded within another one too
        (rf"""{_NAMES}=b?(["'])(?:(?!\2)[^\r\n\\]|\\.)*""", rf"\1=\2{HIDDEN}"),
        (rf"""{_NAMES}(=|%3d)(?:\[redacted\]|[^&\s"'<>#;,)\]}}]*)""", rf"\1\2{HIDDEN}"),
        # JSON, or the repr of a dict
        (rf"""{_NAMES}(["']\s*:\s*b?)(["'])(?:(?!\3)[^\r\n\\]|\\.)*""", rf"\1\2\3{HIDDEN}"),
        (r"\bbearer\.[A-Za-z0-9._~+/=-]+", f"bearer.{HIDDEN}"),
        (r"\bbearer(\s+|%20)[A-Za-z0-9._~+/=-]{16,}", f"Bearer {HIDDEN}"),
        # user and password in a URL, such as the database's
        (r"(\b[a-z][a-z0-9+.-]{0,20}://)[^\s/@:\"']*:[^\s/@\"']*@", rf"\1{HIDDEN}@"),
        # a JSON Web Token: its first part is an object's `{"` or `{ ` in base64
        (r"(?<![A-Za-z0-9_-])e[wy][A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)*", HIDDEN),
    )
)

# Each rule needs one of these, and most lines have none: 6 µs instead of 140 to find out, on a busy machine.
_HINTS = re.compile("e[yw]|ticket|token|secret|password|verifier|assert|author|cookie|lease|bearer|@").search


def redact(text: str) -> str:
    """The text without what looks like a credential."""
    if not _HINTS(text.lower()):
        return text
    for pattern, put in _RULES:
        text = pattern.sub(put, text)
    return text


class RedactingFilter(logging.Filter):
    """Takes credentials out of a record's message, fields, exception and stack. Put it on handlers: a logger's own
    filters do not see what its children log. `secrets` are taken out wherever they stand.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self._secrets = sorted((secret for secret in secrets if secret), key=len, reverse=True)

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self._redact(_message(record)), ()
        if record.exc_info and not record.exc_text:
            record.exc_text = _formatter.formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = self._redact(record.exc_text)
        if record.stack_info:
            record.stack_info = self._redact(record.stack_info)
        for name, value in vars(record).items():
            if name not in _STANDARD:
                setattr(record, name, self._redact_field(name, value))
        return True

    def _redact(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return redact(text)

    def _redact_field(self, name: str, value: object) -> object:
        """A field is shown as its repr: it stays what it is unless that tells something."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if _FIELD.fullmatch(name):
            return HIDDEN
        if isinstance(value, str):
            return self._redact(value)
        try:
            shown = repr(value)
        except Exception:  # noqa: BLE001  whatever a stranger's __repr__ raises
            return f"a {type(value).__name__} that cannot be shown"
        clean = self._redact(shown)
        return value if clean == shown else clean


_formatter = logging.Formatter()


def _message(record: logging.LogRecord) -> str:
    """The sentence with its arguments. One that cannot be put together is told without them: logging would print them
    as they are.
    """
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001  whatever a stranger's __str__ raises
        return f"{record.msg} (its arguments cannot be shown)"
