"""The documentation says what the code does: examples decode, tables agree, links lead somewhere."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct

import shared
from services.runs import api, requests
from services.runs.events import SCHEMA
from services.runs.lifecycle import Appended
from services.runs.model import RunView
from shared.edge import websocket
from shared.edge.admission import Follow
from shared.edge.settings import PREFIX, Settings
from shared.protocol import control
from shared.protocol.ends import EndReason
from shared.protocol.position import Position, ResetReason
from shared.protocol.sse import SseDecoder

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md")))]

FENCE = re.compile(r"^```(\S+) (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
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


CONTROLS: dict[str, type[Struct]] = {
    str(frame.__struct_config__.tag): frame
    for frame in (
        control.Hello,
        control.Live,
        control.Bookmark,
        control.Gap,
        control.Reset,
        control.StreamEnd,
        control.Pong,
        control.BadMessage,
        websocket.Refused,
    )
}
EVENTS: dict[str, type[Struct]] = {**CONTROLS, **SCHEMA.types}
BODIES: dict[str, type[Struct]] = {
    body.__name__: body
    for body in (
        requests.CreateRun,
        requests.RunPage,
        requests.LeaseRequest,
        requests.LeaseGiven,
        requests.LeaseRenewed,
        requests.AppendEvents,
        requests.FinishRun,
        Appended,
    )
}
STRUCTS = {**BODIES, **{event.__name__: event for event in EVENTS.values()}}


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
    """Decode; a field that the Struct does not have is a mistake of the page."""
    decoded = msgspec.json.decode(json.dumps(value), type=into)
    assert isinstance(value, dict)
    strange = set(value) - set(into.__struct_encode_fields__) - {into.__struct_config__.tag_field}
    assert strange == set(), f"{into.__name__} has no {strange}"
    return decoded


def decode_event(event: dict[str, Any]) -> Any:
    decoded = decode_exactly(event, EVENTS[event["type"]])
    if event["type"] == "refused":
        msgspec.convert(event["problem"], ProblemDocument)
    return decoded


def decode_frame(frame: Frame) -> Any:
    if frame.id is not None:
        Position.parse(frame.id)
    return decode_event(frame.event)


def decode_example(name: str, value: Any) -> Any:
    match name:
        case "frames":
            return [decode_frame(frame) for frame in msgspec.convert(value, list[Frame])]
        case "message":
            return msgspec.convert(value, websocket.Ping | websocket.Unfollow | Follow)
        case "poll":
            return [decode_frame(frame) for frame in msgspec.convert(value, PollAnswer).data]
        case "problem":
            return msgspec.convert(value, ProblemDocument)
        case "LeaseGiven":
            run = json.loads(dict(examples("json"))["RunPage"])["data"][0]
            return decode_exactly({**value, "run": run}, requests.LeaseGiven)
        case _:
            return decode_exactly(value, STRUCTS[name])


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
    ]:
        with pytest.raises((msgspec.ValidationError, AssertionError, ValueError)):
            decode_example(name, value)


def test_the_page_shows_every_event_frame_message_and_body() -> None:
    shown = {name for name, _ in examples("json")}
    framed = {
        frame["event"]["type"] for name, body in examples("json") if name == "frames" for frame in json.loads(body)
    }
    messages = {json.loads(body)["op"] for name, body in examples("json") if name == "message"}
    by_itself = {event.__name__ for tag, event in EVENTS.items() if tag not in framed}
    assert by_itself | set(BODIES) <= shown
    assert messages == {"ping", "follow", "unfollow"}


def test_the_page_shows_all_fields_of_a_new_run_with_their_defaults() -> None:
    (example,) = (json.loads(body) for name, body in examples("json") if name == "CreateRun")
    assert example == msgspec.to_builtins(requests.CreateRun(task=example["task"]))


def test_the_page_shows_all_fields_of_a_run() -> None:
    (page,) = (json.loads(body) for name, body in examples("json") if name == "RunPage")
    assert list(page["data"][0]) == list(RunView.__struct_encode_fields__)


@pytest.mark.parametrize("example", [body for _, body in examples("text")])
def test_the_sse_example_is_a_stream(example: str) -> None:
    decoder = SseDecoder()
    messages = list(decoder.decode(example.encode()))
    assert (messages[0].event, messages[-1].event) == ("hello", "stream_end")
    for message in messages:
        event = json.loads(message.data)
        assert event["type"] == message.event
        Position.parse(message.id)
        decode_event(event)


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
    assert table == {name: SCHEMA.delivery(name).value for name in SCHEMA.names}


def test_every_endpoint_is_told() -> None:
    told = set(re.findall(r"^\| `((?:GET|POST|PUT|PATCH|DELETE) /[^`]*)`", text_of("docs/protocol.md"), re.MULTILINE))
    handled = set()
    for handler in api.HANDLERS:
        for path in handler.paths:  # type: ignore[attr-defined]  # Litestar's decorators say only that it is callable
            for method in getattr(handler, "http_methods", {"GET"}):  # a WebSocket begins as a GET
                handled.add(f"{method} {path.replace(':str', '')}")
    assert told == handled


def test_every_setting_is_told_with_its_default() -> None:
    table = {name: default for name, default, _ in rows("docs/operations.md", "setting") if name.startswith(PREFIX)}
    assert table == {PREFIX + field.name.upper(): _shown(field.default) for field in msgspec.structs.fields(Settings)}


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
