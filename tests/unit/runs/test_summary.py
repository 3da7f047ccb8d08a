"""The summary of a run, from its events alone."""

import math
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.runs.events import Error, NodeUpdate, Status
from services.runs.summary import Summary, summarise
from shared.protocol.schema import Event

START = datetime(2026, 1, 1, tzinfo=UTC)
OWN: dict[str, Any] = {"tenant": "t", "run_id": "run_x"}


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def node(seconds: float = 0, *, node: str = "writer", **fields: Any) -> NodeUpdate:
    return NodeUpdate(**OWN, ts=at(seconds), node=node, **fields)


def status(message: str | None) -> Status:
    return Status(**OWN, ts=START, status="running", attempt=1, message=message, tokens_in=0, tokens_out=0)


def error(message: str) -> Error:
    return Error(**OWN, ts=START, fatal=False, code="c", message=message)


@pytest.mark.parametrize(
    ("events", "snippet"),
    [
        ([], None),
        ([status(None)], None),
        ([status("given back")], "given back"),
        ([status("first"), status("second")], "second"),
        ([status("said"), node(node="supervisor", snippet="planning")], "planning"),
        ([node(node="supervisor", snippet="planning"), status("said")], "planning"),
        ([node(node="system", snippet="a"), node(node="finish", snippet="b")], "b"),
        ([node(node="writer", snippet="text"), node(node="supervisor", snippet="planning")], "text"),
        ([node(node="supervisor", snippet="planning"), node(node="writer", snippet="text")], "text"),
        ([node(node="writer", snippet="one"), node(node="reviewer", snippet="two")], "two"),
        ([node(node="writer", snippet="one"), node(node="writer"), node(node="writer", snippet="")], "one"),
        ([node(node="writer", snippet="text"), status("said"), error("failed")], "text"),
        ([error("it failed")], "it failed"),
    ],
)
def test_the_snippet_is_the_last_of_the_best_kind(events: list[Event], snippet: str | None) -> None:
    assert summarise(Summary(), events).snippet == snippet


def test_a_long_snippet_is_cut_between_characters() -> None:
    assert summarise(Summary(), [node(snippet="🦆" * 300)]).snippet == "🦆" * 200


def totals(summary: Summary) -> tuple[int, int]:
    return summary.tokens_in, summary.tokens_out


def test_counters_are_cumulative_for_each_worker_and_add_up_over_workers() -> None:
    summary = summarise(
        Summary(),
        [
            node(worker_id="a", tokens_in=10, tokens_out=1),
            node(worker_id="a", tokens_in=10, tokens_out=5),
            node(worker_id="b", tokens_in=7),
            node(worker_id="b", tokens_out=3),
            node(tokens_out=2),
            node(worker_id="a"),
        ],
    )
    assert totals(summary) == (17, 10)


def test_another_attempt_adds_to_the_earlier_ones_whether_the_event_names_it_or_not() -> None:
    summary = summarise(Summary(), [node(worker_id="a", tokens_in=10, tokens_out=5)], 1)
    named = summarise(summary, [node(worker_id="a", tokens_in=4, tokens_out=2, attempt=2)], 2)
    unnamed = summarise(summary, [node(worker_id="a", tokens_in=4, tokens_out=2)], 2)
    assert totals(named) == totals(unnamed) == (14, 7)
    again = summarise(unnamed, [node(worker_id="a", tokens_in=6, tokens_out=3)], 2)
    assert totals(again) == (16, 8)


def rate(*points: tuple[float, int]) -> float:
    return summarise(Summary(), [node(s, tokens_out=n) for s, n in points]).tokens_per_second


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(0, 0)], 0.0),
        ([(0, 0), (1, 100)], 100.0),
        ([(0, 0), (1, 100), (2, 300)], 0.3 * 200 + 0.7 * 100),
        ([(0, 0), (1, 100), (2, 300), (4, 300)], 0.7 * (0.3 * 200 + 0.7 * 100)),
        ([(0, 50), (1, 60)], 10.0),  # the delta, not the total
        ([(0, 0), (0.05, 40), (0.09, 80), (1, 100)], 100.0),  # too short to be measured: they wait for the next
        ([(0, 0), (1, 100), (1.099, 500), (2, 500)], 0.3 * 400 + 0.7 * 100),
        ([(0, 0), (0.1, 10)], 100.0),
        ([(0, 100), (1, 10)], 0.0),  # never negative
        ([(0, 0), (-1, 50), (1, 100)], 100.0),  # a clock that goes backwards is an interval under 100 ms
    ],
)
def test_tokens_per_second_is_the_moving_average_of_deltas(points: list[tuple[float, int]], expected: float) -> None:
    assert rate(*points) == pytest.approx(expected, abs=0.01)


def test_the_moving_average_agrees_with_the_formula_over_a_long_run() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    dice = random.Random(seed)
    now, tokens, points = 0.0, 0, [(0.0, 0)]
    for _ in range(300):
        now += dice.choice([0.01, 0.05, 0.11, 0.5, 2.0])
        tokens += dice.randint(1, 50)
        points.append((round(now, 6), tokens))
    mean: float | None = None
    base = points[0]
    for point in points[1:]:
        if round(point[0] - base[0], 6) < 0.1:
            continue
        now_rate = (point[1] - base[1]) / (point[0] - base[0])
        mean = now_rate if mean is None else 0.3 * now_rate + 0.7 * mean
        base = point
    assert mean is not None
    assert rate(*points) == pytest.approx(mean, abs=0.05)


def test_the_workers_of_a_run_share_one_rate() -> None:
    events = [node(0, worker_id="a", tokens_out=0), node(1, worker_id="b", tokens_out=30)]
    events += [node(2, worker_id="a", tokens_out=40)]
    assert summarise(Summary(), events).tokens_per_second == pytest.approx(0.3 * 40 + 0.7 * 30)


UPDATES = st.builds(
    lambda seconds, worker, snippet, tokens_in, tokens_out, attempt, name: node(
        seconds,
        node=name,
        worker_id=worker,
        snippet=snippet,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        attempt=attempt,
    ),
    st.floats(0, 1000),
    st.sampled_from([None, "a", "b"]),
    st.none() | st.text(max_size=300),
    st.none() | st.integers(0, 2**40),
    st.none() | st.integers(0, 2**40),
    st.none() | st.integers(1, 3),
    st.sampled_from(["supervisor", "writer", "finish"]),
)


@given(st.lists(UPDATES, max_size=30), st.integers(0, 30))
def test_it_does_not_matter_how_events_are_batched(events: list[NodeUpdate], cut: int) -> None:
    whole = summarise(Summary(), events)
    assert summarise(summarise(Summary(), events[:cut]), events[cut:]) == whole
    assert math.isfinite(whole.tokens_per_second)
    assert whole.tokens_per_second >= 0
    assert whole.snippet is None or len(whole.snippet) <= 200
