"""The agent event bus's types: which there are, and what may be skipped of them."""

from datetime import UTC, datetime

import msgspec
import pytest

from services.runs.agent_events import AGENT_TYPES, DEFAULT_TYPES, HEARD_FROM_WORKERS, REPLAYED_TYPES
from services.runs.events import AGENT_TYPE_NAMES, SCHEMA, WORKER_TYPES, worker_of
from shared.protocol.errors import InvalidEvent, UnknownTypes
from shared.protocol.record import Record
from shared.protocol.schema import Delivery

# as DESIGN section 6 lists them
LISTED = """client_output_delta client_input_requested client_input_received llm_text_delta llm_turn_complete
tool_call_started tool_call_completed execution_started execution_completed execution_failed execution_paused
node_loop_started node_loop_iteration node_loop_completed node_action_plan node_internal_output node_stalled node_retry
node_tool_doom_loop goal_progress context_compacted context_usage_updated worker_colony_loaded colony_created
credentials_required subagent_report queen_phase_changed trigger_available trigger_activated trigger_deactivated
trigger_fired trigger_removed trigger_updated worker_graph_loaded"""
NAMES = tuple(LISTED.split())

NEVER_SKIPPED = """execution_started execution_completed execution_failed execution_paused client_input_requested
client_input_received node_loop_started node_loop_iteration credentials_required worker_graph_loaded
queen_phase_changed status error"""
CRITICAL = tuple(NEVER_SKIPPED.split())

GIVEN = {"tenant": "t", "ts": datetime(2026, 1, 1, tzinfo=UTC), "session_id": "s"}


def test_the_types_are_those_of_the_design() -> None:
    assert [*NAMES, "custom.*"] == list(AGENT_TYPE_NAMES)
    assert set(NAMES) - {"worker_graph_loaded"} == set(DEFAULT_TYPES)


def test_what_is_replayed_and_heard_from_workers_are_types_by_default() -> None:
    assert set(REPLAYED_TYPES) < set(DEFAULT_TYPES)
    assert set(HEARD_FROM_WORKERS) < set(DEFAULT_TYPES)


@pytest.mark.parametrize("name", CRITICAL)
def test_what_the_design_calls_critical_is_never_skipped(name: str) -> None:
    assert SCHEMA.delivery(name) is Delivery.CRITICAL


@pytest.mark.parametrize("name", ["client_output_delta", "llm_text_delta", "node_update"])
def test_deltas_may_be_skipped_and_are_counted(name: str) -> None:
    assert SCHEMA.delivery(name) is Delivery.SHEDDABLE


@pytest.mark.parametrize("name", ["custom.anything", "custom.a.b", "of_the_future"])
def test_what_nobody_said_may_be_skipped_is_critical(name: str) -> None:
    assert SCHEMA.delivery(name) is Delivery.CRITICAL


@pytest.mark.parametrize("name", ["goal_progress", "context_usage_updated"])
def test_of_a_state_only_the_newest_of_each_worker_matters(name: str) -> None:
    def key(subject: str, worker: str | None) -> tuple[str, str, str]:
        return SCHEMA.latest_key(Record(seq=1, type=name, tenant="t", subject=subject, worker=worker, data=b"{}"))

    assert SCHEMA.delivery(name) is Delivery.LATEST
    assert key("session/a", "1") == key("session/a", "1")
    assert len({key("session/a", "1"), key("session/a", "2"), key("session/b", "1"), key("session/a", None)}) == 4


@pytest.mark.parametrize("event", AGENT_TYPES)
def test_every_type_says_in_its_docstring_what_it_is(event: type) -> None:
    assert event.__doc__


@pytest.mark.parametrize("name", [*NAMES, "custom.note"])
def test_a_type_is_built_read_back_and_keeps_what_it_does_not_name(name: str) -> None:
    built = SCHEMA.build({"type": name, "extra": {"a": [1, None]}, "stream_id": "queen"}, GIVEN, AGENT_TYPE_NAMES)
    assert built.type == name
    shown = msgspec.json.decode(built.data)
    assert shown == {
        "type": name,
        "extra": {"a": [1, None]},
        "stream_id": "queen",
        "tenant": "t",
        "ts": "2026-01-01T00:00:00Z",
        "session_id": "s",
    }
    assert next(iter(shown)) == "type"


@pytest.mark.parametrize("name", ["custom", "custom.", "custom.*", "custom.A", "custom.a b", "custom." + "a" * 101, ""])
def test_what_is_not_a_custom_type_is_refused(name: str) -> None:
    with pytest.raises(InvalidEvent, match="client_output_delta"):
        SCHEMA.build({"type": name}, GIVEN, AGENT_TYPE_NAMES)


@pytest.mark.parametrize("field", ["tenant", "ts", "session_id"])
def test_what_the_service_knows_cannot_be_sent(field: str) -> None:
    with pytest.raises(InvalidEvent, match=field):
        SCHEMA.build({"type": "execution_started", field: "x"}, GIVEN, AGENT_TYPE_NAMES)


@pytest.mark.parametrize("name", ["status", "deleted", "client_input_received"])
def test_a_worker_cannot_say_what_is_the_services_to_say(name: str) -> None:
    assert name not in WORKER_TYPES


@pytest.mark.parametrize(
    ("stream_id", "worker"),
    [("worker:7", "7"), ("worker:", ""), ("worker:a:b", "a:b"), ("queen", None), ("workers:7", None), (None, None)],
)
def test_who_begins_with_worker_is_one(stream_id: str | None, worker: str | None) -> None:
    fields = {"type": "llm_text_delta", **({} if stream_id is None else {"stream_id": stream_id})}
    assert worker_of(SCHEMA.build(fields, GIVEN, AGENT_TYPE_NAMES).event) == worker


@pytest.mark.parametrize(
    "pattern", ["execution_*", "custom.*", "custom.note", "custom.a*", "*", "*_delta", "node_update"]
)
def test_globs_and_members_of_the_family_can_be_selected(pattern: str) -> None:
    assert SCHEMA.select([pattern]) == (pattern,)


@pytest.mark.parametrize("pattern", ["nothing*", "custom", "Execution_*", "execution_?", "", "execution_started\n"])
def test_what_matches_no_type_is_refused_naming_all(pattern: str) -> None:
    with pytest.raises(UnknownTypes) as refused:
        SCHEMA.select([pattern])
    assert all(name in str(refused.value) for name in (*NAMES, "custom.*", "status", "node_update", "error"))
