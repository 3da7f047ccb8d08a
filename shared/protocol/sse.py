"""Server-sent events, both ways: https://html.spec.whatwg.org/multipage/server-sent-events.html"""

import codecs
import re
from collections.abc import Iterator

from msgspec import Struct

HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)
HEARTBEAT = b":\n"  # no blank line after it: some clients turn that into an empty event

MAX_RETRY_DIGITS = 10  # nobody waits longer than four months
_LINE_END = re.compile(r"\r\n|\n|\r")


def opening(retry_ms: int) -> bytes:
    """What leaves as soon as a request is admitted."""
    return b": open\nretry: %d\n" % retry_ms


def frame(id: str, event: str | None, data: bytes) -> bytes:
    """One event. `event` None: the stream's primary type, which EventSource.onmessage receives.

    `data` must be one line, as JSON from msgspec is.
    """
    name = b"" if event is None else b"event: %b\n" % event.encode()
    return b"id: %b\n%bdata: %b\n\n" % (id.encode(), name, data)


class SseMessage(Struct, frozen=True):
    """One event as a client sees it. `id` is the last one seen on the stream so far."""

    event: str
    data: str
    id: str
    retry: int | None = None


class SseDecoder:
    """Turns a byte stream, cut anywhere, into messages.

    Follows the standard: UTF-8 with one leading byte-order mark dropped, lines ended by LF, CRLF or CR, comments
    ignored, an id with NUL ignored, an event without data not dispatched, an unfinished event at the end discarded.
    """

    def __init__(self) -> None:
        self._text = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending: list[str] = []  # parts of a line without an end yet; joined once, however many there are
        self._after_cr = False
        self._begun = False
        self._event = ""
        self._data: list[str] = []
        self._id = ""
        self.last_event_id = ""
        self.retry: int | None = None

    def decode(self, chunk: bytes) -> Iterator[SseMessage]:
        """The messages that `chunk` completes."""
        text = self._text.decode(chunk)
        if not text:
            return
        if not self._begun:
            self._begun = True
            text = text.removeprefix("\ufeff")
        if self._after_cr:  # the CR at the end of the last chunk ended its line already
            text = text.removeprefix("\n")
        self._after_cr = text.endswith("\r")
        *lines, rest = _LINE_END.split(text)
        if lines:
            lines[0] = "".join(self._pending) + lines[0]
            self._pending.clear()
        self._pending.append(rest)
        for line in lines:
            message = self._line(line)
            if message is not None:
                yield message

    def _line(self, line: str) -> SseMessage | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        self._field(name, value.removeprefix(" "))
        return None

    def _field(self, name: str, value: str) -> None:
        if name == "event":
            self._event = value
        elif name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and len(value) <= MAX_RETRY_DIGITS and value.isascii() and value.isdigit():
            self.retry = int(value)

    def _dispatch(self) -> SseMessage | None:
        self.last_event_id = self._id
        event, data = self._event or "message", self._data
        self._event, self._data = "", []
        if not data:
            return None
        return SseMessage(event=event, data="\n".join(data), id=self.last_event_id, retry=self.retry)
