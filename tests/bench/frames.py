"""Finds the pings in a server's WebSocket bytes, cut anywhere, so that raw-socket readers can answer them."""

from typing import Final

_CLOSE: Final = 0x8
_PING: Final = 0x9


class FrameWalker:
    """Steps over unmasked frames (RFC 6455, section 5.2); looks only into control frames."""

    def __init__(self) -> None:
        self._rest = b""
        self._skip = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Take what arrived; give the pongs that are due. A close frame raises ConnectionError."""
        if self._skip >= len(data):
            self._skip -= len(data)
            return []
        buffer = self._rest + data[self._skip :]
        self._skip = 0
        pongs: list[bytes] = []
        position = 0
        while (frame := _header(buffer, position)) is not None:
            opcode, start, end = frame
            if opcode & _CLOSE:
                if end > len(buffer):
                    break
                pongs += _answer(opcode, buffer[start:end])
            if end >= len(buffer):
                self._skip = end - len(buffer)
                self._rest = b""
                return pongs
            position = end
        self._rest = buffer[position:]
        return pongs


def _header(buffer: bytes, position: int) -> tuple[int, int, int] | None:
    """Opcode, and where the payload starts and ends; None while the header is incomplete."""
    if len(buffer) - position < 2:
        return None
    opcode, length, start = buffer[position] & 0x0F, buffer[position + 1], position + 2
    if length >= 126:
        start += 2 if length == 126 else 8
        if len(buffer) < start:
            return None
        length = int.from_bytes(buffer[position + 2 : start])
    return opcode, start, start + length


def _answer(opcode: int, payload: bytes) -> list[bytes]:
    if opcode == _CLOSE:
        raise ConnectionError(f"the server closed a WebSocket: {payload!r}")
    if opcode != _PING:
        return []
    return [bytes((0x8A, 0x80 | len(payload), 0, 0, 0, 0)) + payload]  # a mask of zeros is a mask
