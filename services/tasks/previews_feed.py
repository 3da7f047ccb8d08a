"""The previews feed: tasks show how the preview of their generation stands."""

from collections.abc import Sequence
from typing import Any

from services.tasks.feed import Effects, FeedConsumer, Source
from services.tasks.feeds import Feeds
from services.tasks.lifecycle import draft_of, renewed
from services.tasks.store import PreviewTold, TaskStore
from shared.channel.channel import Channel
from shared.channel.log import Outcome, Transaction
from shared.client import Client, Received
from shared.protocol.position import Position
from shared.protocol.record import Draft
from shared.protocol.schema import Event, Schema


class PreviewStatus(Event, frozen=True, kw_only=True, tag="preview_status"):
    """What this service reads of the previews service's `preview_status` events."""

    preview_id: str
    generation_id: str
    status: str


class Deleted(Event, frozen=True, kw_only=True, tag="deleted"):
    """The preview is gone."""

    preview_id: str
    generation_id: str


SOURCE = Source("previews", "/api/v1/previews", Schema([PreviewStatus, Deleted]), ("preview_status", "deleted"))


class PreviewsFeed(FeedConsumer):
    """Keeps the status of each generation's newest preview, and shows it on the generation's tasks, ended ones too."""

    def __init__(self, channel: Channel, store: TaskStore, feeds: Feeds, client: Client) -> None:
        super().__init__(SOURCE, channel, store.pool, feeds, client)
        self._store = store

    async def effects(self, events: Sequence[Received]) -> Effects:
        told = []
        for received in events:
            event = received.event
            if isinstance(event, PreviewStatus | Deleted):
                status = event.status if isinstance(event, PreviewStatus) else None
                position = Position.parse(received.position)
                told.append(PreviewTold(event.tenant, event.generation_id, event.preview_id, status, position))
        return lambda tx: self._show(tx, told)

    async def read_anew(self, as_of: Position) -> None:
        """All previews as they are now; of those that are not there any more, that they are gone."""
        await self.commit(self._doubt)
        async for page in self.pages():
            told = [_told(preview) for preview in reversed(page)]
            await self.commit(lambda tx, told=told: self._show(tx, told))  # type: ignore[misc]  # bound now, not later
        gone = await self._store.doubted_previews(self.rows, as_of)
        await self.commit(lambda tx: self._show(tx, gone))

    async def _doubt(self, tx: Transaction) -> Outcome[list[str]]:
        await self._store.doubt_previews(tx)
        return Outcome([])

    async def _show(self, tx: Transaction, told: Sequence[PreviewTold]) -> Outcome[list[str]]:
        newest: dict[tuple[str, str], PreviewTold] = {}
        for one in told:
            if await self._store.tell_preview(tx, one):
                newest[one.tenant, one.generation_id] = one
        drafts: list[Draft] = []
        now = await self._store.now(tx)
        for one in newest.values():
            for task in await self._store.of_generation(tx, one.tenant, one.generation_id):
                if task.preview_status != one.status:
                    saved = renewed(task, {"preview_status": one.status}, tx.next_seq + len(drafts), now)
                    await self._store.save(tx, saved)
                    drafts.append(draft_of(saved))
        return Outcome([], drafts)


def _told(preview: dict[str, Any]) -> PreviewTold:
    position = Position.parse(preview["last_position"])
    return PreviewTold(preview["tenant"], preview["generation_id"], preview["id"], preview["status"], position)
