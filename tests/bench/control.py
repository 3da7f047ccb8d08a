"""A keep-alive HTTP connection that sends prepared requests."""

import re
import select
import socket
from typing import Final

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Control:
    """Publishes; one request at a time, or several in one piece."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket = self._connect()
        self._rest = b""

    def request(self, request: bytes, answers: int = 1) -> bytes:
        """Send a request and return the body of its 2xx answer, the last one's if there are several; anything else
        raises.
        """
        self.send(request)
        for _ in range(answers - 1):
            self.receive()
        return self.receive()

    def send(self, request: bytes) -> None:
        """Send a request whose answer `receive` takes; over a new connection if the server was tired of waiting."""
        waiting = select.poll()
        waiting.register(self._socket, select.POLLIN)
        if waiting.poll(0):  # with nothing asked for, that can only be its end
            self._socket.close()
            self._socket = self._connect()
        self._socket.sendall(request)

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self._port), timeout=60)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def receive(self) -> bytes:
        """Wait for the answer to the last request and return the body of a 2xx one; anything else raises."""
        while (size := _size(self._rest)) is None or len(self._rest) < size:
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionError("the server closed the publishing connection")
            self._rest += data
        answer, self._rest = self._rest[:size], self._rest[size:]
        if not answer.startswith(b"HTTP/1.1 2"):
            raise RuntimeError(f"a publish was refused: {answer!r}")
        return answer.partition(b"\r\n\r\n")[2]

    def read_until(self, request: bytes, mark: bytes) -> bytes:
        """Send a request and return what comes up to `mark` and a little beyond."""
        self.send(request)
        received = bytearray()
        seen = 0
        while received.find(mark, seen) < 0:
            seen = max(0, len(received) - len(mark))
            data = self._socket.recv(262_144)
            if not data:
                raise ConnectionError("the server closed the connection")
            received += data
        return bytes(received)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def _size(answer: bytes) -> int | None:
    """Bytes of the first answer, once its head is there."""
    head, separator, _ = answer.partition(b"\r\n\r\n")
    if not separator:
        return None
    length = _LENGTH.search(head)
    return len(head) + len(separator) + (int(length[1]) if length else 0)
