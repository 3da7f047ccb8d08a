"""uvicorn with what streams need: buffers that notice slow readers, and a shutdown that tells them first."""

import contextlib
import logging
import resource
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn

from shared.edge.connection import StreamingHttpProtocol, StreamingWebSocketProtocol
from shared.edge.service import Front
from shared.edge.settings import Settings

# Without it the kernel takes 3.9 MB from a client that reads nothing before anybody notices; with it 0.3 MB.
SEND_BUFFER_BYTES = 256 * 1024
MAX_CLIENT_MESSAGE_BYTES = 64 * 1024
WEBSOCKET_PING_SECONDS = 20.0  # finds peers that vanished; our own heartbeat is for the page, which sees no pings


class Server(uvicorn.Server):
    """Ends the streams before uvicorn waits for their connections: its lifespan shutdown comes only after them."""

    def __init__(self, front: Front, settings: Settings, on_started: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                front,
                loop="uvloop",
                http=StreamingHttpProtocol,
                ws=StreamingWebSocketProtocol,
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
                timeout_keep_alive=75,
                timeout_graceful_shutdown=1,
                backlog=4096,
            )
        )
        self._front = front
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()

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
        milliseconds = int(settings.slow_reader_seconds * 1000) + 10_000  # a slow reader is noticed by us first
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    listener.bind((settings.host, settings.port))
    listener.setblocking(False)
    return listener


def allow_many_files() -> None:
    """A stream is an open file: use the hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def quiet_libraries() -> None:
    """uvicorn logs WebSocket paths with their query at INFO; ours are the only lines about requests."""
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)


def address(listener: socket.socket) -> str:
    """The URL it answers at, from this machine."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
