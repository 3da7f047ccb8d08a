"""Log lines: a constant sentence, then its fields."""

import logging
import sys
from collections.abc import Iterable

from shared.edge.auth.redact import RedactingFilter

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class FieldFormatter(logging.Formatter):
    """`time LEVEL logger sentence key=value …`"""

    def format(self, record: logging.LogRecord) -> str:
        fields = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        return super().format(record) + "".join(f" {key}={value!r}" for key, value in fields.items())


def set_up(level: str, secrets: Iterable[str] = ()) -> None:
    """Log to standard error, without credentials, `secrets` among them."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(RedactingFilter(secrets))
    handler.setFormatter(FieldFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("httpx").setLevel("WARNING")  # it tells of every request, with its URL
