"""The PostgreSQL behind the durable contenders: one server with the product's own durable settings, one database each.

Its CPU time is nobody's figure; it shares the machine with what is measured, as it would with a small installation.
"""

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import asyncpg

from shared.channel.embedded import EmbeddedPostgres
from tests.bench.contenders import Contender


class Databases:
    """Starts the server when it is first needed; everything is removed at the end."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._directory = tempfile.TemporaryDirectory(prefix="tailrace-bench-", ignore_cleanup_errors=True)
        self._server = EmbeddedPostgres(Path(self._directory.name) / "postgres")
        self._url = ""
        self._made = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(self._server.stop())
        self._runner.close()
        self._directory.cleanup()

    def equip(self, contender: Contender) -> Contender:
        """The contender with a fresh database of its own, if it keeps its events in one."""
        if not contender.durable:
            return contender
        return replace(contender, env={**contender.env, "TAILRACE_DATABASE_URL": self.create()})

    def create(self) -> str:
        """The URI of a fresh database."""
        return self._runner.run(self._create())

    async def _create(self) -> str:
        if not self._url:
            Path(self._directory.name).chmod(0o755)  # root's PostgreSQL runs as another user
            self._url = await self._server.start()
        self._made += 1
        connection = await asyncpg.connect(self._url)
        try:
            await connection.execute(f"CREATE DATABASE bench_{self._made}")
        finally:
            await connection.close()
        return urlsplit(self._url)._replace(path=f"/bench_{self._made}").geturl()
