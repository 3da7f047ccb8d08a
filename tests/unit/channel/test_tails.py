"""All tails of a process, beside lists of what they should hold."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shared.channel.tails import Tails
from shared.protocol.filter import Filter
from shared.protocol.record import Record
from shared.protocol.tail import Tail
from tests.unit.protocol.sample import record

FILTERS = [
    Filter(tenant=None),
    Filter(tenant="t"),
    Filter(tenant="t", types=("status",)),
    Filter(tenant="t", subjects=("run/1",)),
    Filter(tenant="t", subjects=("run/2", "run/1", "run/2")),
    Filter(tenant="other", subjects=("run/1",)),
    Filter(tenant="t", session="s"),
    Filter(tenant="t", session="s", worker="7"),
    Filter(tenant="t", session="run/1"),  # a session may be called as a subject is
]


class AgainstLists(RuleBasedStateMachine):
    """Filters come into use and go out of it, while events come; what is too much is evicted, oldest first."""

    @initialize(max_bytes=st.sampled_from([0, 1_500, 5_000, 10**9]))
    def begin(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.tails = Tails(max_bytes)
        self.used: dict[Filter, tuple[Tail, int]] = {}
        self.since: dict[Filter, int] = {}
        self.kept: list[tuple[Record, set[Filter]]] = []
        self.head = 0

    @rule(filter=st.sampled_from(FILTERS))
    def open(self, filter: Filter) -> None:
        tail = self.tails.open(filter, self.head)
        known, users = self.used.get(filter, (tail, 0))
        assert tail is known
        self.used[filter] = (tail, users + 1)
        self.since.setdefault(filter, self.head)

    @precondition(lambda self: self.used)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        filter = data.draw(st.sampled_from(sorted(self.used, key=FILTERS.index)))
        tail, users = self.used[filter]
        self.tails.close(tail)
        if users > 1:
            self.used[filter] = (tail, users - 1)
            return
        del self.used[filter], self.since[filter]
        for _, wanting in self.kept:
            wanting.discard(filter)
        self.tails.close(tail)  # once more does no harm

    @rule()
    def clear(self) -> None:
        old = [tail for tail, _ in self.used.values()]
        self.tails.clear()
        self.used, self.since, self.kept = {}, {}, []
        for tail in old:
            self.tails.close(tail)  # its readers let go of it later

    @rule(
        of=st.tuples(
            st.sampled_from(["log", "status"]),
            st.sampled_from(["run/1", "run/2", "run/3"]),
            st.sampled_from(["t", "t", "other"]),
            st.sampled_from([None, "s", "run/1"]),
            st.sampled_from([None, "7"]),
        ),
        length=st.sampled_from([0, 100, 2_000]),
    )
    def append(self, of: tuple[str, str, str, str | None, str | None], length: int) -> None:
        type, subject, tenant, session, worker = of
        self.head += 1
        data = b"x" * length
        new = record(self.head, type, subject, tenant=tenant, session=session, worker=worker, data=data)
        wanting = {filter for filter in self.used if filter.wants(new)}
        assert {tail.filter for tail in self.tails.append(new)} == wanting
        if wanting:
            self.kept.append((new, wanting))
        while sum(each.size for each, _ in self.kept) > self.max_bytes:
            oldest, had = self.kept.pop(0)
            for filter in had:
                self.since[filter] = oldest.seq

    @invariant()
    def every_tail_holds_what_its_filter_wants(self) -> None:
        if not hasattr(self, "tails"):
            return
        assert len(self.tails) == len(self.used)
        for filter, (tail, _) in self.used.items():
            held = [each for each, wanting in self.kept if filter in wanting]
            assert tail.after(tail.floor, 10**9, 10**9) == held
            assert tail.floor == self.since[filter]


def test_tails_do_what_lists_do() -> None:
    AgainstLists.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
    AgainstLists.TestCase("runTest").runTest()


def test_tails_are_filled_to_the_last_byte_also_after_a_new_epoch() -> None:
    size = record(1, data=b"x" * 100).size
    for spare, kept in ((0, 3), (-1, 2)):
        tails = Tails(3 * size + spare)
        for _ in range(2):
            tail = tails.open(FILTERS[0], 0)
            for seq in (1, 2, 3):
                tails.append(record(seq, data=b"x" * 100))
            assert len(tail.after(tail.floor, 10**9, 10**9)) == kept
            tails.clear()
