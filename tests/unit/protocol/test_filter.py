import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.protocol.filter import Filter, type_expression, type_pattern
from shared.protocol.record import Record
from tests.unit.protocol.sample import logs, record

RECORD = record(1, "node_update", "run/1", tenant="acme", session="s1", worker="w1")
END = record(2, "status", "run/1", tenant="acme", ends="succeeded")


@pytest.mark.parametrize(
    ("filter", "shown"),
    [
        (Filter(tenant=None), True),
        (Filter(tenant="acme"), True),
        (Filter(tenant="other"), False),
        (Filter(tenant="aaaa"), False),  # names have no order
        (Filter(tenant="acme", session="s0"), False),
        (Filter(tenant="acme", worker="w0"), False),
        (Filter(tenant="".join("acme"), session="".join("s1"), worker="".join("w1")), True),  # nor identity
        (Filter(tenant="acme", subjects=("run/1",)), True),
        (Filter(tenant="acme", subjects=("run/2", "run/1")), True),
        (Filter(tenant="acme", subjects=("run/2",)), False),
        (Filter(tenant="acme", subjects=("run/11", "run/")), False),
        (Filter(tenant="acme", subjects=()), False),
        (Filter(tenant="other", subjects=("run/1",)), False),
        (Filter(tenant="acme", session="s1"), True),
        (Filter(tenant="acme", session="s2"), False),
        (Filter(tenant="acme", session="s1", worker="w1"), True),
        (Filter(tenant="acme", session="s1", worker="w2"), False),
        (Filter(tenant="acme", types=("node_update",)), True),
        (Filter(tenant="acme", types=("status", "node_update")), True),
        (Filter(tenant="acme", types=("node_*",)), True),
        (Filter(tenant="acme", types=("*",)), True),
        (Filter(tenant="acme", types=("*_*",)), True),
        (Filter(tenant="acme", types=("node",)), False),
        (Filter(tenant="acme", types=("update",)), False),
        (Filter(tenant="acme", types=("node.update",)), False),  # a dot is a dot
        (Filter(tenant="acme", types=()), False),
    ],
)
def test_an_event_is_shown_when_everything_that_is_set_agrees(filter: Filter, shown: bool) -> None:
    assert filter.shows(RECORD) is shown


def test_an_event_without_session_or_worker_is_in_no_session_and_of_no_worker() -> None:
    bare = record(1)
    assert not Filter(tenant="t", session="").shows(bare)
    assert not Filter(tenant="t", worker="").shows(bare)
    assert not Filter(tenant="t", session="None").shows(bare)


@pytest.mark.parametrize(
    ("type", "worker", "heard"),
    [("report", "7", True), ("delta", "7", False), ("delta", None, True), ("report", None, True), ("delta", "", False)],
)
def test_workers_are_heard_with_the_types_that_are_let_through_from_them(
    type: str, worker: str | None, heard: bool
) -> None:
    session = Filter(tenant="t", from_workers=("report", "done"))
    assert session.shows(record(1, type, worker=worker)) is heard
    assert session.covers(record(1, type, worker=worker)) is heard
    none = Filter(tenant="t", from_workers=())
    assert none.shows(record(1, type, worker=worker)) is (worker is None)


@pytest.mark.parametrize(("above", "ends"), [(0, True), (1, True), (2, False), (3, False)])
def test_an_end_counts_only_above_the_seq_where_its_subject_came_back(above: int, ends: bool) -> None:
    one = Filter(tenant="acme", subjects=("run/1",), types=("log",), ends_above=above)
    assert one.is_end(END) is ends  # it is at seq 2
    assert one.wants(END) is ends
    assert not one.is_end(RECORD)


@pytest.mark.parametrize(
    ("subjects", "endless", "ends"),
    [
        (None, False, False),
        ((), False, False),
        (("run/1",), False, True),
        (("run/1", "run/2"), False, False),
        (("run/1",), True, False),
    ],
)
def test_a_stream_ends_with_its_only_subject_unless_it_is_endless(
    subjects: tuple[str, ...] | None, endless: bool, ends: bool
) -> None:
    assert Filter(tenant="t", subjects=subjects, endless=endless).ends_with_subject is ends


def test_the_end_of_the_only_subject_is_wanted_though_its_type_is_hidden() -> None:
    one = Filter(tenant="acme", subjects=("run/1",), types=("log",))
    assert one.wants(END)
    assert not one.shows(END)


@pytest.mark.parametrize(
    "filter",
    [
        Filter(tenant="acme", types=("log",)),
        Filter(tenant="acme", subjects=("run/1", "run/2"), types=("log",)),
        Filter(tenant="acme", subjects=("run/2",), types=("log",)),
        Filter(tenant="other", subjects=("run/1",), types=("log",)),
        Filter(tenant="acme", subjects=("run/1",), worker="w1", types=("log",)),
        Filter(tenant="acme", subjects=("run/1",), types=("log",), endless=True),
    ],
)
def test_a_hidden_end_is_not_wanted_where_it_ends_nothing(filter: Filter) -> None:
    assert not filter.wants(END)


@given(logs(), st.sampled_from([None, ("run/1",), ("run/2", "run/1")]), st.sampled_from([None, ("log", "w*")]))
def test_what_is_shown_is_wanted_and_what_is_wanted_is_covered(
    records: list[Record], subjects: tuple[str, ...] | None, types: tuple[str, ...] | None
) -> None:
    filter = Filter(tenant="t", subjects=subjects, types=types)
    for each in records:
        assert filter.shows(each) <= filter.wants(each) <= filter.covers(each)
        if filter.wants(each) and not filter.shows(each):
            assert each.ends is not None
            assert filter.ends_with_subject


def test_describe_tells_what_is_set_and_never_the_tenant() -> None:
    assert Filter(tenant="acme").describe() == {}
    described = Filter(tenant="acme", subjects=("run/1",), types=("log",)).describe()
    assert described == {"subjects": ("run/1",), "types": ("log",)}
    assert Filter(tenant=None, session="s", worker="w").describe() == {"session": "s", "worker": "w"}
    assert Filter(tenant=None, subjects=(), session="").describe() == {"subjects": (), "session": ""}


GLOBS = st.text("ab_.*", min_size=1, max_size=8)
NAMES = st.text("ab_.", min_size=1, max_size=8)


def matches(glob: str, name: str) -> bool:
    """The naive rule."""
    if not glob:
        return not name
    if glob[0] == "*":
        return any(matches(glob[1:], name[cut:]) for cut in range(len(name) + 1))
    return name[:1] == glob[0] and matches(glob[1:], name[1:])


@given(st.lists(GLOBS, min_size=1, max_size=3), NAMES)
def test_a_glob_matches_as_the_naive_rule_says(globs: list[str], name: str) -> None:
    found = type_pattern(tuple(globs)).fullmatch(name) is not None
    assert found is any(matches(glob, name) for glob in globs)


@pytest.mark.parametrize(
    ("name", "matched"), [("ab_.", True), ("axbx_x.", True), ("ab.", False), ("a_b.", False), ("ab_", False)]
)
def test_what_stands_between_the_stars_of_a_glob_must_come_in_its_order(name: str, matched: bool) -> None:
    assert (type_pattern(("a*b*_*.",)).fullmatch(name) is not None) is matched


def test_the_first_event_of_a_log_may_be_an_end() -> None:
    assert Filter(tenant="t", subjects=("run/1",)).is_end(record(1, "status", ends="completed"))


@given(st.lists(GLOBS, min_size=1, max_size=3), NAMES)
def test_the_databases_expression_matches_what_the_pattern_does(globs: list[str], name: str) -> None:
    found = re.search(type_expression(globs), name) is not None
    assert found is (type_pattern(tuple(globs)).fullmatch(name) is not None)


@given(st.lists(st.text(max_size=6), min_size=1, max_size=3))
def test_any_text_makes_an_expression_and_without_a_star_it_matches_itself_only(globs: list[str]) -> None:
    pattern = re.compile(type_expression(globs))
    for glob in globs:
        if "*" not in glob:
            assert pattern.fullmatch(glob)
            assert not pattern.fullmatch(glob + "\n") or glob + "\n" in globs


@pytest.mark.parametrize("glob", ["*" * 9 + "!", "*" * 2_000, "*_" * 30, "*e" * 30])
def test_no_glob_takes_long(glob: str) -> None:
    # each `*` right beside another multiplies the time that Python needs: at forty it would be years
    began = time.process_time()
    type_pattern((glob,)).fullmatch("preview_status.element_deleted")
    assert time.process_time() - began < 0.3
