"""Baseline B: a bare loop of socket sends, the least that Python can do. A burst is one send per reader."""

import re
import select
import socket
from typing import Final

from tests.bench.event import sse_frames
from tests.bench.serving import listen

PUBLISH: Final = re.compile(rb"POST \S+first=(\d+)&n=(\d+)")
SSE_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
PUBLISHED: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class BareServer:
    """Accepts readers (GET) and publishers (POST); requests are assumed to arrive whole."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.connections: dict[int, socket.socket] = {}
        self.readers: list[socket.socket] = []
        self.epoll = select.epoll()
        self.epoll.register(listener.fileno(), select.EPOLLIN)

    def run(self) -> None:
        """Serve until the process is told to stop."""
        while True:
            for fd, _ in self.epoll.poll():
                if fd == self.listener.fileno():
                    self.accept()
                else:
                    self.receive(self.connections[fd])

    def accept(self) -> None:
        """Take one new connection."""
        connection, _ = self.listener.accept()
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connections[connection.fileno()] = connection
        self.epoll.register(connection.fileno(), select.EPOLLIN)

    def receive(self, connection: socket.socket) -> None:
        """Answer what a connection asks for, or forget it when it has closed."""
        request = connection.recv(65536)
        if not request:
            self.epoll.unregister(connection.fileno())
            del self.connections[connection.fileno()]
            if connection in self.readers:
                self.readers.remove(connection)
            connection.close()
        elif match := PUBLISH.match(request):
            self.publish(sse_frames(int(match[1]), int(match[2])))
            connection.send(PUBLISHED)
        else:
            connection.send(SSE_HEAD)
            self.readers.append(connection)

    def publish(self, frames: bytes) -> None:
        """Send the same bytes to every reader; the loop that all others are measured against."""
        size = len(frames)
        for reader in self.readers:
            sent = reader.send(frames)
            if sent < size:  # its kernel buffer is full: rare, and then blocking is the cheapest way to wait
                reader.setblocking(True)
                reader.sendall(memoryview(frames)[sent:])
                reader.setblocking(False)


if __name__ == "__main__":
    server_socket = listen()
    # Room for a burst of 100 from the start: the kernel's first guess is less, waiting costs 15 times more.
    server_socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 212_992)
    BareServer(server_socket).run()
