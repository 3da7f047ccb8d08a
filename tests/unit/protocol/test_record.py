"""An event at its place."""

from hypothesis import given
from hypothesis import strategies as st

from shared.protocol.record import OVERHEAD_BYTES, Record
from tests.unit.protocol.sample import draft


@given(st.integers(1, 2**63 - 1), st.binary(max_size=200), st.none() | st.text(max_size=5), st.none() | st.just("done"))
def test_a_record_is_its_draft_at_a_place_and_counts_with_its_data(
    seq: int, data: bytes, session: str | None, ends: str | None
) -> None:
    made = draft("log", "run/9", tenant="acme", session=session, worker="w", ends=ends, data=data)
    kept = Record.of(seq, made)
    assert kept.seq == seq
    assert {name: getattr(kept, name) for name in made.__struct_fields__} == {
        name: getattr(made, name) for name in made.__struct_fields__
    }
    assert kept.size == len(data) + OVERHEAD_BYTES
