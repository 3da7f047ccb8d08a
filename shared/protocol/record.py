"""An event as the log keeps it: routing columns beside the JSON that every transport sends."""

from typing import Self

from msgspec import Struct

DELETED = "deleted"  # `ends` of the event that says that its subject is gone, and all its other events with it
OVERHEAD_BYTES = 400  # what a Record costs in memory beside its data (measured with sys.getsizeof, rounded up)


class Draft(Struct, frozen=True, kw_only=True, gc=False):
    """An event that has not got its place in the log yet.

    `data` is the event's JSON, encoded once. `subject` is `<kind>/<id>`. `session` and `worker` index it under
    those. `ends` is the subject's terminal status when this event ends the subject, else None.
    """

    type: str
    tenant: str
    subject: str
    data: bytes
    session: str | None = None
    worker: str | None = None
    ends: str | None = None


class Record(Draft, frozen=True, kw_only=True, gc=False):
    """An event at its place `seq` in the log."""

    seq: int

    @classmethod
    def of(cls, seq: int, draft: Draft) -> Self:
        return cls(  # field by field, for every event passes here: a dict between costs four times as much
            seq=seq,
            type=draft.type,
            tenant=draft.tenant,
            subject=draft.subject,
            data=draft.data,
            session=draft.session,
            worker=draft.worker,
            ends=draft.ends,
        )

    @property
    def size(self) -> int:
        """Bytes it is counted with against every bound."""
        return len(self.data) + OVERHEAD_BYTES
