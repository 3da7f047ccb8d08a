"""The life of a preview: every change of its row, checked, together with the event that tells of it."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec
from msgspec import structs

from services.previews.events import SCHEMA, TERMINAL, Deleted, Isolation, PreviewState, PreviewStatus, Ready
from services.previews.model import NEXT, NewPreview, Preview, view
from services.previews.store import PreviewStore
from shared.channel.channel import Channel
from shared.channel.log import MAX_EVENT_BYTES, Outcome, Transaction
from shared.edge.idempotency import Answers, IdempotencyKey
from shared.edge.ids import new_id
from shared.edge.problems import Busy, Conflict, Missing
from shared.protocol.record import DELETED, Draft
from shared.protocol.schema import Event

NO_PREVIEW = "There is no such preview."

Address = Callable[[Preview], str]
"""The URL at which people open a preview."""


class Lifecycle:
    """Runs each change as a command of the channel, so that all changes of all processes happen one after another."""

    def __init__(
        self, channel: Channel, store: PreviewStore, host: str, isolation: Callable[[], Isolation], address: Address
    ) -> None:
        self._channel = channel
        self._store = store
        self.host = host
        self._isolation = isolation  # that of now; raises Unprocessable when nothing can be launched
        self.address = address
        self._answers = Answers("previews")

    # ── from outside ───────────────────────────────────────────────────────────────────────────────────────────

    async def create(
        self, new: NewPreview, *, quota: int, key: IdempotencyKey | None = None
    ) -> tuple[bytes, Preview | None]:
        """Store a new preview; return the JSON of its view, and the preview. With a key used before: what that
        returned, and none. Raise Conflict when its generation has an active one, Busy when its tenant has as many as
        it may, Unprocessable when nothing can be launched.
        """
        preview_id, isolation = new_id("prv"), self._isolation()

        async def change(tx: Transaction) -> Outcome[tuple[bytes, Preview | None]]:
            if key is not None and (answer := await self._answers.recall(tx, key)) is not None:
                return Outcome((answer, None))
            known = await self._store.of_generation(tx, new.tenant, new.generation_id, lock=True)
            if known is not None and not known.is_over:
                raise Conflict(
                    f"This generation has a preview that is {known.status}: stop it first, or use ?replace=true.",
                    preview_id=known.id,
                    preview_status=known.status,
                )
            await self._check_quota(tx, new.tenant, quota)
            now = await self._store.now(tx)
            preview = Preview(
                id=preview_id,
                tenant=new.tenant,
                owner=new.owner,
                generation_id=new.generation_id,
                host=self.host,
                status="preparing",
                kind=new.kind,
                recipe=new.recipe,
                file_names=sorted(new.files),
                isolation=isolation,
                attempt=1,
                exit=None,
                message=None,
                ready_after_ms=None,
                tail=(),
                created_at=now,
                started_at=None,
                stopped_at=None,
                expires_at=now + timedelta(seconds=new.recipe.ttl_seconds),
                revived_seq=0,
                moved_at=now,
                last_seq=tx.next_seq,
            )
            await self._store.insert(tx, preview)
            await self._store.save_files(tx, preview.id, new.files)
            answer = msgspec.json.encode(view(preview, tx.epoch, self.address(preview)))
            if key is not None:
                await self._answers.remember(tx, key, answer)
            return Outcome((answer, preview), [self._draft(preview, self._status(preview, now))])

        return (await self._channel.execute(change)).value

    async def is_answered(self, key: IdempotencyKey) -> bool:
        """Whether a launch with this key was taken. Raise Unprocessable when it was another one."""
        return await self._answers.recall(self._store.pool, key) is not None

    async def change_files(
        self, preview_id: str, changes: Mapping[str, str | None], check: Callable[[Mapping[str, str]], object]
    ) -> None:
        """Change the files with which the next attempt begins; None removes one. `check` is given all of them."""

        async def change(tx: Transaction) -> Outcome[None]:
            preview = await self._find(tx, preview_id)
            files = patched(await self._store.files(tx, preview_id), changes)
            check(files)
            await self._store.save(tx, structs.replace(preview, file_names=sorted(files)))
            await self._store.save_files(tx, preview_id, files)
            return Outcome(None)

        size = sum(len(text) for text in changes.values() if text is not None)
        await self._channel.execute(change, size=min(size, MAX_EVENT_BYTES))

    async def delete(self, preview_id: str) -> None:
        """Remove a preview that has ended, and its output from every read. Raise Conflict while it goes on."""

        async def change(tx: Transaction) -> Outcome[None]:
            preview = await self._find(tx, preview_id)
            if not preview.is_over:
                raise Conflict(f"The preview is {preview.status}: stop it first.", preview_status=preview.status)
            await self._store.delete(tx, preview)
            now = await self._store.now(tx)
            event = Deleted(tenant=preview.tenant, ts=now, preview_id=preview.id, generation_id=preview.generation_id)
            return Outcome(None, [self._draft(preview, event)])

        await self._channel.execute(change)

    # ── what becomes of it ─────────────────────────────────────────────────────────────────────────────────────

    async def move(self, preview_id: str, status: PreviewState, **told: Any) -> Preview:
        """The preview in its next status, with what is told of it. Raise Conflict for a move that is not allowed."""

        async def change(tx: Transaction) -> Outcome[Preview]:
            preview = await self._find(tx, preview_id)
            if preview.status == status:
                return Outcome(preview)  # told already: the answer to that was lost
            now = await self._store.now(tx)
            moved = _moved(preview, status, now, tx.next_seq, told)
            await self._store.save(tx, moved)
            return Outcome(moved, [self._draft(moved, self._status(moved, now))])

        return (await self._channel.execute(change)).value

    async def ready(self, preview_id: str, after_ms: int) -> Preview:
        """It has answered: running, and ready to be opened."""

        async def change(tx: Transaction) -> Outcome[Preview]:
            preview = await self._find(tx, preview_id)
            if preview.status == "running":
                return Outcome(preview)
            now = await self._store.now(tx)
            moved = _moved(preview, "running", now, tx.next_seq, {"ready_after_ms": after_ms})
            await self._store.save(tx, moved)
            ready = Ready(
                tenant=moved.tenant,
                ts=now,
                preview_id=moved.id,
                generation_id=moved.generation_id,
                url=self.address(moved),
                ready_after_ms=after_ms,
                attempt=moved.attempt,
            )
            drafts = [self._draft(moved, event) for event in (self._status(moved, now), ready)]
            return Outcome(moved, drafts)

        return (await self._channel.execute(change)).value

    async def revive(self, preview: Preview, *, quota: int) -> Preview:
        """The next attempt of a preview that has ended. Raise Conflict when it has been started again already, or the
        generation has another preview by now; Busy when its tenant has as many as it may.
        """
        return await self._again(preview, quota)

    async def again(self, preview: Preview) -> Preview:
        """The next attempt of a preview that is about to end; the same if that was told already."""
        return await self._again(preview, None)

    async def _again(self, known: Preview, quota: int | None) -> Preview:
        isolation = self._isolation()

        async def change(tx: Transaction) -> Outcome[Preview]:
            preview = await self._find(tx, known.id)
            if quota is None and (preview.status, preview.attempt) == ("preparing", known.attempt + 1):
                return Outcome(preview)  # the answer to that was lost
            if quota is not None and not preview.is_over:
                raise Conflict(f"The preview is {preview.status} already.", preview_status=preview.status)
            newest = await self._store.of_generation(tx, preview.tenant, preview.generation_id)
            if newest is not None and newest.id != preview.id and not newest.is_over:
                raise Conflict("This generation has another preview by now.", preview_id=newest.id)
            if quota is not None:
                await self._check_quota(tx, preview.tenant, quota)
            now = await self._store.now(tx)
            told = {
                "attempt": preview.attempt + 1,
                "host": self.host,
                "isolation": isolation,
                "exit": None,
                "message": None,
                "ready_after_ms": None,
                "tail": (),
                "started_at": None,
                "stopped_at": None,
                "expires_at": now + timedelta(seconds=preview.recipe.ttl_seconds),
                "revived_seq": tx.next_seq,
            }
            moved = _moved(preview, "preparing", now, tx.next_seq, told)
            await self._store.save(tx, moved)
            return Outcome(moved, [self._draft(moved, self._status(moved, now))])

        return (await self._channel.execute(change)).value

    # ── together ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _check_quota(self, tx: Transaction, tenant: str, quota: int) -> None:
        if await self._store.count_active(tx, tenant) >= quota:
            raise Busy(f"this tenant has {quota} previews running; stop one first", retry_after_seconds=5)

    async def _find(self, tx: Transaction, preview_id: str) -> Preview:
        preview = await self._store.get(tx, preview_id, lock=True)
        if preview is None:
            raise Missing(NO_PREVIEW)
        return preview

    def status_draft(self, preview: Preview) -> Draft:
        """The event that told of its newest status."""
        return self._draft(preview, self._status(preview, preview.moved_at))

    def _status(self, preview: Preview, now: datetime) -> PreviewStatus:
        return PreviewStatus(
            tenant=preview.tenant,
            ts=now,
            preview_id=preview.id,
            generation_id=preview.generation_id,
            status=preview.status,
            kind=preview.kind,
            attempt=preview.attempt,
            isolation=preview.isolation,
            url=self.address(preview),
            exit=preview.exit,
            ready_after_ms=preview.ready_after_ms,
            message=preview.message,
            expires_at=preview.expires_at,
        )

    @staticmethod
    def _draft(preview: Preview, event: Event) -> Draft:
        built = SCHEMA.built(event)
        ends = DELETED if isinstance(event, Deleted) else preview.status if preview.is_over else None
        return Draft(type=built.type, tenant=preview.tenant, subject=preview.subject, ends=ends, data=built.data)


def patched(files: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """The files after these changes; None removes one."""
    return {name: text for name, text in {**files, **changes}.items() if text is not None}


def _moved(preview: Preview, status: PreviewState, now: datetime, seq: int, told: Mapping[str, Any]) -> Preview:
    """Raise Conflict for a move that is not allowed."""
    if status not in NEXT[preview.status]:
        raise Conflict(f"A preview that is {preview.status} cannot become {status}.", preview_status=preview.status)
    times: dict[str, Any] = {}
    if status == "starting":
        times["started_at"] = now
    elif status in TERMINAL:
        times |= {"stopped_at": now, "expires_at": None}
    return structs.replace(preview, status=status, moved_at=now, last_seq=seq, **{**times, **told})
