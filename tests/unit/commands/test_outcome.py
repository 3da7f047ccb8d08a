"""Exit codes: what scripts know of how it ended."""

from typing import get_args

import pytest

from services.commands.outcome import CANCELLED, FAILED, GOOD, OTHER, TIMED_OUT, exit_code, worst
from services.runs.events import TERMINAL as RUN_ENDS
from services.runs.events import RunStatus
from services.tasks.events import TERMINAL as TASK_ENDS
from services.tasks.events import TaskStatus


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("succeeded", 0),
        ("completed", 0),
        ("failed", 1),
        ("cancelled", 3),
        ("timed_out", 4),
        ("stopped", 0),
        ("exited", 1),
        ("lost", 1),
        ("running", 5),
        ("never_heard_of", 5),
        ("", 5),
        (None, 5),
    ],
)
def test_each_end_has_its_exit_code(status: str | None, code: int) -> None:
    assert exit_code(status) == code


def test_every_terminal_status_and_no_other_has_a_code_of_its_own() -> None:
    for status in {*get_args(RunStatus), *get_args(TaskStatus)}:
        assert (exit_code(status) != OTHER) == (status in RUN_ENDS | TASK_ENDS), status


@pytest.mark.parametrize(
    ("codes", "code"),
    [
        ([], OTHER),
        ([GOOD], GOOD),
        ([GOOD, CANCELLED], CANCELLED),
        ([TIMED_OUT, CANCELLED, GOOD], TIMED_OUT),
        ([OTHER, TIMED_OUT], OTHER),
        ([GOOD, FAILED, OTHER, TIMED_OUT], FAILED),
    ],
)
def test_of_several_the_worst_counts(codes: list[int], code: int) -> None:
    assert worst(codes) == code
