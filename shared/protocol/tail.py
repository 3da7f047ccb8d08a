"""The recent events of one filter, as a process keeps them in memory."""

from bisect import bisect_right

from shared.protocol.filter import Filter
from shared.protocol.record import OVERHEAD_BYTES, Record

_COMPACT_AFTER = 512  # evicted places at the front of the list before it is rebuilt


class Tail:
    """Complete for its filter after `floor`: every event that the filter wants and whose seq is above it is here.

    Bytes are bounded by the owner, which calls `evict` oldest first. `total_bytes` counts all that was ever appended,
    so that the distance of two readers in bytes is a subtraction.
    """

    __slots__ = ("_first", "_records", "filter", "floor", "total_bytes")

    def __init__(self, filter: Filter, floor: int) -> None:
        self.filter = filter
        self.floor = floor
        self.total_bytes = 0
        self._records: list[Record] = []
        self._first = 0

    @property
    def last_seq(self) -> int:
        """The seq of the newest event here; `floor` when there is none."""
        return self._records[-1].seq if len(self._records) > self._first else self.floor

    def append(self, record: Record) -> None:
        """Take the next wanted event. Its seq must be above all before."""
        self._records.append(record)
        self.total_bytes += record.size

    def evict(self, record: Record) -> None:
        """Forget `record`, which must be the oldest one here; the tail is complete only after it from now on."""
        assert self._records[self._first] is record
        self._records[self._first] = None  # type: ignore[call-overload]  # lets the record go before the list is rebuilt
        self._first += 1
        self.floor = record.seq
        if self._first >= _COMPACT_AFTER and self._first * 2 > len(self._records):
            del self._records[: self._first]
            self._first = 0

    def after(self, seq: int, upto: int, max_bytes: int, *, overhead: int = OVERHEAD_BYTES) -> list[Record]:
        """The events above `seq` and not above `upto`, in order: at least one if there is one, then up to `max_bytes`.

        `overhead` is what an event counts beside its data. Only meaningful for `seq >= floor`.
        """
        records = self._records
        index = len(records)
        if index > self._first and records[-1].seq > seq:
            index = bisect_right(records, seq, lo=self._first, key=_seq_of)
        taken: list[Record] = []
        size = 0
        for place in range(index, len(records)):  # a slice would copy all that a reader far behind does not get
            record = records[place]
            size += len(record.data) + overhead
            if record.seq > upto or (taken and size > max_bytes):
                break
            taken.append(record)
        return taken


def _seq_of(record: Record) -> int:
    return record.seq
