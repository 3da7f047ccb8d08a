"""A batch: what a reader gets next, shared by all readers at the same place."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from shared.channel.log import Page
from shared.protocol.control import Gap
from shared.protocol.filter import Filter
from shared.protocol.record import Record

T = TypeVar("T")


class Batch:
    """The shown events (and gaps) above `after`, all of them up to `upto`.

    `end` is the event that ends the subject, when the batch reaches it; it may be hidden. `conflated` counts the events
    left out for a newer one, where a reader lags. `rendered` remembers what a transport made of it, by format, so that
    equal readers share the same bytes.
    """

    __slots__ = ("after", "conflated", "count", "end", "epoch", "items", "last_seq", "rendered", "size", "upto")

    def __init__(
        self,
        epoch: str,
        after: int,
        upto: int,
        items: Sequence[Record | Gap],
        *,
        size: int = 0,
        end: Record | None = None,
        conflated: int = 0,
    ) -> None:
        self.epoch = epoch
        self.after = after
        self.upto = upto
        self.items = items
        self.count = len(items)
        self.conflated = conflated
        last = items[-1] if items else None
        self.last_seq = upto if last is None else last.to_seq if isinstance(last, Gap) else last.seq
        self.size = size
        self.end = end
        self.rendered: dict[object, object] = {}

    @property
    def ends(self) -> str | None:
        """The subject's terminal status when it ends here."""
        return None if self.end is None else self.end.ends

    def render(self, key: object, make: Callable[["Batch"], T]) -> T:
        """What `make` returns for this batch; made once per `key`."""
        made = self.rendered.get(key)
        if made is None:
            made = self.rendered[key] = make(self)
        return made  # type: ignore[return-value]  # a key always goes with the same make


def batches(filter: Filter, epoch: str, after: int, page: Page, max_bytes: int) -> tuple[Batch, ...]:
    """A page of the log above `after`, as batches of about `max_bytes`; at least one."""
    made: list[Batch] = []
    part: list[Record] = []
    size = 0
    for record in page.records:
        if part and size + record.size > max_bytes:
            made.append(batch_of(filter, epoch, after, part, part[-1].seq))
            after, part, size = part[-1].seq, [], 0
        part.append(record)
        size += record.size
    made.append(batch_of(filter, epoch, after, part, page.scanned_to))
    return tuple(made)


def batch_of(filter: Filter, epoch: str, after: int, records: Sequence[Record], upto: int) -> Batch:
    """One batch of what the filter wants: it shows all but an end that its types hide."""
    shown = [record for record in records if record.ends is None or filter.shows(record)]
    end = next((record for record in records if filter.is_end(record)), None)
    return Batch(epoch, after, upto, shown, size=sum(record.size for record in records), end=end)


def cut(batch: Batch, upto: int) -> Batch:
    """The part of a batch up to `upto`."""
    items = [item for item in batch.items if isinstance(item, Record) and item.seq <= upto]
    end = batch.end if batch.end is not None and batch.end.seq <= upto else None
    return Batch(batch.epoch, batch.after, upto, items, size=sum(item.size for item in items), end=end)
