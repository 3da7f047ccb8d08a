"""A TCP proxy that cuts connections where a test wants it to: after any number of bytes, in either direction."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import urlsplit

Budget = Callable[[], int | None]


def endless() -> int | None:
    """No cut."""
    return None


def up_to(dice: random.Random, most: int) -> Budget:
    """A cut after so many bytes at most, anywhere."""
    return lambda: dice.randint(0, most)


class CuttingProxy:
    """`answers` and `requests` say of each new connection after how many bytes from and to the server it is cut.

    A request with a budget for answers of 0 arrives, and its answer does not.
    """

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "", parts.port or 80)
        self.url = ""
        self.answers: Budget = endless
        self.requests: Budget = endless
        self.refuse = 0  # so many connections more are cut at once
        self.connections = 0
        self.cuts = 0
        self.open = 0
        self.passed_down = 0
        self._changed = asyncio.Event()
        self._handlers: set[asyncio.Task[None]] = set()
        self._frozen = False
        self._thawed = asyncio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so; looked at whenever a connection or a byte has come or gone."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    def cut_all(self) -> None:
        """Cut what is open now."""
        for handler in self._handlers:
            handler.cancel()

    def freeze(self) -> None:
        """Pass nothing on, and cut nothing: a peer that has vanished without a word."""
        self._frozen = True
        self._thawed.clear()

    def thaw(self) -> None:
        self._frozen = False
        self._thawed.set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A plain function: a task that is cancelled before its first step would leave its connection open."""
        task = asyncio.create_task(self._handle(reader, writer))
        self._handlers.add(task)
        task.add_done_callback(partial(self._handled, writer))
        self.connections += 1
        self.open += 1
        self._changed.set()

    def _handled(self, writer: asyncio.StreamWriter, task: "asyncio.Task[None]") -> None:
        writer.transport.abort()
        self._handlers.discard(task)
        self.cuts += task.cancelled()
        self.open -= 1
        self._changed.set()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse > 0:
            self.refuse -= 1
            self.cuts += 1
            return
        with contextlib.suppress(OSError):
            await self._pass_on(reader, writer)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(*self._upstream, limit=64 * 1024)
        pumps = [
            asyncio.create_task(self._pump(reader, up_writer, self.requests())),
            asyncio.create_task(self._pump(up_reader, writer, self.answers(), down=True)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            up_writer.transport.abort()
            for pump in pumps:
                pump.cancel()
            await asyncio.wait(pumps)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: int | None, *, down: bool = False
    ) -> None:
        """Until the end, or until so many bytes have passed: what is left of them is lost."""
        with contextlib.suppress(OSError):
            writer.transport.set_write_buffer_limits(0)  # after a drain all has gone
            while data := await reader.read(16 * 1024):
                if self._frozen:
                    await self._thawed.wait()
                passed = data if budget is None else data[:budget]
                writer.write(passed)
                await writer.drain()
                if down:
                    self.passed_down += len(passed)
                    self._changed.set()
                if budget is not None:
                    budget -= len(data)
                    if budget < 0:
                        self.cuts += 1
                        break
            if writer.can_write_eof():
                writer.write_eof()

    async def close(self) -> None:
        self.cut_all()
        if self._handlers:
            await asyncio.wait(tuple(self._handlers))


@asynccontextmanager
async def cutting_proxy(upstream: str) -> AsyncIterator[CuttingProxy]:
    """A proxy that listens at `url`."""
    proxy = CuttingProxy(upstream)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0, limit=64 * 1024)
    host, port = server.sockets[0].getsockname()[:2]
    proxy.url = f"http://{host}:{port}"
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()
