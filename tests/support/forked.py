"""Tailrace processes that are there at once: copies of one that has done its importing.

For tests that kill a service a hundred times. Of the 0.65 s that the command takes to start, 0.5 s are imports; what is
killed is the same program.
"""

import asyncio
import multiprocessing
import os
from collections.abc import Mapping
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess

from tests.support.server import START_SECONDS, Server


def context() -> ForkServerContext:
    """Where they are copied from."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["services.cli", "pytest", __name__])
    return found


class ForkedServer(Server):
    """Like Server; what it writes is not kept."""

    _copy: ForkServerProcess | None = None
    _told: Connection | None = None  # open for as long as it lives: it writes there

    async def start(self) -> None:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        arguments = (["serve", self.service], self.environment, theirs)
        self._copy = context().Process(target=_serve, args=arguments, daemon=True)
        self._copy.start()
        theirs.close()
        loop = asyncio.get_running_loop()
        up = asyncio.Event()
        loop.add_reader(ours.fileno(), up.set)
        try:
            async with asyncio.timeout(START_SECONDS):
                await up.wait()
            assert b"Tailrace is up" in os.read(ours.fileno(), 65536)
        finally:
            loop.remove_reader(ours.fileno())
            self._told = ours

    async def kill(self) -> None:
        """kill -9."""
        if self._copy is not None:
            self._copy.kill()
            self._copy.join()
        if self._told is not None:
            self._told.close()


def _serve(arguments: list[str], environment: Mapping[str, str], told: Connection) -> None:
    from services import cli

    os.environ.clear()
    os.environ.update(environment)
    os.dup2(told.fileno(), 1)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    raise SystemExit(cli.main(arguments))
