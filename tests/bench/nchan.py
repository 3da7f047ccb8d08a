"""Baseline: Nchan, nginx's module for publishing and subscribing, in one worker process and in its memory."""

import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import psutil

from tests.bench.event import event_json
from tests.bench.serving import raise_descriptor_limit

MODULE: Final = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")  # where Debian's libnginx-mod-nchan puts it
NGINX: Final = Path("/usr/sbin/nginx")
MISSING: Final = "Nchan is left out: it is not installed here (on Debian: apt-get install libnginx-mod-nchan)."

_CONFIGURATION: Final = """
load_module {module};
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr warn;
worker_rlimit_nofile 20000;
events {{ worker_connections 19000; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    keepalive_requests 1000000;
    keepalive_timeout 600s;
    nchan_shared_memory_size 256m;
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        location = /stream {{
            nchan_subscriber eventsource;
            nchan_channel_id bench;
            nchan_subscriber_first_message newest;
            nchan_eventsource_event node_update;
        }}
        location = /publish {{
            nchan_publisher;
            nchan_channel_id bench;
            nchan_message_buffer_length 1000;
        }}
    }}
}}
"""


def is_installed() -> bool:
    """Whether this machine has it."""
    return MODULE.exists() and NGINX.exists()


def publish(first: int, count: int) -> bytes:
    """One request per event, all of them in one piece: Nchan takes one message a request."""
    return b"".join(map(_request, range(first, first + count)))


def _request(number: int) -> bytes:
    body = event_json(number)
    head = (
        b"POST /publish HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    )
    return head % (len(body), body)


def main() -> None:
    """Run nginx on a free port; say its worker's pid, which is what is to be measured, and then where it listens."""
    raise_descriptor_limit()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    directory = tempfile.mkdtemp(prefix="nchan-", dir=sys.argv[1])
    Path(directory).chmod(0o755)  # its worker is of another user
    configuration = Path(directory) / "nginx.conf"
    configuration.write_text(_CONFIGURATION.format(module=MODULE, directory=directory, port=port))
    with subprocess.Popen([NGINX, "-p", directory, "-c", configuration]) as server:
        signal.signal(signal.SIGTERM, lambda *_: server.terminate())
        while not (workers := psutil.Process(server.pid).children()) or not _answers(port):
            time.sleep(0.02)
        print(f"pid {workers[0].pid}\nhttp://127.0.0.1:{port}", flush=True)


def _answers(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    main()
