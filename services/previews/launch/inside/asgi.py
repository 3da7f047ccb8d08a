"""Serves `module:app` of the working directory with uvicorn, on the listening socket it was started with."""

import importlib
import os
import socket
import sys
from functools import reduce
from typing import Any

import uvicorn

LISTENER = 3


def main() -> None:
    module, _, name = sys.argv[1].partition(":")
    sys.argv[1:] = []
    sys.path.insert(0, os.getcwd())
    app: Any = reduce(getattr, name.split("."), importlib.import_module(module))
    # What a proxy says of the client is not to be believed by somebody who cannot tell the proxy from another.
    config = uvicorn.Config(app, proxy_headers=False, server_header=False, ws_ping_interval=None)
    with socket.socket(fileno=LISTENER) as listener:
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
