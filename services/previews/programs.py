"""All programs of this process: started, found again by the id of their preview, and ended with it."""

import asyncio

from services.previews.capture import CaptureLimits
from services.previews.logs import Logs
from services.previews.model import Preview
from services.previews.program import Program, Surroundings
from services.previews.store import PreviewStore
from services.previews.writer import Source, Writer
from shared.channel.channel import Channel
from shared.channel.reader import patiently

STOP_SECONDS = 1.9  # of the 2 that a service has


class Programs:
    """A preview that goes on according to the database, and is not here, was lost with an earlier process."""

    def __init__(
        self,
        channel: Channel,
        store: PreviewStore,
        *,
        logs: Logs,
        around: Surroundings,
        limits: CaptureLimits,
        host: str,
    ) -> None:
        self._channel = channel
        self._store = store
        self._logs = logs
        self._around = around
        self._limits = limits
        self._host = host
        self._running: dict[str, Program] = {}
        self._closing = False

    async def start(self) -> None:
        """Say of previews whose programs were left by an earlier process that they are lost; they have been ended."""
        for preview_id in await self._store.active_on(self._store.pool, self._host):
            message = "the service was gone, and has ended it now that it is back"
            await self._around.lifecycle.move(preview_id, "lost", message=message)

    async def close(self) -> None:
        """End them all; the service is shutting down."""
        self._closing = True
        programs = tuple(self._running.values())
        for program in programs:
            program.ask("shutdown")
        if programs:
            await asyncio.wait([asyncio.create_task(program.ended()) for program in programs], timeout=STOP_SECONDS)

    def get(self, preview_id: str) -> Program | None:
        """The program of a preview, if it is here."""
        return self._running.get(preview_id)

    def launch(self, preview: Preview) -> None:
        """Start a preview's program, whose status is `preparing`; after what is left here of an attempt before."""
        before = self._running.get(preview.id)

        async def prepare() -> Writer:
            if before is not None:
                await before.ended()
            kept = await patiently(lambda: self._logs.kept(preview.subject))
            source = Source(preview.tenant, preview.id, preview.generation_id)
            return Writer(self._channel, self._store.pool, "previews", source, self._limits, kept=kept)

        self._running[preview.id] = program = Program(preview, prepare, self._around)
        program.start(lambda: self._forget(program))
        if self._closing:
            program.ask("shutdown")

    def _forget(self, program: Program) -> None:
        if self._running.get(program.preview.id) is program:
            del self._running[program.preview.id]
