"""A real nginx between a reader and the service."""

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

# Buffering is left on, as it is by default: that streams get through is for their own headers to see to.
CONFIGURATION = """
daemon off;
pid {directory}/pid;
error_log stderr warn;
worker_processes 1;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    client_max_body_size 8m;
    map $http_upgrade $connection_header {{ default upgrade; "" ""; }}
    upstream tailrace {{ server 127.0.0.1:{upstream}; keepalive 32; }}
    server {{
        listen 127.0.0.1:{port} sndbuf=64k;  # else each reader has megabytes on the way
        location / {{
            proxy_pass http://tailrace;
            proxy_http_version 1.1;
            proxy_set_header Host $host:$server_port;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_header;
            proxy_read_timeout 1h;
        }}
    }}
}}
"""


@asynccontextmanager
async def through_nginx(program: Path, upstream: int) -> AsyncIterator[str]:
    """The URL of an nginx in front of a port of this machine."""
    with tempfile.TemporaryDirectory(prefix="tr-nginx-") as directory:
        Path(directory).chmod(0o755)  # its workers are another user
        port = _free_port()
        configuration = Path(directory) / "nginx.conf"
        configuration.write_text(CONFIGURATION.format(directory=directory, upstream=upstream, port=port))
        process = await asyncio.create_subprocess_exec(
            program, "-e", "stderr", "-c", configuration, "-p", directory, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            await _until_open(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _until_open(port: int, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(20):
        while True:
            assert process.returncode is None, "nginx did not start"
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
