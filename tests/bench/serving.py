"""How the servers of this folder start: enough descriptors, a free loopback port, said on stdout."""

import asyncio
import resource
import socket
from typing import Any

import uvicorn


def raise_descriptor_limit() -> None:
    """Allow as many open sockets as the system lets this process have."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def listen() -> socket.socket:
    """A listening socket on a free loopback port, announced on stdout for the harness."""
    raise_descriptor_limit()
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    return listener


def run_uvicorn(app: Any, **options: Any) -> None:
    """Serve `app` on uvicorn, uvloop and httptools until the process is told to stop."""
    # a publisher waits for its turn longer than the 5 s after which uvicorn would close its connection
    options = {
        "http": "httptools",
        "ws": "websockets-sansio",
        "ws_ping_interval": None,
        "timeout_keep_alive": 600,
    } | options
    config = uvicorn.Config(app, loop="uvloop", log_level="warning", access_log=False, **options)
    listener = listen()
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(uvicorn.Server(config).serve(sockets=[listener]))
