"""Sessions: the agent event bus. A session is an id; it exists as soon as somebody publishes into it."""

from collections.abc import Sequence

from msgspec import Struct

from services.runs.events import worker_of
from services.runs.producers import already_stored, is_repeat
from services.runs.store import RunStore
from shared.channel.channel import Channel
from shared.channel.log import Outcome, Transaction
from shared.protocol.record import Draft
from shared.protocol.schema import Built


class Published(Struct, frozen=True):
    """`stored` counts the new events, repeats are not among them; `position` is that of the newest."""

    stored: int
    position: str
    next_producer_seq: int | None


def subject_of(session_id: str) -> str:
    return f"session/{session_id}"


class Sessions:
    """Publishing into sessions."""

    def __init__(self, channel: Channel, store: RunStore) -> None:
        self._channel = channel
        self._store = store

    async def publish(
        self, tenant: str, session_id: str, events: Sequence[Built], *, producer: str | None, producer_seq: int | None
    ) -> Published:
        """Store events: all of them or none; of a partial repeat the new part."""
        drafts = [_draft(tenant, session_id, built) for built in events]
        if producer is None or producer_seq is None:
            plain = await self._channel.publish(drafts)
            return Published(len(drafts), str(plain.last), None)

        async def change(tx: Transaction) -> Outcome[tuple[int, int | None]]:
            subject = subject_of(session_id)
            expected = await self._store.next_producer_seq(tx, tenant, subject, producer)
            if is_repeat(expected, producer_seq, len(drafts)):
                return Outcome((0, expected))
            new = drafts[already_stored(expected, producer_seq, producer) :]
            await self._store.save_producer(tx, tenant, subject, producer, producer_seq + len(drafts))
            return Outcome((len(new), producer_seq + len(drafts)), new)

        done = await self._channel.execute(change)
        stored, next_seq = done.value
        return Published(stored, str(done.last), next_seq)


def _draft(tenant: str, session_id: str, built: Built) -> Draft:
    return Draft(
        type=built.type,
        tenant=tenant,
        subject=subject_of(session_id),
        session=session_id,
        worker=worker_of(built.event),
        data=built.data,
    )
