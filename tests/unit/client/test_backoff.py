import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.client.backoff import CAP_SECONDS, MAX_ASKED_SECONDS, pause


@pytest.mark.parametrize(
    ("failures", "longest"),
    [(0, 0), (1, 0.25), (2, 0.5), (3, 1), (4, 2), (5, 4), (6, 8), (7, 10), (8, 10), (10**6, 10)],
)
def test_the_bound_doubles_up_to_the_cap(failures: int, longest: float) -> None:
    assert pause(failures, 1.0) == longest
    assert pause(failures, 0.5) == longest / 2
    assert pause(failures, 0.0) == 0


def test_nobody_is_back_before_the_server_asked_and_not_all_at_once() -> None:
    assert pause(1, 0.0, 3) == 3
    assert pause(1, 1.0, 3) == 3.25
    assert pause(0, 1.0, 3) == 3


@given(st.integers(0, 10**9), st.floats(0, 1), st.none() | st.floats(allow_nan=False, allow_infinity=True))
def test_a_pause_is_bounded_whatever_is_asked(failures: int, chance: float, asked: float | None) -> None:
    assert 0 <= pause(failures, chance, asked) <= CAP_SECONDS + MAX_ASKED_SECONDS
