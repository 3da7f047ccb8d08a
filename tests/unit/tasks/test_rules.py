"""The rules by which a task follows its runs."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.tasks.events import TERMINAL, Progress
from services.tasks.rules import OVER, OwnedRun, followed, is_news
from tests.unit.tasks.sample import run, task

RUN_STATUSES = ("queued", "running", "waiting_input", "cancelling", "completed", "failed", "cancelled", "timed_out")


def runs_of(*statuses: str) -> list[OwnedRun]:
    return [run(number, status) for number, status in enumerate(statuses, start=1)]


@pytest.mark.parametrize(
    ("before", "statuses", "after"),
    [
        # one run
        ("queued", ["queued"], "queued"),
        ("queued", ["running"], "running"),
        ("queued", ["cancelling"], "running"),
        ("queued", ["waiting_input"], "waiting_input"),
        ("running", ["queued"], "running"),  # a run that is queued anew does not make its task so
        ("running", ["running"], "running"),
        ("running", ["waiting_input"], "waiting_input"),
        ("waiting_input", ["running"], "running"),
        ("waiting_input", ["queued"], "running"),
        ("running", ["completed"], "succeeded"),
        ("running", ["failed"], "failed"),
        ("running", ["timed_out"], "failed"),
        ("running", ["cancelled"], "cancelled"),
        ("queued", ["completed"], "succeeded"),  # news of its running were never told
        # several
        ("queued", ["queued", "queued"], "queued"),
        ("queued", ["running", "queued"], "running"),
        ("queued", ["completed", "queued"], "running"),
        ("queued", ["cancelled", "queued"], "running"),
        ("running", ["failed", "running"], "running"),  # not before all have finished
        ("running", ["completed", "waiting_input", "running"], "waiting_input"),
        ("waiting_input", ["completed", "completed", "running"], "running"),
        # all finished, mixed outcomes
        ("running", ["completed", "completed"], "succeeded"),
        ("running", ["completed", "cancelled"], "succeeded"),
        ("running", ["cancelled", "cancelled"], "cancelled"),
        ("running", ["cancelled", "failed"], "failed"),
        ("running", ["completed", "timed_out"], "failed"),
        ("running", ["failed", "completed", "cancelled"], "failed"),
        ("waiting_input", ["completed", "completed"], "succeeded"),
    ],
)
def test_what_becomes_of_a_task(before: str, statuses: list[str], after: str) -> None:
    assert followed(task(status=before), runs_of(*statuses))["status"] == after


@pytest.mark.parametrize("statuses", list(itertools.product(RUN_STATUSES, repeat=2)))
def test_a_task_is_over_when_all_its_runs_are_and_not_before(statuses: tuple[str, ...]) -> None:
    status = followed(task(status="running"), runs_of(*statuses))["status"]
    assert (status in TERMINAL) == all(each in OVER for each in statuses)


@given(
    st.lists(st.sampled_from(RUN_STATUSES), min_size=1, max_size=6).flatmap(
        lambda s: st.tuples(st.just(s), st.permutations(s))
    )
)
def test_the_order_of_the_runs_does_not_decide_the_outcome(both: tuple[list[str], list[str]]) -> None:
    one, other = (followed(task(status="running"), runs_of(*statuses)) for statuses in both)
    assert one["status"] == other["status"]
    assert one["progress"] == other["progress"]


def test_the_error_is_that_of_the_oldest_run_that_failed() -> None:
    runs = [
        run(1, "completed", error="not this"),
        run(2, "failed", error="no luck"),
        run(3, "failed", error="nor this"),
    ]
    assert followed(task(), runs)["error"] == "no luck"


@pytest.mark.parametrize(
    ("status", "error"), [("failed", "run run_1 failed"), ("timed_out", "run run_1 took too long")]
)
def test_a_run_that_failed_without_a_word_is_named(status: str, error: str) -> None:
    assert followed(task(), [run(1, status)])["error"] == error


def test_a_task_that_did_not_fail_keeps_what_error_it_has() -> None:
    assert "error" not in followed(task(error="of an attempt"), runs_of("completed"))
    assert "error" not in followed(task(error="of an attempt"), [run(1, "failed", error="e"), run(2, "running")])


def test_progress_counts_finished_runs_of_all_and_keeps_what_a_worker_said() -> None:
    runs = runs_of("completed", "failed", "cancelled", "timed_out", "running", "queued")
    progress = followed(task(), runs)["progress"]
    assert progress == Progress(done=4, total=6, unit="runs")
    said = Progress(done=1, total=2, unit="pages", message="half of it")
    assert followed(task(progress=said), runs)["progress"] == Progress(
        done=4, total=6, unit="pages", message="half of it"
    )


def test_the_runs_are_listed_oldest_first() -> None:
    assert followed(task(), runs_of("completed", "running"))["run_ids"] == ["run_1", "run_2"]


@pytest.mark.parametrize(
    ("known", "told", "news"),
    [
        (None, {"seq": 1}, True),
        ({"seq": 1}, {"seq": 2}, True),
        ({"seq": 2}, {"seq": 2}, False),
        ({"seq": 3}, {"seq": 2}, False),
        ({"seq": 3}, {"seq": 2, "epoch": "other"}, True),
    ],
)
def test_news_are_what_is_newer_than_what_is_known(known: Any, told: Any, news: bool) -> None:
    assert is_news(None if known is None else run(1, "running", **known), run(1, "completed", **told)) is news
