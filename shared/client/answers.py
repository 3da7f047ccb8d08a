"""Reading answers: which may be tried again, when, and what a refusal says. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec
from msgspec import Struct

from shared.client.errors import Refused, describe, refused

MAX_REFUSAL_BYTES = 64 * 1024  # of a refusal's body; problem documents are far smaller
_PERMANENT_SERVER_ERRORS = (501, 505)
_TRANSIENT_CLIENT_ERRORS = (408, 425, 429)


class Answer(Struct, frozen=True):
    """Status, headers (names in lower case) and what was read of the body."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def is_json(self) -> bool:
        return self.media_type == "application/json" or self.media_type.endswith("+json")

    @property
    def is_transient(self) -> bool:
        """Whether the same request may be answered otherwise soon."""
        if self.status >= 500:
            return self.status not in _PERMANENT_SERVER_ERRORS
        return self.status in _TRANSIENT_CLIENT_ERRORS

    @property
    def problem(self) -> dict[str, Any]:
        """The problem document; one of our own making where the answer is none, a proxy's page for example."""
        if self.is_json:
            try:
                document = msgspec.json.decode(self.body)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                document = None
            if isinstance(document, dict):
                return document
        return {"status": self.status, "detail": self._summary()}

    def _summary(self) -> str:
        location = self.headers.get("location")
        if 300 <= self.status < 400 and location:
            return f"the answer is a redirect to {location[:200]}, which is not followed: use the right URL"
        return f"the server answered {self.status} with {self.media_type or 'nothing'}"

    @property
    def error(self) -> Refused:
        """The refusal as an exception of its kind."""
        return refused(self.status, self.problem)

    def __str__(self) -> str:
        return describe(self.status, self.problem)

    def retry_after(self, now: datetime) -> float | None:
        """Seconds that the header Retry-After asks for: a number, or a date (RFC 9110, 10.2.3)."""
        text = self.headers.get("retry-after", "").strip()
        if text.isascii() and text.isdigit() and len(text) <= 9:
            return float(text)
        try:
            date = parsedate_to_datetime(text)
        except (ValueError, IndexError, OverflowError):
            return None
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        return max(0.0, (date - now).total_seconds())
