"""Stored output as plain text: the pieces of each line put together. Pure."""

from msgspec import Struct

from services.previews.capture import Stream

HELD_CHARACTERS = 4 * 1024 * 1024  # of other lines, while a long one is still coming


class Piece(Struct, frozen=True):
    """What is needed of a `log` event."""

    line: int
    message: str
    stream: Stream | None
    last: bool
    partial: bool


class PlainText:
    """Feed it the pieces in the order of the log; what comes between the pieces of a long line follows that line.

    A line whose end was dropped is over with the next one of its stream. One that others have waited for too long is
    cut into several lines.
    """

    def __init__(self) -> None:
        self._open: Piece | None = None  # the last piece of the line that is being written
        self._held: list[str] = []
        self._held_open: Piece | None = None  # the same of what is held
        self._size = 0

    def feed(self, piece: Piece) -> str:
        """What can be written now."""
        if piece.partial:
            return ""
        text = piece.message + ("\n" if piece.last else "")
        if self._open is None:
            self._open = None if piece.last else piece
            return text
        if piece.line == self._open.line:
            return text + (self._release() if piece.last else "")
        if piece.stream == self._open.stream:
            return "\n" + self._release() + self.feed(piece)
        if self._held_open is not None and piece.line != self._held_open.line:
            text = "\n" + text
        self._held_open = None if piece.last else piece
        self._held.append(text)
        self._size += len(text)
        return "\n" + self._release() if self._size > HELD_CHARACTERS else ""

    def close(self) -> str:
        """What is left."""
        text = ""
        while self._open is not None:
            text += "\n" + self._release()
        return text

    def _release(self) -> str:
        """The line that was being written is over: all that has waited for it."""
        text = "".join(self._held)
        self._open, self._held, self._held_open, self._size = self._held_open, [], None, 0
        return text
