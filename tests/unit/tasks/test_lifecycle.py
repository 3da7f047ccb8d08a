"""What a change makes of a task, before it is stored."""

from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.tasks.events import SCHEMA, TERMINAL, Progress, Snapshot, Step, TaskStatus
from services.tasks.lifecycle import check_move, check_patch, draft_of, patched, renewed
from services.tasks.model import NEXT, TaskFields, TaskView, snapshot_of, view
from services.tasks.requests import CreateTask
from shared.edge.problems import BadInput, Conflict
from tests.unit.tasks.sample import NOON, task

STATUSES: tuple[TaskStatus, ...] = get_args(TaskStatus)
MOVES = [(before, after) for before in STATUSES for after in STATUSES]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab\0", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=8,
)


# ── moves ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_follows_a_terminal_status_and_every_open_one_can_end() -> None:
    assert NEXT.keys() == set(STATUSES)
    for before, after in NEXT.items():
        assert after == frozenset() if before in TERMINAL else after >= TERMINAL
        assert before not in after


@pytest.mark.parametrize(("before", "after"), MOVES)
def test_a_move_is_allowed_or_refused_naming_what_may_follow(before: TaskStatus, after: TaskStatus) -> None:
    if after in NEXT[before]:
        check_move(task(status=before), after)
        return
    with pytest.raises(Conflict) as refused:
        check_move(task(status=before), after)
    assert refused.value.extra == {"task_status": before}
    assert f"{before} cannot become {after}" in refused.value.detail
    assert all(status in refused.value.detail for status in NEXT[before])


# ── patches ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_patch_changes_what_it_names_and_nothing_else() -> None:
    before = task(progress=Progress(done=1, total=4, unit="pages"), steps=[Step(name="one")], result={"a": 1, "b": 2})
    after = patched(before, {"progress": {"done": 2}, "result": {"b": None, "c": [3]}, "title": "new"})
    assert after.progress == Progress(done=2, total=4, unit="pages")
    assert after.result == {"a": 1, "c": [3]}
    assert after.title == "new"
    assert after.steps == [Step(name="one")]


@pytest.mark.parametrize("field", [field for field in TaskFields.__struct_fields__ if field != "title"])
def test_null_takes_a_fields_default(field: str) -> None:
    before = task(
        kind="k",
        status="running",
        progress=Progress(done=1),
        steps=[Step(name="s")],
        result=1,
        error="e",
        attempt=2,
        generation_id="g",
    )
    default = getattr(TaskFields(title="t"), field)
    assert getattr(before, field) != default
    assert getattr(patched(before, {field: None}), field) == default


@pytest.mark.parametrize(
    ("patch", "named"),
    [
        ({"title": None}, "title"),  # it has no default
        ({"title": ""}, "title"),
        ({"title": 5}, "title"),
        ({"title": "a\0"}, "title"),
        ({"title": "x" * 501}, "title"),
        ({"kind": "with space"}, "kind"),
        ({"kind": "newline\n"}, "kind"),
        ({"status": "done"}, "status"),
        ({"status": ["running"]}, "status"),
        ({"progress": 5}, "progress"),
        ({"progress": {"done": -1}}, "progress.done"),
        ({"progress": {"done": True}}, "progress.done"),
        ({"progress": {"done": 2**53}}, "progress.done"),
        ({"progress": {"total": "many"}}, "progress.total"),
        ({"progress": {"dnoe": 1}}, "dnoe"),
        ({"steps": {}}, "steps"),
        ({"steps": [{"status": "done"}]}, "name"),
        ({"steps": [{"name": "n", "colour": 1}]}, "colour"),
        ({"steps": [{"name": "n", "started_at": "noon"}]}, "started_at"),
        ({"steps": [{"name": "n"}] * 501}, "steps"),
        ({"error": "x" * 100_001}, "error"),
        ({"attempt": 0}, "attempt"),
        ({"attempt": 1.5}, "attempt"),
        ({"generation_id": ""}, "generation_id"),
        ({"generation_id": "a\n"}, "generation_id"),
        ({"generation_id": "a\x1fb"}, "generation_id"),
    ],
)
def test_a_wrong_value_is_refused_naming_its_place(patch: dict[str, Any], named: str) -> None:
    with pytest.raises(BadInput, match="Nothing was changed") as refused:
        patched(task(), patch)
    assert named in refused.value.detail


def test_a_field_that_is_not_there_or_not_the_callers_is_refused_naming_those_that_are() -> None:
    for field in ("colour", "id", "rev", "tenant", "run_ids", "preview_status", "stops_runs", "last_position"):
        with pytest.raises(BadInput) as refused:
            check_patch({"title": "t", field: 1})
        assert repr(field) in refused.value.detail
        assert all(known in refused.value.detail for known in TaskFields.__struct_fields__)
    check_patch(dict.fromkeys(TaskFields.__struct_fields__))


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"a": value}
    return value


def test_what_is_nested_too_deeply_is_refused_however_it_is_put_together() -> None:
    with pytest.raises(BadInput, match="nested too deeply"):
        check_patch({"result": nested(101)})
    deep = task(result=nested(100))
    leaf: Any = {"a": nested(1)}
    for _ in range(99):
        leaf = {"a": leaf}
    with pytest.raises(BadInput, match="nested too deeply"):
        patched(deep, {"result": leaf})


@given(VALUES, st.dictionaries(st.sampled_from(["result", "progress", "steps", "error", "status"]), VALUES, max_size=3))
def test_whatever_a_patch_says_it_is_taken_or_refused(result: Any, patch: dict[str, Any]) -> None:
    before = task(result=result)
    try:
        after = patched(before, patch)
    except BadInput:
        return
    for field in TaskFields.__struct_fields__:
        if field not in patch:
            assert getattr(after, field) == getattr(before, field)
    # what was taken can be written and read again
    assert msgspec.convert(msgspec.json.decode(msgspec.json.encode(after)), TaskFields) == after


# ── creating ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("status", STATUSES)
def test_a_task_begins_queued_or_running(status: TaskStatus) -> None:
    body = {"title": "t", "status": status}
    if status in ("queued", "running"):
        assert msgspec.convert(body, CreateTask).status == status
    else:
        with pytest.raises(msgspec.ValidationError, match=f"begins queued or running, not {status}"):
            msgspec.convert(body, CreateTask)


# ── what is told ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_change_counts_up_and_takes_its_snapshots_place() -> None:
    later = NOON + timedelta(seconds=1)
    after = renewed(task(rev=3), {"title": "new"}, 99, later)
    assert (after.rev, after.last_seq, after.updated_at, after.title) == (4, 99, later, "new")
    assert after.created_at == NOON


def test_a_snapshot_and_a_view_show_the_same_task() -> None:
    full = task(progress=Progress(done=1.5), steps=[Step(name="s", started_at=NOON)], result=[1], run_ids=["run_1"])
    shown = msgspec.to_builtins(view(full, "e"))
    told = msgspec.to_builtins(snapshot_of(full))
    assert shown.pop("last_position") == "e-7"
    assert shown.pop("id") == told.pop("task_id") == full.id
    assert told.pop("ts") == shown["updated_at"]
    assert told.pop("type") == "snapshot"
    assert shown == told
    assert {"owner", "stops_runs", "last_seq"}.isdisjoint(TaskView.__struct_fields__)
    assert {"owner", "stops_runs", "last_seq"}.isdisjoint(Snapshot.__struct_fields__)


@pytest.mark.parametrize("status", STATUSES)
def test_a_snapshot_ends_its_subject_exactly_when_it_is_terminal(status: TaskStatus) -> None:
    draft = draft_of(task(status=status))
    assert draft.ends == (status if status in TERMINAL else None)
    assert (draft.type, draft.subject) == ("snapshot", "task/task_01jzzzzzzzzzzzzzzzzzzzzzzz")
    event = SCHEMA.decode(draft.data)
    assert isinstance(event, Snapshot)
    assert event.ts == datetime(2026, 1, 2, 12, tzinfo=UTC)
