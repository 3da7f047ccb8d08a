"""The lag policy: what a connected reader that fell behind is still sent."""

from collections import Counter
from collections.abc import Sequence

from shared.protocol.control import Gap
from shared.protocol.record import Record
from shared.protocol.schema import Delivery, Schema


def shed(records: Sequence[Record], schema: Schema) -> list[Record | Gap]:
    """Replace the sheddable events by exact counts and conflate the LATEST ones; keep the critical ones.

    A gap stands before the next event that is kept, never after it: its id is its end, so a reader that is cut off
    anywhere and resumes from the last id it saw is either told of a loss or sent the events themselves.
    """
    newest = {schema.latest_key(r): r.seq for r in records if schema.delivery(r.type) is Delivery.LATEST}
    kept: list[Record | Gap] = []
    lost: list[Record] = []
    for record in records:
        delivery = schema.delivery(record.type)
        if record.ends is None and delivery is Delivery.SHEDDABLE:
            lost.append(record)
        elif record.ends is None and delivery is Delivery.LATEST and newest[schema.latest_key(record)] != record.seq:
            continue
        else:
            if lost:
                kept.append(gap_of(lost))
                lost = []
            kept.append(record)
    if lost:
        kept.append(gap_of(lost))
    return kept


def gap_of(lost: Sequence[Record]) -> Gap:
    """The gap that stands for these events, which must be in order and not empty."""
    by_type = dict(sorted(Counter(record.type for record in lost).items()))
    return Gap(from_seq=lost[0].seq, to_seq=lost[-1].seq, dropped=len(lost), by_type=by_type)
