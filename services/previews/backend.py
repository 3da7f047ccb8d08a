"""What the handlers of the previews service work with."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec

from services.previews.filemap import FileLimits, FilesRefused, check_files
from services.previews.lifecycle import NO_PREVIEW, Lifecycle, patched
from services.previews.logs import Logs
from services.previews.model import NewPreview, Preview, PreviewView, view
from services.previews.owners import check_owner
from services.previews.programs import Programs
from services.previews.store import PreviewStore
from services.previews.subscriptions import Subscriptions
from shared.channel.channel import Channel
from shared.edge.idempotency import IdempotencyKey
from shared.edge.principal import Principal
from shared.edge.problems import BadInput, Conflict, Missing
from shared.edge.streams import Streams

REPLACE_SECONDS = 15.0  # a program that is told to stop has 5, and is killed then


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """Made once by the composition root."""

    channel: Channel
    store: PreviewStore
    lifecycle: Lifecycle
    programs: Programs
    logs: Logs
    subscriptions: Subscriptions
    streams: Streams
    file_limits: FileLimits
    quota: int
    ttl_seconds: float
    network: bool  # whether a program may be given that of this machine
    launching: Counter[tuple[str, str]] = field(default_factory=Counter)  # tenants' generations

    def shown(self, preview: Preview) -> PreviewView:
        return view(preview, self.channel.state.epoch, self.lifecycle.address(preview))

    async def launch(
        self, new: NewPreview, key: IdempotencyKey | None, principal: Principal, *, replace: bool
    ) -> PreviewView:
        """Store a preview and start its program, in the place of an active one if `replace`. With a key that was used
        before: the first answer. Raise Conflict, Busy, Unprocessable, and Forbidden when the active one is another's.
        """
        if replace and (key is None or not await self.lifecycle.is_answered(key)):
            await self._replace(principal, new.generation_id)
        with self._launching(new.tenant, new.generation_id):
            answer, preview = await self.lifecycle.create(new, quota=self.quota, key=key)
            shown = msgspec.json.decode(answer, type=PreviewView)
            if preview is None:
                preview = await self._cut_short(shown)
            if preview is not None:
                self.programs.launch(preview)
        return shown

    async def _cut_short(self, shown: PreviewView) -> Preview | None:
        """The preview of a repeated launch, if the first was stored and did not come to its program."""
        alone = self.launching[shown.tenant, shown.generation_id] == 1
        preview = await self.store.get(self.store.pool, shown.id)
        if preview is None or preview.status != "preparing" or preview.host != self.lifecycle.host:
            return None
        return preview if alone and self.programs.get(preview.id) is None else None

    async def _replace(self, principal: Principal, generation_id: str) -> None:
        """End the generation's active preview, if it has one."""
        preview = await self.store.of_generation(self.store.pool, principal.tenant, generation_id)
        if preview is None or preview.is_over:
            return
        check_owner(principal, preview.owner)
        program = self.programs.get(preview.id)
        if program is None:
            await self._give_up(preview)
            return
        program.ask("stop")
        try:
            async with asyncio.timeout(REPLACE_SECONDS):
                await program.ended()
        except TimeoutError:
            raise Conflict("The preview that is to be replaced does not end; try again.") from None

    async def stop(self, preview: Preview) -> Preview:
        """Ask an active preview to stop."""
        program = self.programs.get(preview.id)
        if program is None:
            return await self._give_up(preview)
        program.ask("stop")
        return await self._again(preview)

    async def restart(self, preview: Preview) -> Preview:
        """Ask an active preview to start again; start one that has ended."""
        program = self.programs.get(preview.id)
        if not preview.is_over and program is not None:
            program.ask("restart")
            return await self._again(preview)
        if not preview.is_over:
            preview = await self._give_up(preview)
        with self._launching(preview.tenant, preview.generation_id):
            preview = await self.lifecycle.revive(preview, quota=self.quota)
            self.programs.launch(preview)
        return preview

    async def change_files(self, preview: Preview, changes: Mapping[str, str | None]) -> Preview:
        """Change files where the program runs, and what its next attempt begins with."""
        files = await self.store.files(self.store.pool, preview.id)
        self.check_files(patched(files, changes))
        program = self.programs.get(preview.id)
        try:
            if program is not None:
                await program.change_files(changes)
        except FilesRefused as error:
            raise BadInput(f"{error}. Nothing was changed.") from None
        await self.lifecycle.change_files(preview.id, changes, self.check_files)
        return await self._again(preview)

    async def _again(self, preview: Preview) -> Preview:
        found = await self.store.get(self.store.pool, preview.id)
        if found is None:
            raise Missing(NO_PREVIEW)
        return found

    def check_files(self, files: Mapping[str, str]) -> None:
        """Raise BadInput for files that cannot be taken, any of them."""
        try:
            check_files(files, self.file_limits)
        except FilesRefused as error:
            raise BadInput(f"files: {error}. Nothing was stored.") from None

    @contextmanager
    def _launching(self, tenant: str, generation_id: str) -> Iterator[None]:
        self.launching[tenant, generation_id] += 1
        try:
            yield
        finally:
            self.launching.subtract([(tenant, generation_id)])
            if not self.launching[tenant, generation_id]:
                del self.launching[tenant, generation_id]

    async def _give_up(self, preview: Preview) -> Preview:
        """An active preview that has no program here: its launch was stored, but the answer to that was lost. Raise
        Conflict when it is being launched just now, or somewhere else.
        """
        if self.launching[preview.tenant, preview.generation_id]:
            raise Conflict("The preview is being launched; try again.", preview_status=preview.status)
        if preview.host != self.lifecycle.host:
            raise Conflict("The preview is on another host.", preview_status=preview.status)
        return await self.lifecycle.move(preview.id, "lost", message="its launch was cut short")
