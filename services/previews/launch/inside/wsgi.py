"""Serves `module:app` of the working directory with the standard library's server and a thread for each request."""

import importlib
import os
import signal
import socket
import sys
import threading
from functools import reduce
from socketserver import ThreadingMixIn
from typing import IO, Any, cast
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler, WSGIServer

LISTENER = 3
REQUESTS_AT_ONCE = 32
LINE_BYTES = 65_536


class Handler(WSGIRequestHandler):
    timeout = 60

    def address_string(self) -> str:
        return "-"

    def handle(self) -> None:
        """As WSGIRequestHandler does, but a body whose length is not told is refused: WSGI cannot read it."""
        self.raw_requestline = self.rfile.readline(LINE_BYTES + 1)
        if len(self.raw_requestline) > LINE_BYTES:
            self.requestline = self.request_version = self.command = ""
            self.send_error(414)
        elif not self.parse_request():
            return
        elif "Transfer-Encoding" in self.headers:
            self.send_error(411)
        else:
            body, answer = cast("IO[bytes]", self.rfile), cast("IO[bytes]", self.wfile)
            handler = ServerHandler(
                body, answer, self.get_stderr(), self.get_environ(), multithread=True, multiprocess=False
            )
            handler.request_handler = self  # type: ignore[attr-defined]  # where it logs the request
            handler.run(self.server.get_app())  # type: ignore[attr-defined]  # ours, which has one


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    address_family = socket.AF_UNIX

    def __init__(self) -> None:
        super().__init__("", Handler, bind_and_activate=False)  # type: ignore[arg-type]  # bound already
        self.socket.close()
        self.socket = socket.socket(fileno=LISTENER)
        self.server_name, self.server_port = "localhost", 80
        self.setup_environ()
        self._places = threading.BoundedSemaphore(REQUESTS_AT_ONCE)

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, _ = self.socket.accept()
        return connection, ("127.0.0.1", 0)  # a unix socket has no addresses, and WSGI programs expect one

    def process_request(self, request: object, client_address: object) -> None:
        self._places.acquire()
        super().process_request(request, client_address)  # type: ignore[arg-type]  # as they came

    def process_request_thread(self, request: object, client_address: object) -> None:
        try:
            super().process_request_thread(request, client_address)  # type: ignore[arg-type]  # as they came
        finally:
            self._places.release()


def main() -> None:
    module, _, name = sys.argv[1].partition(":")
    sys.argv[1:] = []
    sys.path.insert(0, os.getcwd())
    server = Server()
    app: Any = reduce(getattr, name.split("."), importlib.import_module(module))
    server.set_app(app)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"Serving {module}:{name}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
