"""The page on previews says what the code does."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from msgspec import Struct

from services.previews import api, requests
from services.previews.events import SCHEMA, TERMINAL, Kind
from services.previews.launch.isolation import NAMES
from services.previews.logs import LOG_PARAMETERS, LogPage
from services.previews.model import NEXT, PreviewView
from services.previews.store import FILTERS
from services.previews.subscriptions import DEFAULT_TAIL, MAX_TAIL
from shared.edge.access import TicketAsked
from shared.edge.tickets import Ticket

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/previews.md").read_text("utf-8")
FENCE = re.compile(r"^```json (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES: list[tuple[str, str]] = FENCE.findall(TEXT)
STRUCTS: dict[str, type[Struct]] = {
    **{event.__name__: event for event in SCHEMA.types.values()},
    **{
        body.__name__: body
        for body in (
            requests.CreatePreview,
            requests.ChangeFiles,
            requests.PreviewFiles,
            requests.PreviewPage,
            LogPage,
            TicketAsked,
            Ticket,
        )
    },
}


def rows(first: str) -> list[list[str]]:
    """The rows of the table whose header begins with `first`, without marks."""
    found: list[list[str]] = []
    inside = False
    for line in TEXT.splitlines():
        cells = [cell.strip(" `") for cell in line[1:-1].split("|")] if line.startswith("|") else []
        if inside and cells and not line.startswith("|---"):
            found.append(cells)
        inside = bool(cells) and (inside or cells[0] == first)
    return found


def words(text: str) -> list[str]:
    return [word for word in re.split(r"[`, ]+", text) if word]


def the_example(name: str) -> Any:
    (example,) = (json.loads(body) for shown, body in EXAMPLES if shown == name)
    return example


@pytest.mark.parametrize(("name", "example"), EXAMPLES)
def test_a_json_example_is_what_it_says(name: str, example: str) -> None:
    struct = STRUCTS[name]
    msgspec.json.decode(example, type=struct)
    strange = set(json.loads(example)) - set(struct.__struct_encode_fields__) - {"type"}
    assert strange == set()


def test_every_event_and_body_is_shown() -> None:
    assert {name for name, _ in EXAMPLES} == STRUCTS.keys()


def test_all_fields_are_shown() -> None:
    assert list(the_example("PreviewPage")["data"][0]) == list(PreviewView.__struct_encode_fields__)
    assert list(the_example("CreatePreview")) == list(requests.CreatePreview.__struct_encode_fields__)
    line = set(SCHEMA.types["log"].__struct_encode_fields__) - {"dropped"}
    assert set(the_example("Log")) == line | {"type"} == set(the_example("LogPage")["data"][0])


def test_the_defaults_of_a_launch_are_told() -> None:
    told = the_example("CreatePreview")
    default = requests.CreatePreview(files={}, kind="asgi")
    assert told["health"] == msgspec.to_builtins(default.health)
    assert (told["command"], told["network"]) == (default.command, default.network)


def test_every_endpoint_is_told() -> None:
    told = set(re.findall(r"^\| `((?:GET|POST|PATCH|DELETE) /[^`]*)`", TEXT, re.MULTILINE))
    handled = {"POST /api/v1/stream-tickets"}
    for handler in api.HANDLERS:
        for path in handler.paths:  # type: ignore[attr-defined]  # Litestar's decorators say only that it is callable
            for method in getattr(handler, "http_methods", {"GET"}):  # a WebSocket begins as a GET
                handled.add(f"{method} {path.replace(':str', '')}")
    assert told == handled


def test_the_tables_are_those_of_the_code() -> None:
    moves = {before: set(words(after)) for before, after, _ in rows("status of a preview")}
    assert moves == NEXT
    assert [status for status, _, _ in rows("status of a preview")][-len(TERMINAL) :] == list(
        dict.fromkeys(status for status in NEXT if status in TERMINAL)
    )
    types = {name: delivery for name, delivery, _ in rows("type of a preview's event")}
    assert types == {name: SCHEMA.delivery(name).value for name in SCHEMA.types}
    assert [kind for kind, *_ in rows("kind")] == list(get_args(Kind))
    told = [name for names, _ in rows("parameter of the logs") for name in words(names)]
    assert sorted(told) == sorted(LOG_PARAMETERS)


def test_the_filters_of_the_list_and_the_bounds_of_the_tail_are_told() -> None:
    told = re.search(r"filters (.*?) \|", TEXT)
    assert told is not None
    assert words(told[1]) == list(FILTERS)
    assert f"last {DEFAULT_TAIL} lines; `?tail=` says how many, 0 to {MAX_TAIL:,}" in TEXT


def test_every_tier_is_told_to_the_operator() -> None:
    operations = (ROOT / "docs/operations.md").read_text("utf-8")
    assert "| out of a program's reach | " + " | ".join(f"`{name}`" for name in NAMES) + " |" in operations
