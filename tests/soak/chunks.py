"""HTTP's chunked coding, as far as a reader of streams needs it."""


class Chunks:
    """`feed` takes bytes cut anywhere, and returns what they carry."""

    def __init__(self) -> None:
        self._left = 0  # of the chunk that is being read, its line end included
        self._line = b""  # of a chunk's size, as far as it has come

    def feed(self, data: bytes) -> bytes:
        carried = b""
        data, self._line = self._line + data, b""
        while data:
            if self._left:
                part, data = data[: self._left], data[self._left :]
                carried += part[: max(0, self._left - 2)]
                self._left -= len(part)
            else:
                line, end, rest = data.partition(b"\r\n")
                if not end:
                    self._line = data
                    return carried
                self._left, data = int(line, 16) + 2, rest
        return carried
