"""A real nginx with the configuration that is shipped, in front of whatever a test has behind it.

Of the files of deploy/nginx two are written anew, those with addresses in them: listen.conf and services.conf. What
else a test changes it names: `changes={"http.conf": {"proxy_read_timeout 75s": "proxy_read_timeout 5s"}}`.
"""

import asyncio
import os
import shutil
import signal
import struct
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import psutil

from tests.support.readers import eventually
from tests.support.server import ROOT, free_port

SHIPPED = ROOT / "deploy" / "nginx"
START_SECONDS = 90
Changes = Mapping[str, Mapping[str, str]]


class Nginx:
    """One nginx, its files in a directory of its own. `services` maps tasks, runs and previews to host:port."""

    def __init__(
        self, program: Path, directory: Path, services: Mapping[str, str], changes: Changes, resolver: str
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.prefix = directory / "prefix"
        self.lines: list[str] = []
        self._program = program
        self._configuration = directory / "nginx"
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        shutil.copytree(SHIPPED, self._configuration)
        self.prefix.mkdir()
        for path in (directory, self.prefix):
            path.chmod(0o755)  # root's workers are another user
        self.write("listen.conf", f"listen 127.0.0.1:{self.port};\n")
        named = "".join(f"set ${name} {address};\n" for name, address in services.items())
        self.write("services.conf", (f"resolver {resolver} valid=1s ipv6=off;\n" if resolver else "") + named)
        for name, replaced in changes.items():
            for old, new in replaced.items():
                self.change(name, old, new)

    def write(self, name: str, text: str) -> None:
        (self._configuration / name).write_text(text)

    def change(self, name: str, old: str, new: str) -> None:
        """Write `new` in place of `old`, which must be there."""
        text = (self._configuration / name).read_text()
        assert old in text, f"{name} has no {old!r}"
        self.write(name, text.replace(old, new))

    def command(self, configuration: str = "nginx.conf") -> list[str]:
        main = str(self._configuration / configuration)
        return [str(self._program), "-e", "stderr", "-p", str(self.prefix), "-g", "daemon off;", "-c", main]

    async def start(self, configuration: str = "nginx.conf") -> None:
        """Return when it answers."""
        self._process = await asyncio.create_subprocess_exec(
            *self.command(configuration), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        self._reading = asyncio.create_task(self._read())
        await eventually(self._answers, "nginx answers", START_SECONDS)

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.lines.append(line.decode())

    async def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.returncode is None, "".join(self.lines)
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True

    @property
    def workers(self) -> list[psutil.Process]:
        """Those of now and, after a reload, the old ones that still have something to do."""
        assert self._process is not None
        return psutil.Process(self._process.pid).children()

    async def reload(self) -> None:
        """Return when a new worker is there."""
        assert self._process is not None
        before = {worker.pid for worker in self.workers}
        self._process.send_signal(signal.SIGHUP)
        await eventually(lambda: bool({worker.pid for worker in self.workers} - before), "a new worker")

    def files_on_disk(self) -> list[str]:
        """What the workers have open below the prefix; nginx unlinks its temporary files as it makes them."""
        found = []
        for worker in self.workers:
            for descriptor in Path(f"/proc/{worker.pid}/fd").iterdir():
                try:
                    target = os.readlink(descriptor)
                except OSError:
                    continue
                if target.startswith(str(self.prefix)):
                    found.append(target)
        return found

    async def stop(self) -> None:
        if self._process is None:
            return
        if self._process.returncode is None:
            self._process.terminate()
        await self._process.wait()
        if self._reading is not None:
            await self._reading


@asynccontextmanager
async def proxy(
    program: Path,
    services: Mapping[str, str] | str,
    *,
    changes: Changes | None = None,
    configuration: str = "nginx.conf",
    resolver: str = "",
) -> AsyncIterator[Nginx]:
    """A running nginx in front of the services; a URL means that all three are there. `configuration` is the main
    file; `resolver` is who knows the services' names.
    """
    if isinstance(services, str):
        services = dict.fromkeys(("tasks", "runs", "previews"), urlsplit(services).netloc)
    with tempfile.TemporaryDirectory(prefix="tr-nginx-") as directory:
        nginx = Nginx(program, Path(directory), services, changes or {}, resolver)
        try:
            await nginx.start(configuration)
            yield nginx
        finally:
            await nginx.stop()


# ── what stands behind it ──────────────────────────────────────────────────────────────────────────────────────


class Upstream:
    """A service of few words: it keeps each request as it came, and answers with `answer`; b"" hangs up."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"
        self.address = ""
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    @property
    def heads(self) -> list[dict[str, str]]:
        """The headers of each request; the request line is at ""."""
        return [_head(request) for request in self.requests]

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(_head(head).get("content-length", "0"))
            self.requests.append(head + await reader.readexactly(length))
            await self.may_answer.wait()
            writer.write(self.answer)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def _head(request: bytes) -> dict[str, str]:
    first, *lines = request.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    return {"": first, **{name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}}


@asynccontextmanager
async def upstream(host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Upstream]:
    behind = Upstream()
    async with await asyncio.start_server(behind.handle, host, port) as server:
        name, port = server.sockets[0].getsockname()[:2]
        behind.address = f"{name}:{port}"
        yield behind


class Names(asyncio.DatagramProtocol):
    """A resolver as Docker's is: it knows some names, says that they stay for ten minutes, and they do not."""

    def __init__(self) -> None:
        self.addresses: dict[str, list[str]] = {}
        self.asked = 0
        self.place = ""
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)  # what asyncio gives is no subclass of it
        host, port = transport.get_extra_info("sockname")[:2]
        self.place = f"{host}:{port}"

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self._transport is not None
        self.asked += 1
        name, end = [], 12
        while length := data[end]:
            name.append(data[end + 1 : end + 1 + length].decode())
            end += 1 + length
        found = self.addresses.get(".".join(name), [])
        code = 0x8180 if found else 0x8183  # no such name
        answers = b"".join(
            struct.pack(">HHHIH4s", 0xC00C, 1, 1, 600, 4, bytes(map(int, address.split(".")))) for address in found
        )
        header = data[:2] + struct.pack(">HHHHH", code, 1, len(found), 0, 0)
        self._transport.sendto(header + data[12 : end + 5] + answers, addr)


@asynccontextmanager
async def names() -> AsyncIterator[Names]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(Names, local_addr=("127.0.0.1", 0))
    try:
        yield protocol
    finally:
        transport.close()
