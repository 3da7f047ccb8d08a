"""A keep-alive HTTP connection that sends prepared requests."""

import re
import socket
from typing import Final

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Control:
    """Publishes; one request at a time."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def request(self, request: bytes) -> bytes:
        """Send a request and return the body of its 2xx answer; anything else raises."""
        self.send(request)
        return self.receive()

    def send(self, request: bytes) -> None:
        """Send a request whose answer `receive` takes."""
        self._socket.sendall(request)

    def receive(self) -> bytes:
        """Wait for the answer to the last request and return the body of a 2xx one; anything else raises."""
        answer = b""
        while not _is_complete(answer):
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionError("the server closed the publishing connection")
            answer += data
        if not answer.startswith(b"HTTP/1.1 2"):
            raise RuntimeError(f"a publish was refused: {answer!r}")
        return answer.partition(b"\r\n\r\n")[2]

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def _is_complete(answer: bytes) -> bool:
    head, separator, body = answer.partition(b"\r\n\r\n")
    if not separator:
        return False
    length = _LENGTH.search(head)
    return len(body) >= (int(length[1]) if length else 0)
