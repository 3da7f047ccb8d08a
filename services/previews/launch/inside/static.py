"""Serves the files below a directory: no listing, no hidden file, nothing that a link leads out to."""

import os
import signal
import socket
import sys
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LISTENER = 3


class Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "tailrace", ""
    timeout = 60
    extensions_map = {  # noqa: RUF012 - as the class that it is from has it
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        ".webp": "image/webp",
    }
    root = Path()

    def address_string(self) -> str:
        return "-"  # a unix socket has no address

    def translate_path(self, path: str) -> str:
        """The file that this path of a URL means; one that cannot exist when it may not be had."""
        names = [name for name in unquote(urlsplit(path).path).split("/") if name not in ("", ".")]
        if any(name.startswith(".") or "\0" in name for name in names):
            return os.path.join(self.root, ".nothing", "")
        meant = self.root.joinpath(*names)
        try:
            inside = meant.resolve().is_relative_to(self.root)
        except (OSError, RuntimeError):  # a link that leads to itself
            inside = False
        if not inside:
            return os.path.join(self.root, ".nothing", "")
        # The end tells a directory from a file.
        return str(meant) + ("/" if path.endswith("/") and meant.is_dir() else "")

    def list_directory(self, path: str | os.PathLike[str]) -> None:
        self.send_error(404, "File not found")

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")  # its files are changed while people look at them
        super().end_headers()


class Server(ThreadingHTTPServer):
    address_family = socket.AF_UNIX
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__("", Handler, bind_and_activate=False)  # type: ignore[arg-type]  # bound already
        self.socket.close()
        self.socket = socket.socket(fileno=LISTENER)


def main() -> None:
    Handler.root = Path(sys.argv[1]).resolve()
    if not Handler.root.is_relative_to(Path.cwd()) or not Handler.root.is_dir():
        sys.exit(f"There is no directory {sys.argv[1]} to serve.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"Serving the files in {sys.argv[1]}", flush=True)
    Server().serve_forever()


if __name__ == "__main__":
    main()
