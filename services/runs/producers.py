"""Producers: who numbers its events, so that sending them again stores nothing twice.

A producer counts its events from 1 (0 is taken as well), without holes, for each subject. A batch says the number of
its first event.
"""

from shared.edge.problems import Conflict


def is_repeat(expected: int | None, first: int, count: int) -> bool:
    """Whether all of these events were stored before. `expected` None: the producer has not been heard of."""
    return expected is not None and first + count <= expected


def already_stored(expected: int | None, first: int, producer: str) -> int:
    """How many events at the front of a batch were stored before. Raise Conflict when some before it are missing."""
    if expected is None:
        expected = first if first in (0, 1) else 1
    if first > expected:
        raise Conflict(
            f"{producer!r} has sent up to {expected - 1}: go on with {expected}, not {first}",
            expected_producer_seq=expected,
        )
    return expected - first
