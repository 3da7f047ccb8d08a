"""One pipe of a program: what is read from it goes through lines and levels into the buffer."""

from collections.abc import Iterable
from datetime import datetime

from services.previews.capture import CaptureBuffer, Stream
from services.previews.levels import LevelReader
from services.previews.lines import PART_BYTES, LineSplitter, Piece

READ_BYTES = 16 * 1024  # to read at once: the worst of it, empty lines only, takes 30 ms of the loop, and 60 bytes 2 ms
FLUSH_SECONDS = 0.2  # a line that has not ended after this time is shown as it is


class Pipe:
    """Feed what was read, flush FLUSH_SECONDS after a feed, and close it at the end.

    Nothing here waits. A pipe that is not closed leaves its last line without an end, and the next one on it.
    """

    def __init__(self, stream: Stream, buffer: CaptureBuffer, part_bytes: int = PART_BYTES) -> None:
        self._stream = stream
        self._buffer = buffer
        self._lines = LineSplitter(part_bytes)
        self._levels = LevelReader()

    @property
    def unterminated(self) -> int:
        """How many escapes never ended; what they held is in the output."""
        return self._lines.unterminated

    def feed(self, data: bytes, timestamp: datetime) -> None:
        """Take in what was read, READ_BYTES at most if others wait for the loop."""
        self._put(self._lines.feed(data), timestamp)

    def flush(self, timestamp: datetime) -> None:
        """Show the incomplete line, if there is one and it has changed."""
        piece = self._lines.flush()
        if piece is not None:
            self._put((piece,), timestamp)

    def close(self, timestamp: datetime) -> None:
        """The stream has ended."""
        self._put(self._lines.close(), timestamp)

    def _put(self, pieces: Iterable[Piece], timestamp: datetime) -> None:
        for piece in pieces:
            self._buffer.put(self._stream, piece, self._levels.read(piece), timestamp)
