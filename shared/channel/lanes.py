"""Lanes: readers parked at the same place, to whose sockets the same bytes go, are one to the fan-out.

A reader in a lane costs one `send` a delivery, and nothing else of it is touched: how far it has come is the lane's
affair, and becomes its own again when it leaves.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from shared.channel.batch import Batch
from shared.protocol.tail import Tail

if TYPE_CHECKING:  # readers are in lanes, and know which
    from shared.channel.reader import Reader

READERS_PER_LANE = 128  # it is served in one step, a quarter of a millisecond or so: hence the one position of all


Send = Callable[[bytes], int]  # how much was taken; OSError: nothing. Never waits


class Sharing(Protocol):
    """The owner of a reader in a lane, which it makes leave (`rouse`) before its socket must not be written to: not one
    more object than the transport is looked at for a delivery. Equal `format`s make equal bytes.
    """

    @property
    def format(self) -> object: ...

    @property
    def send(self) -> Send: ...

    def write(self, rest: bytes) -> None:
        """Take what `send` did not."""
        ...

    def render(self, batch: Batch) -> bytes:
        """The bytes that carry the batch, for every owner with an equal format."""
        ...

    def joined(self, lane: "Lane") -> None:
        """From now on the lane counts what is sent."""
        ...

    def left(self, lane: "Lane") -> None:
        """What the lane has counted meanwhile is the owner's."""
        ...


class Lane:
    """Readers of one tail and format that have seen the log up to `position`, and what was sent to all of them:
    `events`, the last at `last_seq`, at the time `last_write`.
    """

    __slots__ = ("events", "format", "last_seq", "last_write", "members", "position", "read_bytes", "tail")

    def __init__(self, tail: Tail, format: object, position: int) -> None:
        self.tail = tail
        self.format = format
        self.position = position
        self.read_bytes = tail.total_bytes
        self.members: dict[Reader, Send] = {}
        self.events = 0
        self.last_seq = 0
        self.last_write = 0.0

    @property
    def is_at_rest(self) -> bool:
        """Whether its members have all of the tail. Then they may as well stand where any other reader stands that has
        it all: what lies between is not wanted.
        """
        return self.position >= self.tail.last_seq

    def has_room_for(self, readers: int) -> bool:
        return self.is_at_rest and len(self.members) + readers <= READERS_PER_LANE

    def join(self, reader: "Reader", owner: Sharing) -> None:
        """Take in a reader that has all of the tail, while the lane is at rest."""
        self.position = max(self.position, reader.position)
        self.members[reader] = owner.send
        reader.lane, reader.sharing = self, owner
        owner.joined(self)

    def leave(self, reader: "Reader") -> None:
        """The reader goes on by itself from here."""
        del self.members[reader]
        owner, reader.lane, reader.sharing = reader.sharing, None, None
        reader.position, reader.read_bytes = self.position, self.read_bytes
        assert owner is not None
        owner.left(self)

    def absorb(self, other: "Lane") -> None:
        """Take in the readers of another lane; both are at rest."""
        for reader in tuple(other.members):
            owner = reader.sharing
            assert owner is not None
            other.leave(reader)
            self.join(reader, owner)

    def deliver(self, batch: Batch, now: float) -> None:
        """Send the batch to all. That may make a reader leave: it has got the batch."""
        self.position = batch.upto
        self.read_bytes += batch.size
        if batch.count:
            self.events += batch.count
            self.last_seq, self.last_write = batch.last_seq, now
            wire = self._wire(batch)
            size = len(wire)
            for send in tuple(self.members.values()):
                try:
                    sent = send(wire)
                except OSError:  # it is full, or broken, which is found out when the rest is written
                    sent = 0
                if sent != size:
                    self._write_rest(send, wire[sent:])

    def _wire(self, batch: Batch) -> bytes:
        owner = next(iter(self.members)).sharing
        assert owner is not None
        return batch.render(self.format, owner.render)

    def _write_rest(self, send: Send, rest: bytes) -> None:
        reader = next(reader for reader, its in self.members.items() if its is send)
        assert reader.sharing is not None
        try:
            reader.sharing.write(rest)
        except Exception as error:  # noqa: BLE001  whatever it is, it is this reader's alone
            reader.fail(error)
