"""All tails of a process: routing each event to the filters that want it, and one bound in bytes over them all."""

from collections import deque

from shared.protocol.filter import Filter
from shared.protocol.record import Record
from shared.protocol.tail import Tail


class Tails:
    """Holds one tail per filter in use. Together they keep at most `max_bytes` of events, each event counted once."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: deque[tuple[Record, tuple[Tail, ...]]] = deque()
        self._by_filter: dict[Filter, Tail] = {}
        self._users: dict[Tail, int] = {}
        self._by_address: dict[str, dict[Tail, None]] = {}

    def __len__(self) -> int:
        return len(self._by_filter)

    def open(self, filter: Filter, head: int) -> Tail:
        """The filter's tail; a new one is complete after `head`. Every `open` is matched by a `close`."""
        tail = self._by_filter.get(filter)
        if tail is None:
            tail = self._by_filter[filter] = Tail(filter, head)
            for address in _addresses(filter):
                self._by_address.setdefault(address, {})[tail] = None
        self._users[tail] = self._users.get(tail, 0) + 1
        return tail

    def close(self, tail: Tail) -> None:
        """One user less; without any, the tail goes. Harmless for a tail from before `clear`."""
        if tail not in self._users:
            return
        self._users[tail] -= 1
        if self._users[tail]:
            return
        del self._users[tail]
        del self._by_filter[tail.filter]
        for address in _addresses(tail.filter):
            tails = self._by_address[address]
            del tails[tail]
            if not tails:
                del self._by_address[address]

    def clear(self) -> None:
        """Forget everything: a new epoch."""
        self._kept.clear()
        self._by_filter.clear()
        self._users.clear()
        self._by_address.clear()
        self._bytes = 0

    def append(self, record: Record) -> tuple[Tail, ...]:
        """Give the event to every tail that wants it; return those."""
        wanting = tuple(tail for tail in self._candidates(record) if tail.filter.wants(record))
        if wanting:
            for tail in wanting:
                tail.append(record)
            self._kept.append((record, wanting))
            self._bytes += record.size
            while self._bytes > self._max_bytes:
                oldest, tails = self._kept.popleft()
                self._bytes -= oldest.size
                for tail in tails:
                    tail.evict(oldest)
        return wanting

    def _candidates(self, record: Record) -> list[Tail]:
        """Only tails that could want it are asked, so that many filters cost an event nothing."""
        found = [*self._by_address.get(record.subject, ()), *self._by_address.get(_EVERYTHING, ())]
        if record.session is not None:
            found.extend(self._by_address.get(_session_address(record.session), ()))
        return found


_EVERYTHING = ""


def _addresses(filter: Filter) -> tuple[str, ...]:
    """Where a filter's tail is looked for: under its subjects, else its session, else with those that see all."""
    if filter.subjects is not None:
        return tuple(dict.fromkeys(filter.subjects))
    return (_EVERYTHING,) if filter.session is None else (_session_address(filter.session),)


def _session_address(session: str) -> str:
    return "\0" + session  # no subject begins with NUL
