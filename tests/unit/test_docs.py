"""The documentation says what the code does: examples decode, tables agree, links lead somewhere."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct
from prometheus_client.metrics import MetricWrapperBase

import shared
from services.runs import api as runs_api
from services.runs import requests
from services.runs import store as runs_store
from services.runs.agent_events import AGENT_TYPES, DEFAULT_TYPES, HEARD_FROM_WORKERS, REPLAYED_TYPES, AgentEvent
from services.runs.events import RUN_TYPES, SCHEMA, WORKER_TYPES
from services.runs.model import RunView
from services.runs.runners import make_runners
from services.runs.sessions import Published
from services.runs.steps import Appended
from services.tasks import api as tasks_api
from services.tasks import effects
from services.tasks import requests as tasks_requests
from services.tasks import store as tasks_store
from services.tasks import subscriptions as tasks_subscriptions
from services.tasks.events import SCHEMA as TASKS_SCHEMA
from services.tasks.events import TERMINAL as TASKS_TERMINAL
from services.tasks.lifecycle import check_patch
from services.tasks.merge import merge
from services.tasks.model import NEXT, TaskFields, TaskView
from shared.edge import metrics, websocket
from shared.edge.admission import Follow
from shared.edge.auth.scopes import SCOPES
from shared.edge.problems import BadInput
from shared.edge.settings import PREFIX, Settings
from shared.protocol import control
from shared.protocol.ends import EndReason
from shared.protocol.errors import InvalidEvent
from shared.protocol.position import Position, ResetReason
from shared.protocol.schema import Event
from shared.protocol.sse import SseDecoder

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md")))]

FENCE = re.compile(r"^```(\S+) (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
A_RUN = "(a run, as above)"
SESSIONS = re.compile(r"^## Sessions$(.*?)^## ", re.MULTILINE | re.DOTALL)
REFUSED = re.compile(r'_refuse\(tx, [^,]+, "(\w+)"\)|return "(\w+)"')
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#([^)]*))?\)|\]\(#([^)]+)\)")


class ProblemDocument(Struct, frozen=True, forbid_unknown_fields=True):
    type: str
    title: str
    status: int
    detail: str
    request_id: str


class Frame(Struct, frozen=True, forbid_unknown_fields=True):
    event: dict[str, Any]
    id: str | None = None
    ref: str | None = None


class PollAnswer(Struct, frozen=True, forbid_unknown_fields=True):
    data: list[Frame]
    head: str
    next: str
    ended: str | None


CONTROLS: tuple[type[Struct], ...] = (
    control.Hello,
    control.Live,
    control.Bookmark,
    control.Gap,
    control.Reset,
    control.StreamEnd,
    control.Pong,
    control.Authenticated,
    control.BadMessage,
    websocket.Refused,
)
EVENTS: dict[str, type[Struct]] = {  # by the name that their examples have
    **{event.__name__: event for event in (*CONTROLS, *SCHEMA.types.values())},
    "Snapshot": TASKS_SCHEMA.types["snapshot"],
    "TaskDeleted": TASKS_SCHEMA.types["deleted"],
}
PRIMARY = {"sse": None, "snapshots": tasks_subscriptions.PRIMARY}  # of the streams that are shown
BODIES: dict[str, type[Struct]] = {
    body.__name__: body
    for body in (
        requests.CreateRun,
        requests.CreateBatch,
        requests.InputRun,
        requests.RunList,
        requests.RunnerList,
        requests.RunState,
        requests.RunPage,
        requests.LeaseRequest,
        requests.LeaseGiven,
        requests.LeaseRenewed,
        requests.AppendEvents,
        requests.FinishRun,
        tasks_requests.CreateTask,
        tasks_requests.TaskPage,
        Appended,
        Published,
    )
}
STRUCTS = {**BODIES, **EVENTS}


def text_of(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def examples(language: str) -> list[tuple[str, str]]:
    """The fenced blocks of the protocol page that name what they are."""
    return [(name, body) for tongue, name, body in FENCE.findall(text_of("docs/protocol.md")) if tongue == language]


def rows(page: str, first: str) -> Iterator[list[str]]:
    """The rows of the tables whose header begins with `first`, without marks."""
    inside = False
    for line in text_of(page).splitlines():
        cells = [cell.strip(" `") for cell in line[1:-1].split("|")] if line.startswith("|") else []
        if inside and cells and not line.startswith("|---"):
            yield cells
        inside = bool(cells) and (inside or cells[0] == first)


def decode_exactly(value: object, into: type[Struct]) -> Any:
    """Decode; a field that the Struct does not have is a mistake of the page, unless its fields are open."""
    decoded = msgspec.json.decode(json.dumps(value), type=into)
    assert isinstance(value, dict)
    if issubclass(into, Event) and into.open_fields:
        return decoded
    strange = set(value) - set(into.__struct_encode_fields__) - {into.__struct_config__.tag_field}
    assert strange == set(), f"{into.__name__} has no {strange}"
    return decoded


def decode_event(event: dict[str, Any]) -> Any:
    """As the type of this name whose subject it has: runs and tasks are both deleted."""
    of_type = [struct for struct in EVENTS.values() if _tag(struct) == event["type"]]
    assert of_type, f"there is no type {event['type']}"
    decoded = decode_exactly(event, next((struct for struct in of_type if _needed(struct) <= set(event)), of_type[0]))
    if event["type"] == "refused":
        msgspec.convert(event["problem"], ProblemDocument)
    return decoded


def _tag(struct: type[Struct]) -> str:
    return str(struct.__struct_config__.tag)


def _needed(struct: type[Struct]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(struct) if field.required}


def decode_frame(frame: Frame) -> Any:
    if frame.id is not None:
        Position.parse(frame.id)
    return decode_event(frame.event)


def decode_example(name: str, value: Any) -> Any:
    match name:
        case "frames":
            return [decode_frame(frame) for frame in msgspec.convert(value, list[Frame])]
        case "message":
            return msgspec.convert(value, websocket.Ping | websocket.Auth | websocket.Unfollow | Follow)
        case "poll":
            return [decode_frame(frame) for frame in msgspec.convert(value, PollAnswer).data]
        case "problem":
            return msgspec.convert(value, ProblemDocument)
        case "TaskPatch":
            check_patch(value)
            return msgspec.convert(merge(msgspec.to_builtins(TaskFields(title="a task")), value), TaskFields)
        case "AppendEvents":
            given = {"tenant": "default", "ts": datetime.now(UTC), "run_id": "run_01m7wcj9x55rb254v1tfp607ky"}
            return [SCHEMA.build(event, given, WORKER_TYPES) for event in decode_exactly(value, STRUCTS[name]).events]
        case _:
            return decode_exactly(with_a_run(value), STRUCTS[name])


def with_a_run(value: Any) -> Any:
    """The example, with the page's run in each place that says so."""
    if value == A_RUN:
        return json.loads(dict(examples("json"))["RunPage"])["data"][0]
    if isinstance(value, dict):
        return {name: with_a_run(part) for name, part in value.items()}
    return [with_a_run(part) for part in value] if isinstance(value, list) else value


# ── examples ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("name", "example"), examples("json"))
def test_a_json_example_is_what_it_says(name: str, example: str) -> None:
    assert decode_example(name, json.loads(example)) is not None


def test_a_wrong_example_would_be_noticed() -> None:
    for name, value in [
        ("Live", {"type": "live"}),
        ("Live", {"type": "live", "replayed": 1, "more": 2}),
        ("frames", [{"id": "nonsense", "event": {"type": "bookmark"}}]),
        ("message", {"op": "sing"}),
        ("RunState", {"run": "(a run, as below)", "cancel": False}),
        ("AppendEvents", {"events": [{"type": "node_update", "node": "reader", "more": 1}]}),
        ("frames", [{"id": "k3f9a2-1", "event": {"type": "unheard"}}]),
        ("frames", [{"id": "k3f9a2-1", "event": {"type": "deleted", "ts": "2026-11-20T12:36:03Z", "tenant": "t"}}]),
        ("TaskPatch", {"rev": 1}),
        ("TaskPatch", {"progress": {"more": 1}}),
        ("TaskPatch", {"title": None}),
        ("ToolCallStarted", {"type": "tool_call_started", "ts": "2026-11-20T12:36:03Z", "tenant": "t", "tool": 1}),
    ]:
        with pytest.raises((msgspec.ValidationError, AssertionError, ValueError, InvalidEvent, BadInput)):
            decode_example(name, value)


def test_the_page_shows_every_event_frame_message_and_body() -> None:
    """Of the agents' events, which have a table of their own, one."""
    shown = {name for name, _ in examples("json")}
    framed = {
        frame["event"]["type"] for name, body in examples("json") if name == "frames" for frame in json.loads(body)
    }
    messages = {json.loads(body)["op"] for name, body in examples("json") if name == "message"}
    agents = {event.__name__ for event in AGENT_TYPES}
    by_itself = {name for name, event in EVENTS.items() if _tag(event) not in framed} - agents
    assert agents & shown
    assert by_itself | set(BODIES) | {"TaskPatch"} <= shown
    assert {*CONTROLS, *SCHEMA.types.values(), *TASKS_SCHEMA.types.values()} == set(EVENTS.values())
    assert messages == {"ping", "auth", "follow", "unfollow"}


def the_example(name: str) -> Any:
    (example,) = (json.loads(body) for shown, body in examples("json") if shown == name)
    return example


def test_the_page_shows_all_fields_of_a_new_run_or_task_with_their_defaults() -> None:
    run, task = the_example("CreateRun"), the_example("CreateTask")
    assert run == msgspec.to_builtins(requests.CreateRun(task=run["task"]))
    assert task == msgspec.to_builtins(tasks_requests.CreateTask(title=task["title"]))


def test_the_page_shows_all_fields_of_a_run_a_task_and_a_snapshot() -> None:
    assert list(the_example("RunPage")["data"][0]) == list(RunView.__struct_encode_fields__)
    task = the_example("TaskPage")["data"][0]
    assert list(task) == list(TaskView.__struct_encode_fields__)
    assert [step.keys() for step in task["steps"]] == [{"name", "status", "message", "started_at", "finished_at"}]
    assert set(the_example("Snapshot")) == {"type", *TASKS_SCHEMA.types["snapshot"].__struct_encode_fields__}


@pytest.mark.parametrize(("name", "example"), examples("text"))
def test_an_sse_example_is_a_stream(name: str, example: str) -> None:
    decoder = SseDecoder()
    messages = list(decoder.decode(example.encode()))
    assert (messages[0].event, messages[-1].event) == ("hello", "stream_end")
    for message in messages:
        event = json.loads(message.data)
        assert message.event == ("message" if event["type"] == PRIMARY[name] else event["type"])
        Position.parse(message.id)
        decode_event(event)


def test_every_kind_of_stream_is_shown() -> None:
    assert [name for name, _ in examples("text")] == list(PRIMARY)


# ── tables ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_table_of_ends_is_the_one_in_the_code() -> None:
    table = [(label, final, code) for label, final, code, _ in rows("docs/protocol.md", "reason")]
    assert table == [(end.label, str(end.final).lower(), str(end.close_code)) for end in EndReason]


def test_every_reason_of_a_reset_is_told() -> None:
    assert {reason for reason, _ in rows("docs/protocol.md", "reason of a reset")} == {
        str(reason) for reason in ResetReason
    }


def test_every_type_is_told_with_its_delivery_class() -> None:
    table = {name: delivery for name, delivery, _ in rows("docs/protocol.md", "type")}
    assert table == {name: SCHEMA.delivery(name).value for name in RUN_TYPES}
    assert {*RUN_TYPES, *(str(event.__struct_config__.tag) for event in AGENT_TYPES)} == set(SCHEMA.names)


def test_every_type_of_a_tasks_event_is_told_with_its_delivery_class() -> None:
    table = {name: delivery for name, delivery, _ in rows("docs/protocol.md", "type of a task's event")}
    assert table == {name: TASKS_SCHEMA.delivery(name).value for name in TASKS_SCHEMA.types}


def test_every_field_of_a_task_is_told_and_who_sets_it() -> None:
    table = {name: who for name, who, _ in rows("docs/protocol.md", "field of a task")}
    of_callers = set(TaskFields.__struct_fields__)
    assert list(table) == list(TaskView.__struct_encode_fields__)
    assert table == {name: "the caller" if name in of_callers else "the service" for name in table}


def test_the_table_of_moves_is_the_one_in_the_code() -> None:
    table = {before: set(words(after)) for before, after in rows("docs/protocol.md", "status of a task")}
    assert table == NEXT
    assert {before for before, after in table.items() if not after} == TASKS_TERMINAL


def test_every_reason_of_a_refused_move_is_told() -> None:
    told = [reason for reason, _ in rows("docs/protocol.md", "reason of a refused move")]
    known = {one or other for one, other in REFUSED.findall(Path(effects.__file__).read_text("utf-8"))}
    assert len(known) > 3
    assert set(told) == known


@pytest.mark.parametrize(("path", "filters"), [("runs", runs_store.FILTERS), ("tasks", tasks_store.FILTERS)])
def test_the_filters_of_a_list_are_told(path: str, filters: tuple[str, ...]) -> None:
    told = re.search(rf"^\| `GET /api/v1/{path}` \| .*; filters (.*?);", text_of("docs/protocol.md"), re.MULTILINE)
    assert told is not None
    assert words(told[1]) == list(filters)


def test_the_bounds_of_a_tasks_pace_are_told() -> None:
    lowest, highest = tasks_subscriptions.INTERVALS
    text = text_of("docs/protocol.md")
    assert f"seconds between two snapshots, {lowest:g} to {highest:g};" in text
    assert f"so many intervals, up to {tasks_subscriptions.MAX_TICKS:,} |" in text


def test_every_agent_event_is_told_with_its_delivery_class_and_fields() -> None:
    table = [(name, delivery, words(fields)) for name, delivery, fields, _ in rows("docs/protocol.md", "agent event")]
    assert table == [(event.__struct_config__.tag, event.delivery.value, _own_fields(event)) for event in AGENT_TYPES]


def _own_fields(event: type[AgentEvent]) -> list[str]:
    return [name for name in event.__struct_fields__ if name not in AgentEvent.__struct_fields__]


def test_the_fields_that_all_agent_events_share_are_told() -> None:
    told = re.search(r"beside its\s+own: (.*?)\. They are", text_of("docs/protocol.md"), re.DOTALL)
    assert told is not None
    shared_fields = set(AgentEvent.__struct_fields__) - set(Event.__struct_fields__)
    assert set(re.findall(r"`([a-z_]+)`", re.sub(r"\([^)]*\)", "", told[1]))) == shared_fields


def test_what_a_session_shows_and_replays_is_told() -> None:
    told = re.sub(r"\s+", " ", (SESSIONS.search(text_of("docs/protocol.md")) or [""])[0])
    (types,) = re.findall(r"all agent events but (.*?)\. With", told)
    (heard,) = re.findall(r"carries only (.*?), whatever", told)
    (replayed,) = re.findall(r"set twice: (.*?), as far", told)
    hidden = [
        str(event.__struct_config__.tag) for event in AGENT_TYPES if event.__struct_config__.tag not in DEFAULT_TYPES
    ]
    assert words(types) == hidden
    assert words(heard) == list(HEARD_FROM_WORKERS)
    assert words(replayed) == list(REPLAYED_TYPES)


def words(text: str) -> list[str]:
    """The names in a list: between marks, or all there are when `rows` has taken the outer marks away."""
    return [word for word in re.split(r"[`, ]+|\band\b", text) if word]


def test_every_runner_is_told() -> None:
    assert [name for name, _ in rows("docs/protocol.md", "runner")] == list(make_runners(Settings()))


def test_every_endpoint_is_told() -> None:
    told = set(re.findall(r"^\| `((?:GET|POST|PUT|PATCH|DELETE) /[^`]*)`", text_of("docs/protocol.md"), re.MULTILINE))
    handled = set()
    for handler in (*runs_api.HANDLERS, *tasks_api.HANDLERS):
        for path in handler.paths:  # type: ignore[attr-defined]  # Litestar's decorators say only that it is callable
            for method in getattr(handler, "http_methods", {"GET"}):  # a WebSocket begins as a GET
                handled.add(f"{method} {path.replace(':str', '')}")
    assert told == handled


def test_every_setting_is_told_with_its_default() -> None:
    table = {name: default for name, default, _ in rows("docs/operations.md", "setting") if name.startswith(PREFIX)}
    assert table == {PREFIX + field.name.upper(): _shown(field.default) for field in msgspec.structs.fields(Settings)}


def test_every_scope_is_told() -> None:
    table = {row[0]: row[1] for row in rows("docs/protocol.md", "scope")}
    assert table.keys() == SCOPES.keys()
    assert all(table[name].startswith(told) for name, told in SCOPES.items())


def test_every_metric_is_told_with_its_labels() -> None:
    table = {name: words(labels) for name, labels, _ in rows("docs/operations.md", "metric")}
    known = [value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)]
    assert {_shown_metric(metric): list(metric._labelnames) for metric in known}.items() <= table.items()


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    dashboard = json.loads((ROOT / "deploy/grafana/tailrace.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    known = {_shown_metric(value) for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)}
    shown = {re.sub("_(bucket|count|sum)$", "", name) for each in asked for name in re.findall(r"tailrace_\w+", each)}
    assert shown
    assert shown <= known


def test_an_alert_is_about_metrics_that_exist() -> None:
    told = " ".join(" ".join(row) for row in rows("docs/operations.md", "alert"))
    known = {_shown_metric(value) for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)}
    named = set(re.findall(r"tailrace_\w+", told))
    assert named
    assert named <= known


def _shown_metric(metric: MetricWrapperBase) -> str:
    (family,) = metric.describe()
    return f"{family.name}_total" if family.type == "counter" else family.name


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:.0f}" if isinstance(default, float) else str(default)


# ── pages ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings_that_exist(page: str) -> None:
    for path, heading, own_heading in LINK.findall(text_of(page)):
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), path
        if heading or own_heading:
            assert (heading or own_heading) in headings(target.read_text("utf-8"))


def headings(text: str) -> set[str]:
    """As a page of this text names the places one can link to."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def test_the_readme_says_the_two_commands_first() -> None:
    before = text_of("README.md").partition("## ")[0]
    assert "make run " in before
    assert "make test " in before


def test_the_examples_name_the_version_that_is_served() -> None:
    assert set(re.findall(r'"server": ?"([^"]+)"', text_of("docs/protocol.md"))) == {f"tailrace/{shared.__version__}"}
