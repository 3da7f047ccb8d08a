"""Batches: pages of the log cut to what goes out in one write."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from shared.channel.batch import Batch, batch_of, batches, cut
from shared.channel.log import Page
from shared.protocol.control import Gap
from shared.protocol.filter import Filter
from shared.protocol.position import LogState
from shared.protocol.record import Record
from tests.unit.protocol.sample import record

ONE = Filter(tenant=None, subjects=("run/1",), types=("log",))


@st.composite
def pages(draw: st.DrawFn) -> tuple[int, Page]:
    """A position, and what lies after it: some events, now and then an end that the filter hides."""
    after = draw(st.integers(0, 5))
    seq, records = after, []
    for size in draw(st.lists(st.sampled_from([0, 10, 500, 2_000]), max_size=12)):
        seq += draw(st.integers(1, 3))
        ends = draw(st.sampled_from([None, None, None, "completed"]))
        records.append(record(seq, "status" if ends else "log", data=b"x" * size, ends=ends))
    scanned_to = seq + draw(st.integers(0, 3))
    return after, Page(tuple(records), scanned_to, LogState("e", scanned_to, 1))


@given(pages(), st.sampled_from([0, 500, 1_000, 3_000, 10**9]))
def test_the_batches_of_a_page_are_the_page_one_after_the_other(page_at: tuple[int, Page], max_bytes: int) -> None:
    after, page = page_at
    made = batches(ONE, "e", after, page, max_bytes)
    assert [batch.after for batch in made] == [after, *(batch.upto for batch in made[:-1])]
    assert made[-1].upto == page.scanned_to
    assert [item for batch in made for item in batch.items] == [each for each in page.records if ONE.shows(each)]
    assert sum(batch.size for batch in made) == sum(each.size for each in page.records)
    for batch in made:
        inside = [each for each in page.records if batch.after < each.seq <= batch.upto]
        assert batch.size <= max_bytes or len(inside) == 1
        ends = [each for each in inside if each.ends is not None]
        assert batch.end == (ends[0] if ends else None)
        assert batch.ends == ("completed" if ends else None)
    for batch, following in itertools.pairwise(made):  # none is cut sooner than it must be
        first = next(each for each in page.records if each.seq > following.after)
        assert batch.size + first.size > max_bytes


@given(pages(), st.integers(0, 50))
def test_the_part_of_a_batch_up_to_a_seq_has_what_lies_there(page_at: tuple[int, Page], upto: int) -> None:
    after, page = page_at
    whole = batch_of(ONE, "e", after, page.records, page.scanned_to)
    part = cut(whole, upto)
    assert (part.epoch, part.after, part.upto) == ("e", after, upto)
    assert list(part.items) == [item for item in whole.items if isinstance(item, Record) and item.seq <= upto]
    assert part.end == (whole.end if whole.end is not None and whole.end.seq <= upto else None)
    assert part.size == sum(item.size for item in part.items if isinstance(item, Record))


def test_a_batch_is_filled_to_its_last_byte() -> None:
    records = tuple(record(seq, data=b"x" * 100) for seq in (1, 2, 3, 4))
    page, size = Page(records, 4, LogState("e", 4, 1)), records[0].size
    for max_bytes, counts in ((2 * size, [2, 2]), (2 * size - 1, [1, 1, 1, 1]), (3 * size - 1, [2, 2])):
        assert [batch.count for batch in batches(ONE, "e", 0, page, max_bytes)] == counts


def test_a_batch_of_nothing_weighs_nothing_and_has_left_nothing_out() -> None:
    empty = Batch("e", 1, 9, ())
    assert (empty.count, empty.size, empty.conflated, empty.end, empty.ends) == (0, 0, 0, None, None)


def test_the_last_seq_of_a_batch_is_that_of_what_it_shows() -> None:
    assert Batch("e", 1, 9, ()).last_seq == 9
    assert Batch("e", 1, 9, [record(3), record(5)]).last_seq == 5
    assert Batch("e", 1, 9, [record(3), Gap(from_seq=4, to_seq=7, dropped=2, by_type={"log": 2})]).last_seq == 7
    assert Batch("e", 1, 9, [record(3), record(5)]).count == 2


def test_what_is_made_of_a_batch_is_made_once_for_a_key() -> None:
    batch, made = Batch("e", 1, 9, ()), []

    def make(each: Batch) -> bytes:
        made.append(each)
        return b"%d" % len(made)

    assert [batch.render(key, make) for key in ("a", "b", "a", "b")] == [b"1", b"2", b"1", b"2"]
    assert made == [batch, batch]
