"""How long a peer is waited for, and how many may be: uvicorn waits without end for a request that is never finished,
a body that never comes, an answer that is never read.

A connection waits in a queue for what its peer has to do next. All in a queue get the same time, so the first in it is
the first whose time is up: entering and leaving cost one dictionary operation each, and nobody needs a timer. When all
places are taken, who has waited longest without a complete request makes room: those who say nothing keep nobody out.
"""

import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from shared.edge import metrics
from shared.edge.rates import address_key

KEEP_ALIVE_SECONDS = 75.0
FAREWELL_SECONDS = 2.0  # for a peer that is sent away to read why, before what it still sends is met by a reset
BODY_BYTES_PER_SECOND = 1024  # slower bodies are given up
BODIES_AT_ONCE = 64  # so many of the largest may be on their way
DISMISSED_AT_ONCE = 500  # in one look, which takes 10 ms then


class Peer(Protocol):
    """The other side of a connection, as the protocol that speaks with it."""

    def overdue(self, queue: "Queue") -> None:
        """Its time in `queue` is up, and it is in it no longer."""
        ...

    def make_room(self) -> None:
        """End the connection at once: another needs the place."""
        ...


class Queue:
    """Peers that are waited for, the longest first."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._until: dict[Peer, float] = {}

    @property
    def seconds(self) -> float:
        return self._seconds

    def __contains__(self, peer: Peer) -> bool:
        return peer in self._until

    def __len__(self) -> int:
        return len(self._until)

    def enter(self, peer: Peer) -> None:
        """Begin to wait. A peer that is waited for already keeps its time."""
        if peer not in self._until:
            self._until[peer] = self._clock() + self._seconds

    def leave(self, peer: Peer) -> None:
        self._until.pop(peer, None)

    def first(self) -> Peer | None:
        """Who has waited longest."""
        return next(iter(self._until), None)

    def take_due(self, most: int) -> list[Peer]:
        """Those whose time is up, at most so many. They are taken out."""
        now = self._clock()
        due: list[Peer] = []
        for peer, until in self._until.items():
            if until > now or len(due) == most:
                break
            due.append(peer)
        for peer in due:
            del self._until[peer]
        return due


class Peers:
    """The connections of a process: how many there are, and which of them wait for what.

    `request_seconds` is the time for the head of a request, for the rest of a WebSocket message, and the span over
    which a body's pace is judged; `unread_seconds` that in which a socket must take something of what it is sent.
    """

    def __init__(
        self,
        *,
        request_seconds: float,
        unread_seconds: float,
        per_process: int,
        per_address: int,
        body_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.heads = Queue(request_seconds, clock)
        self.bodies = Queue(request_seconds, clock)
        self.messages = Queue(request_seconds, clock)
        self.idle = Queue(KEEP_ALIVE_SECONDS, clock)
        self.unread = Queue(unread_seconds, clock)
        self.farewells = Queue(FAREWELL_SECONDS, clock)
        self.body_bytes = body_bytes
        self.held_bytes = 0  # of bodies whose requests are not answered yet
        self._queues = (self.heads, self.bodies, self.messages, self.idle, self.unread, self.farewells)
        self._evictable = (self.farewells, self.heads, self.idle, self.bodies)
        self._per_process = per_process
        self._per_address = per_address
        self._connections = 0
        self._of_address: Counter[str] = Counter()

    def admit(self, peer: Peer, address: str) -> int:
        """Take a new connection, or say with which status to refuse it: 429 or 503; else 0."""
        if self._per_address and self._of_address[address_key(address)] >= self._per_address:
            return 429
        if self._connections >= self._per_process and not self._make_room():
            return 503
        self.take(address)
        return 0

    def take(self, address: str) -> None:
        """Count a connection."""
        self._connections += 1
        metrics.CONNECTIONS.set(self._connections)
        if self._per_address:
            self._of_address[address_key(address)] += 1

    def give_back(self, peer: Peer, address: str) -> None:
        """Forget a connection that was admitted or taken."""
        self._connections -= 1
        metrics.CONNECTIONS.set(self._connections)
        for queue in self._queues:
            queue.leave(peer)
        if self._per_address:
            key = address_key(address)
            self._of_address[key] -= 1
            if not self._of_address[key]:
                del self._of_address[key]

    def has_room_for_body(self) -> bool:
        return self.held_bytes <= BODIES_AT_ONCE * self.body_bytes

    def look(self) -> None:
        """See whose time is up. To be called a few times a second."""
        for queue in self._queues:
            for peer in queue.take_due(DISMISSED_AT_ONCE):
                peer.overdue(queue)

    def _make_room(self) -> bool:
        for queue in self._evictable:
            if (peer := queue.first()) is not None:
                queue.leave(peer)
                peer.make_room()
                return True
        return False


def count(reason: str) -> None:
    """A peer is sent away; it is counted and not logged, so that a flood of them fills no disk."""
    metrics.DISMISSED.labels(reason).inc()
