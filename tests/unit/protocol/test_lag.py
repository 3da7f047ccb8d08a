import itertools
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from shared.protocol.control import Gap
from shared.protocol.lag import gap_of, shed
from shared.protocol.record import Record
from shared.protocol.schema import Delivery
from tests.unit.protocol.sample import SCHEMA, logs, record


def is_sheddable(each: Record) -> bool:
    return each.ends is None and SCHEMA.delivery(each.type) is Delivery.SHEDDABLE


def latest_key(each: Record) -> tuple[str, str, str | None] | None:
    """Naively: which LATEST events replace each other. None for events that are no such thing."""
    if SCHEMA.delivery(each.type) is not Delivery.LATEST:
        return None
    return each.type, each.subject, each.worker if each.type == "worker.state" else None


def id_of(frame: Record | Gap) -> int:
    return frame.seq if isinstance(frame, Record) else frame.to_seq


def events_in(frames: list[Record | Gap]) -> list[Record]:
    return [frame for frame in frames if isinstance(frame, Record)]


def gaps_in(frames: list[Record | Gap]) -> list[Gap]:
    return [frame for frame in frames if isinstance(frame, Gap)]


@given(logs())
def test_what_is_kept_are_the_criticals_the_ends_and_the_newest_latest_of_each_key(records: list[Record]) -> None:
    newest = {latest_key(each): each.seq for each in records}
    expected = [
        each
        for each in records
        if each.ends is not None
        or (not is_sheddable(each) and (latest_key(each) is None or newest[latest_key(each)] == each.seq))
    ]
    assert events_in(shed(records, SCHEMA)) == expected


@given(logs())
def test_the_counts_are_exact_by_type_and_each_gap_covers_just_what_it_counts(records: list[Record]) -> None:
    gaps = gaps_in(shed(records, SCHEMA))
    counted = sum((Counter(gap.by_type) for gap in gaps), Counter())
    assert counted == Counter(each.type for each in records if is_sheddable(each))
    for gap in gaps:
        lost = [each for each in records if is_sheddable(each) and gap.from_seq <= each.seq <= gap.to_seq]
        assert gap == gap_of(lost)
        assert gap.dropped == len(lost) == sum(gap.by_type.values())


@given(logs())
def test_ids_rise_and_a_gap_comes_before_what_follows_it(records: list[Record]) -> None:
    frames = shed(records, SCHEMA)
    ids = [id_of(frame) for frame in frames]
    assert ids == sorted(set(ids))
    for before, frame in itertools.pairwise(frames):
        if isinstance(frame, Gap):
            assert id_of(before) < frame.from_seq
            assert isinstance(before, Record)  # two gaps in a row would be one


@given(logs(), st.integers(0, 3))
def test_wherever_a_client_is_cut_off_resuming_after_its_last_id_leaves_nothing_untold(
    records: list[Record], start: int
) -> None:
    start = min(start, records[0].seq - 1) if records else start
    frames = shed(records, SCHEMA)
    for cut in range(len(frames) + 1):
        seen = frames[:cut]
        last_id = id_of(seen[-1]) if seen else start
        again = [each for each in records if each.seq > last_id]
        shown = events_in(seen)
        newest_told = {latest_key(each): each.seq for each in [*shown, *again]}
        for each in records:
            told = shown.count(each) + again.count(each)
            if is_sheddable(each):
                told += sum(gap.from_seq <= each.seq <= gap.to_seq for gap in gaps_in(seen))
            conflated = told == 0 and latest_key(each) is not None and newest_told.get(latest_key(each), 0) > each.seq
            assert told == 1 or conflated, f"cut after frame {cut}, {each} was told {told} times"


@given(logs(), st.data())
def test_shedding_piece_by_piece_loses_nothing_either(records: list[Record], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(records)))
    frames = [*shed(records[:cut], SCHEMA), *shed(records[cut:], SCHEMA)]
    ids = [id_of(frame) for frame in frames]
    assert ids == sorted(set(ids))
    assert sum(gap.dropped for gap in gaps_in(frames)) == sum(map(is_sheddable, records))
    assert set(events_in(shed(records, SCHEMA))) <= set(events_in(frames))


def test_an_example() -> None:
    records = [
        record(1, "snapshot"),
        record(2, "log"),
        record(3, "token"),
        record(5, "log"),
        record(6, "status"),
        record(7, "snapshot", "run/2"),
        record(8, "log", ends="done"),
        record(9, "snapshot"),
        record(11, "log"),
        record(12, "unknown_type"),
        record(13, "worker.state", worker="a"),
        record(14, "worker.state", worker="b"),
        record(15, "worker.state", worker="a"),
        record(16, "token"),
    ]
    assert [
        (frame.from_seq, frame.to_seq, frame.by_type) if isinstance(frame, Gap) else frame.seq
        for frame in shed(records, SCHEMA)
    ] == [(2, 5, {"log": 2, "token": 1}), 6, 7, 8, 9, (11, 11, {"log": 1}), 12, 14, 15, (16, 16, {"token": 1})]


def test_one_tenants_latest_event_does_not_replace_anothers() -> None:
    # subjects that clients name, such as sessions, may be the same in two tenants
    records = [record(1, "snapshot", "session/x", tenant="a"), record(2, "snapshot", "session/x", tenant="b")]
    assert shed(records, SCHEMA) == records


def test_nothing_pending_needs_no_frame() -> None:
    assert shed([], SCHEMA) == []
