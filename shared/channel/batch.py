"""A batch: what a reader gets next, shared by all readers at the same place."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from shared.protocol.control import Gap
from shared.protocol.record import Record

T = TypeVar("T")


class Batch:
    """The shown events (and gaps) above `after`, all of them up to `upto`.

    `ends` is the subject's terminal status when the batch reaches the subject's end. `rendered` remembers what a
    transport made of it, by format, so that equal readers share the same bytes.
    """

    __slots__ = ("after", "ends", "epoch", "items", "rendered", "size", "upto")

    def __init__(
        self, epoch: str, after: int, upto: int, items: Sequence[Record | Gap], *, size: int, ends: str | None = None
    ) -> None:
        self.epoch = epoch
        self.after = after
        self.upto = upto
        self.items = items
        self.size = size
        self.ends = ends
        self.rendered: dict[object, object] = {}

    def render(self, key: object, make: Callable[["Batch"], T]) -> T:
        """What `make` returns for this batch; made once per `key`."""
        made = self.rendered.get(key)
        if made is None:
            made = self.rendered[key] = make(self)
        return made  # type: ignore[return-value]  # a key always goes with the same make
