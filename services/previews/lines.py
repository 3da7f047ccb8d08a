"""One stream's bytes, cut anywhere, become lines.

**What a viewer does.** Pieces of a line come in order. A piece belongs at its `part` of its line; one that is `partial`
is what part `part` looks like so far, and the next piece of the line has the same `part` and replaces it. Pieces that
are not partial are final: the line is its final pieces joined, and complete with the one that is `last`. Shown so,
nothing is shown twice and nothing is missing. (CaptureBuffer gives all pieces of a line the same number.)

**What a line is.** Text that ended with LF or CRLF, or with the stream. Invalid UTF-8 is U+FFFD. Escapes other than
colours, NUL and other control characters are gone (see escapes.py).

**A lone CR** takes the cursor back, as in a progress bar: what was there goes when something visible follows, and
stays if nothing does. A line that is already longer than one part cannot be taken back: there a CR ends the line.

Which lines and parts come out depends on the bytes alone, never on where they were cut. What is held back is at most
one part, an unfinished escape (4,096 characters) and three bytes of a character.

Plain chunks (no control characters but TAB and LF) take a short way, in C but for one object a line: 5,800,000 lines/s
of 60 bytes in chunks of 64 KiB; coloured lines 530,000/s. `python -m tests.bench.capture`
"""

import codecs

from msgspec import Struct

from services.previews.escapes import DEL, drop_escapes, is_plain, leading_colours, split_unfinished, whole_escapes

PART_BYTES = 16 * 1024
MIN_PART_BYTES = 256  # more than the longest colour


class Piece(Struct, frozen=True, gc=False):
    """A line, or one part of a long one. `text` is at most PART_BYTES of UTF-8."""

    text: str
    part: int = 0
    last: bool = True
    partial: bool = False


class LineSplitter:
    """Feed it what was read, flush it when nothing has come for a while, close it at the end of the stream.

    `unterminated` counts escapes that never ended; what they held was kept as text.
    """

    def __init__(self, part_bytes: int = PART_BYTES) -> None:
        if part_bytes < MIN_PART_BYTES:
            raise ValueError(f"a part of a line takes at least {MIN_PART_BYTES} bytes; got {part_bytes}")
        self.unterminated = 0
        self._part_bytes = part_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._escape = ""  # unfinished
        self._rest = ""  # of the line: what is visible, then perhaps CR and colours
        self._part = 0  # the number that the rest will have
        self._shown = ""  # what the last flush gave of it

    def feed(self, data: bytes) -> list[Piece]:
        """The final pieces that `data` completes."""
        text = self._decoder.decode(data)
        if self._escape or not is_plain(data, text):
            text = self._cleaned(*split_unfinished(self._escape + text))
        return self._take(text)

    def flush(self) -> Piece | None:
        """The incomplete line as it is now; None when there is none or it has not changed since it was last given."""
        text = self._rest.replace("\r", "")
        if not text or text == self._shown:
            return None
        self._shown = text
        return Piece(text, self._part, False, True)

    def close(self) -> list[Piece]:
        """The final pieces of what is left. Call it once; a line without an end is a line."""
        pieces = self._take(self._cleaned(self._escape + self._decoder.decode(b"", True), ""))
        if self._rest.replace("\r", ""):
            self._complete("", pieces)
        return pieces

    def _cleaned(self, text: str, escape: str) -> str:
        self._escape = escape
        text, endless = drop_escapes(text + DEL if escape else text)
        self.unterminated += endless
        return text.replace("\r\n", "\n")

    def _take(self, text: str) -> list[Piece]:
        lines = text.split("\n")
        rest = lines.pop()
        pieces: list[Piece] = []
        if lines:
            self._complete(lines[0], pieces)
            self._complete_others(lines, "\r" not in text, pieces)
        if rest:
            self._rest = self._settle(self._rest + rest, pieces)
        if pieces:
            self._shown = ""
        return pieces

    def _complete_others(self, lines: list[str], are_plain: bool, pieces: list[Piece]) -> None:
        """All but the first, of which an earlier chunk may have had the beginning."""
        others = iter(lines)
        next(others)
        if are_plain and max(map(len, lines)) * 4 <= self._part_bytes:
            pieces.extend(map(Piece, others))
            return
        for line in others:
            self._complete(line, pieces)

    def _complete(self, text: str, pieces: list[Piece]) -> None:
        """The line ends after `text`."""
        rest = self._settle(self._rest + text, pieces)
        self._rest = ""
        self._end(rest.replace("\r", ""), pieces)

    def _end(self, text: str, pieces: list[Piece]) -> None:
        pieces.append(Piece(text, self._part))
        self._part = 0

    def _settle(self, text: str, pieces: list[Piece]) -> str:
        """Give out the parts that an unfinished line has filled; what remains has at most one CR, before colours."""
        if "\r" not in text:
            return self._fill(text, pieces)
        while "\r\r" in text:
            text = text.replace("\r\r", "\r")
        first, *others = text.split("\r")
        visible, colours, returned = self._fill(first, pieces), "", False
        for segment in others:
            leading = leading_colours(segment)
            is_long = _size(visible) + len(colours) + leading > self._part_bytes
            if leading == len(segment) and not is_long:
                colours, returned = colours + segment, True
                continue
            if self._part or is_long:
                self._end(visible, pieces)
            visible, colours, returned = self._fill(colours + segment, pieces), "", False
        return f"{visible}\r{colours}" if returned else visible

    def _fill(self, text: str, pieces: list[Piece]) -> str:
        """Give out as many parts as `text` fills and overflows; return what remains, which is never empty then."""
        start = 0
        while self._overflows(text, start):
            end = self._cut(text, start)
            pieces.append(Piece(text[start:end], self._part, False))
            self._part += 1
            start = end
        return text[start:] if start else text

    def _overflows(self, text: str, start: int) -> bool:
        length = len(text) - start
        if length > self._part_bytes or length * 4 <= self._part_bytes:
            return length > self._part_bytes
        return _size(text[start:] if start else text) > self._part_bytes

    def _cut(self, text: str, start: int) -> int:
        """Where the part ends that begins at `start`: on a character, outside a colour."""
        most = text[start : start + self._part_bytes]
        if not most.isascii():
            most = most.encode()[: self._part_bytes].decode(errors="ignore")
        return whole_escapes(text, start + len(most))


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
