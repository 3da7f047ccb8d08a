"""Rates: how many requests pass, and how long the others wait."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.edge.rates import Buckets, Rate, RequestRates, address_key, retry_after

FOUR = Rate(per_second=2.0, burst=4)

rates = st.builds(Rate, per_second=st.floats(0.01, 1000), burst=st.integers(1, 50).map(float))
pauses = st.lists(st.floats(0, 5), max_size=60)
requests = st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 3)), max_size=80)


def ask(buckets: Buckets, key: str, now: float, cost: float = 1.0) -> float:
    """Take if there is no wait."""
    seconds = buckets.wait(key, now, cost)
    if not seconds:
        buckets.take(key, now, cost)
    return seconds


def test_a_burst_passes_and_then_so_many_a_second() -> None:
    buckets = Buckets(FOUR)
    assert [ask(buckets, "a", 0.0) for _ in range(6)] == [0, 0, 0, 0, 0.5, 0.5]
    assert ask(buckets, "a", 0.25) == 0.25
    assert [ask(buckets, "a", 0.5) for _ in range(2)] == [0, 0.5]
    assert [ask(buckets, "a", 1.5) for _ in range(3)] == [0, 0, 0.5]


def test_a_bucket_does_not_overflow() -> None:
    buckets = Buckets(FOUR)
    ask(buckets, "a", 0.0)
    assert [ask(buckets, "a", 1_000.0) for _ in range(5)] == [0, 0, 0, 0, 0.5]


def test_nor_does_one_that_was_full_and_is_kept_still() -> None:
    """What is forgotten is forgotten in order of use, and another is in front of it."""
    buckets = Buckets(FOUR)
    ask(buckets, "in front", 0.0, cost=4)
    ask(buckets, "a", 0.1)
    assert [ask(buckets, "a", 1.9) for _ in range(5)] == [0, 0, 0, 0, pytest.approx(0.5)]


def test_keys_do_not_hold_each_other_back() -> None:
    buckets = Buckets(FOUR)
    for _ in range(4):
        ask(buckets, "a", 0.0)
    assert ask(buckets, "a", 0.0) == 0.5
    assert ask(buckets, "b", 0.0) == 0


def test_asking_how_long_to_wait_takes_nothing() -> None:
    buckets = Buckets(FOUR)
    for _ in range(100):
        assert buckets.wait("a", 0.0) == 0
    assert len(buckets) == 0


def test_a_refusal_takes_nothing() -> None:
    buckets = Buckets(FOUR)
    for _ in range(50):
        ask(buckets, "a", 0.0)
    assert ask(buckets, "a", 0.5) == 0


def test_requests_may_weigh_more() -> None:
    buckets = Buckets(FOUR)
    assert ask(buckets, "a", 0.0, cost=3) == 0
    assert ask(buckets, "a", 0.0, cost=3) == 1.0
    assert ask(buckets, "a", 0.0, cost=1) == 0


@pytest.mark.parametrize("cost", [0, -1, 4.5, math.inf, math.nan])
def test_what_no_waiting_would_help_is_a_mistake(cost: float) -> None:
    with pytest.raises(ValueError, match="never"):
        Buckets(FOUR).wait("a", 0.0, cost)


@pytest.mark.parametrize(
    ("per_second", "burst"), [(0, 1), (-1, 1), (math.inf, 1), (math.nan, 1), (1, 0), (1, 0.5), (1, math.inf)]
)
def test_a_rate_that_lets_nothing_or_everything_pass_is_refused(per_second: float, burst: float) -> None:
    with pytest.raises(ValueError, match="a rate is above 0"):
        Rate(per_second, burst)


@given(rates, pauses)
def test_never_more_pass_than_the_rate_allows(rate: Rate, waits: list[float]) -> None:
    """In any stretch of time: the burst, and what came in meanwhile."""
    buckets, now = Buckets(rate), 0.0
    passed: list[float] = []
    for pause in waits:
        now += pause
        passed += [now for _ in range(3) if not ask(buckets, "a", now)]
    for first, begin in enumerate(passed):
        for last in range(first, len(passed)):
            allowed = rate.burst + rate.per_second * (passed[last] - begin + 1e-4)
            assert last - first + 1 <= allowed + 1e-6


@given(rates, pauses)
def test_who_waits_as_told_passes_and_not_before(rate: Rate, waits: list[float]) -> None:
    buckets, now = Buckets(rate), 0.0
    for pause in waits:
        now += pause
        seconds = ask(buckets, "a", now)
        if seconds:
            assert buckets.wait("a", now + seconds * 0.99) > 0 or seconds < 1e-3
            assert buckets.wait("a", now + seconds) == 0
            assert seconds <= 1 / rate.per_second + 1e-6


@given(rates, requests, st.integers(1, 2))
def test_memory_is_bounded_and_what_is_forgotten_was_full(
    rate: Rate, asked: list[tuple[str, float]], max_keys: int
) -> None:
    """With room for all, and with too little: whoever has a bucket of its own gets the same answers."""
    bounded, free, now = Buckets(rate, max_keys=max_keys), Buckets(rate), 0.0
    for key, pause in asked:
        now += pause
        own = key in bounded._full_at or bounded._has_room(now)
        assert not own or bounded.wait(key, now) <= free.wait(key, now) + 1e-6
        taken = not bounded.wait(key, now)
        if taken:
            bounded.take(key, now)
            free.take(key, now)
        assert len(bounded) <= max_keys


def test_a_flood_of_keys_frees_nobody_and_shares_one_bucket() -> None:
    buckets = Buckets(FOUR, max_keys=3)
    for _ in range(4):
        ask(buckets, "held back", 0.0)
    passed = sum(not ask(buckets, f"made up {number}", 0.0) for number in range(1_000))
    assert ask(buckets, "held back", 0.0) == 0.5
    assert passed == 2 + 4
    assert (len(buckets), buckets.shared) == (3, 4)


def test_when_the_flood_is_over_there_is_room_again() -> None:
    buckets = Buckets(FOUR, max_keys=3)
    for number in range(1_000):
        ask(buckets, f"made up {number}", 0.0)
    assert [ask(buckets, "new", 2.0) for _ in range(5)] == [0, 0, 0, 0, 0.5]
    assert [ask(buckets, "newer", 2.0) for _ in range(5)] == [0, 0, 0, 0, 0.5]


def test_buckets_that_are_full_are_forgotten_as_others_come() -> None:
    buckets = Buckets(FOUR)
    for number in range(100):
        ask(buckets, f"early {number}", 0.0)
    for number in range(100):
        ask(buckets, f"late {number}", 10.0)
    assert len(buckets) == 100


def test_time_that_goes_backwards_gives_nothing() -> None:
    buckets = Buckets(FOUR)
    for _ in range(4):
        ask(buckets, "a", 10.0)
    assert ask(buckets, "a", 9.0) == 1.5
    assert ask(buckets, "a", 10.5) == 0


# ── several at once ────────────────────────────────────────────────────────────────────────────────────────────


def pass_all(rates: RequestRates, number: int, **keys: Any) -> int:
    return sum(not rates.ask(0.0, **keys) for _ in range(number))


def test_a_request_must_pass_all_its_buckets() -> None:
    rates = RequestRates(address=Rate(1, 8), principal=Rate(1, 3), tenant=Rate(1, 5))
    ann, bob, eve = ("acme", "ann"), ("acme", "bob"), ("other", "ann")
    assert pass_all(rates, 10, address="1", principal=ann, tenant="acme") == 3
    assert pass_all(rates, 10, address="1", principal=bob, tenant="acme") == 2
    assert pass_all(rates, 10, address="1", principal=eve, tenant="other") == 3
    assert pass_all(rates, 10, address="1") == 0
    assert pass_all(rates, 10, address="2") == 8


def test_the_longest_wait_is_told_and_nothing_is_taken_of_the_others() -> None:
    rates = RequestRates(address=Rate(1, 2), tenant=Rate(0.1, 1))
    assert rates.ask(0.0, address="1", tenant="acme") == 0
    for _ in range(20):
        assert rates.ask(0.0, address="1", tenant="acme") == 10.0
    assert rates.ask(0.0, address="1", tenant="other") == 0
    assert rates.ask(0.0, address="1", tenant="third") == 1.0


def test_without_bounds_everything_passes() -> None:
    assert pass_all(RequestRates(), 1_000, address="1", tenant="acme", principal=("acme", "ann")) == 1_000


@pytest.mark.parametrize(("seconds", "header"), [(0.0, 1), (0.001, 1), (1.0, 1), (1.001, 2), (59.5, 60)])
def test_retry_after_is_in_whole_seconds_and_enough(seconds: float, header: int) -> None:
    assert retry_after(seconds) == header


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", "?"),
        ("unix:", "?"),
        ("192.0.2.7, 10.0.0.1", "?"),
    ],
)
def test_an_address_is_held_back_with_its_network(address: str, key: str) -> None:
    assert address_key(address) == key
