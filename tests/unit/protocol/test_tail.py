import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shared.protocol import tail as module
from shared.protocol.filter import Filter
from shared.protocol.record import Record
from shared.protocol.tail import Tail
from tests.unit.protocol.sample import record

ALL = Filter(tenant=None)


def naive(records: list[Record], seq: int, upto: int, max_bytes: int) -> list[Record]:
    taken: list[Record] = []
    for each in records:
        if seq < each.seq <= upto:
            if taken and sum(r.size for r in taken) + each.size > max_bytes:
                break
            taken.append(each)
    return taken


class AgainstTheModel(RuleBasedStateMachine):
    """A Tail beside a plain list of what it should hold."""

    @initialize(floor=st.integers(0, 5))
    def begin(self, floor: int) -> None:
        self.tail = Tail(ALL, floor)
        self.kept: list[Record] = []
        self.floor, self.head, self.bytes = floor, floor, 0

    @rule(step=st.integers(1, 3), length=st.sampled_from([0, 100, 1000]))
    def append(self, step: int, length: int) -> None:
        self.head += step
        new = record(self.head, data=b"x" * length)
        self.tail.append(new)
        self.kept.append(new)
        self.bytes += new.size

    @precondition(lambda self: self.kept)
    @rule(count=st.integers(1, 10))
    def evict(self, count: int) -> None:
        for oldest in self.kept[:count]:
            self.tail.evict(oldest)
            self.floor = oldest.seq
        del self.kept[:count]

    @rule(above=st.integers(0, 60), wide=st.integers(0, 60), max_bytes=st.sampled_from([0, 1, 900, 1500, 10**9]))
    def after(self, above: int, wide: int, max_bytes: int) -> None:
        seq = self.floor + above
        assert self.tail.after(seq, seq + wide, max_bytes) == naive(self.kept, seq, seq + wide, max_bytes)

    @invariant()
    def it_tells_the_same(self) -> None:
        assert self.tail.floor == self.floor
        assert self.tail.total_bytes == self.bytes
        assert self.tail.last_seq == (self.kept[-1].seq if self.kept else self.floor)


@pytest.mark.parametrize("compact_after", [1, 3, 512])
def test_a_tail_does_what_a_plain_list_does(compact_after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COMPACT_AFTER", compact_after)
    AgainstTheModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
    AgainstTheModel.TestCase("runTest").runTest()


def test_only_the_oldest_event_can_be_evicted() -> None:
    tail = Tail(ALL, 0)
    first, second = record(1), record(2)
    tail.append(first)
    tail.append(second)
    with pytest.raises(AssertionError):
        tail.evict(second)


def test_evicted_events_are_let_go_at_once_and_their_places_in_time() -> None:
    tail = Tail(ALL, 0)
    kept = [record(seq) for seq in range(1, 5001)]
    for each in kept:
        tail.append(each)
    for each in kept[:4000]:
        tail.evict(each)
    assert not any(each in tail._records for each in kept[:4000:100])
    assert len(tail._records) <= 2 * 1000 + module._COMPACT_AFTER
    assert [r.seq for r in tail.after(4000, 10**9, 10**9)] == list(range(4001, 5001))


def test_a_tail_that_loses_as_much_as_it_gets_stays_as_small_as_it_is() -> None:
    tail = Tail(ALL, 0)
    kept: list[Record] = []
    for seq in range(1, 3001):
        kept.append(record(seq))
        tail.append(kept[-1])
        if len(kept) > 10:
            tail.evict(kept.pop(0))
    assert len(tail._records) <= 2 * 10 + module._COMPACT_AFTER
    assert tail.after(tail.floor, 10**9, 10**9) == kept


@given(st.lists(st.integers(0, 300), min_size=1, max_size=12), st.integers(0, 100), st.integers(0, 1500))
@example([100, 50, 50, 1], 0, 200)
@example([100, 50, 50, 1], 0, 199)
def test_what_is_returned_together_is_bounded_by_what_its_frames_take(
    sizes: list[int], overhead: int, max_bytes: int
) -> None:
    tail = Tail(ALL, 0)
    for seq, size in enumerate(sizes, start=1):
        tail.append(record(seq, data=b"x" * size))
    taken = tail.after(0, 10**9, max_bytes, overhead=overhead)
    framed = [size + overhead for size in sizes]
    fits = next((n for n in range(len(sizes), 0, -1) if sum(framed[:n]) <= max_bytes), 1)
    assert [each.seq for each in taken] == list(range(1, fits + 1))


@given(st.integers(0, 30), st.integers(0, 30))
def test_one_event_is_returned_however_large_it_is(seq: int, upto: int) -> None:
    tail = Tail(ALL, 0)
    for each in range(1, 11):
        tail.append(record(each, data=b"x" * 1000))
    expected = [seq + 1] if seq + 1 <= min(upto, 10) else []
    assert [r.seq for r in tail.after(seq, upto, max_bytes=1)] == expected
