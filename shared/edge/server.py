"""uvicorn with what streams need: buffers that notice slow readers, and a shutdown that tells them first."""

import contextlib
import logging
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial

import uvicorn

from shared.edge.connection import StraightSocket
from shared.edge.http_peer import HttpPeer
from shared.edge.patience import Peers
from shared.edge.service import Front
from shared.edge.settings import Settings
from shared.edge.websocket_peer import WebSocketPeer

# Without it the kernel takes 3.9 MB from a client that reads nothing before anybody notices; with it 0.3 MB.
SEND_BUFFER_BYTES = 256 * 1024
SLOW_READER_FIRST_SECONDS = 5.0  # a stream notices its own slow reader, then the connection does, then the kernel
MAX_CLIENT_MESSAGE_BYTES = 64 * 1024
RESERVED_FILES = 256  # for the database, programs and pages; never below half of what there may be
WEBSOCKET_PING_SECONDS = 20.0  # finds peers that vanished; our own heartbeat is for the page, which sees no pings


class Server(uvicorn.Server):
    """Ends the streams before uvicorn waits for their connections: its lifespan shutdown comes only after them."""

    def __init__(self, front: Front, settings: Settings, on_started: Callable[[], None]) -> None:
        connections = min(settings.connections_per_process, most_connections())
        StraightSocket.spare = max(0, most_files() - RESERVED_FILES - connections)
        self._peers = peers = Peers(
            request_seconds=settings.request_seconds,
            unread_seconds=settings.slow_reader_seconds + SLOW_READER_FIRST_SECONDS,
            per_process=connections,
            per_address=settings.connections_per_address,
            body_bytes=settings.body_bytes,
        )
        super().__init__(
            uvicorn.Config(
                front,
                loop="uvloop",
                http=partial(HttpPeer, peers=peers),  # type: ignore[arg-type]  # uvicorn only calls it
                ws=partial(WebSocketPeer, peers=peers),  # type: ignore[arg-type]  # the same
                ws_per_message_deflate=False,
                ws_max_size=MAX_CLIENT_MESSAGE_BYTES,
                ws_ping_interval=WEBSOCKET_PING_SECONDS,
                ws_ping_timeout=settings.slow_reader_seconds,
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=bool(settings.trusted_proxies),
                forwarded_allow_ips=list(settings.list_of("trusted_proxies")),
                timeout_graceful_shutdown=1,
                backlog=4096,
            )
        )
        self._front = front
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()

    async def on_tick(self, counter: int) -> bool:
        """uvicorn's clock, which ticks ten times a second."""
        self._peers.look()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await self._front.streams.drain()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but without raising the signal again at the end: a clean stop is exit code 0."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def listen(settings: Settings) -> socket.socket:
    """The listening socket. Raise OSError when the address is taken or not ours."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # frees the socket of a peer that vanished without a word
        milliseconds = int((settings.slow_reader_seconds + 2 * SLOW_READER_FIRST_SECONDS) * 1000)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    listener.bind((settings.host, settings.port))
    listener.setblocking(False)
    return listener


def allow_many_files() -> None:
    """A stream is an open file: use the hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def most_connections() -> int:
    """As many as there may be files, without a quarter for the second ones of readers and without those that other work
    needs: beyond, nothing could be accepted at all.
    """
    files = most_files()
    return max(files - files // 4 - RESERVED_FILES, files // 2)


def most_files() -> int:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if files == resource.RLIM_INFINITY else files


def quiet_libraries() -> None:
    """uvicorn logs WebSocket paths with their query at INFO; ours are the only lines about requests."""
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)


def address(listener: socket.socket) -> str:
    """The URL it answers at, from this machine."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
