"""The terminal: colours and a status line for people, neither for programs."""

import io
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.commands.lines import Line
from services.commands.terminal import CLEAR, Terminal

LINE = Line("12:00:00", (("good", "completed"), ("plain", "text"), ("dim", ""), ("busy", "more")))
PLAIN = "12:00:00 completed text more\n"
PAINTED = "\x1b[2m12:00:00\x1b[0m \x1b[32mcompleted\x1b[0m text \x1b[36mmore\x1b[0m\n"


class Screen(io.StringIO):
    """Somewhere to write that a person looks at."""

    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")


def screens(**options: Any) -> tuple[Terminal, Screen, Screen, Clock]:
    """A terminal that a person looks at, both its streams, and its clock."""
    out, err, clock = Screen(), Screen(), Clock()
    return Terminal(out=out, err=err, clock=clock, **options), out, err, clock


@pytest.mark.parametrize(
    ("options", "environment", "shown"),
    [
        ({}, {}, PAINTED),
        ({}, {"NO_COLOR": "1"}, PLAIN),
        ({}, {"NO_COLOR": ""}, PAINTED),  # set and empty: as if it were not set
        ({}, {"TERM": "dumb"}, PLAIN),
        ({"colour": False}, {}, PLAIN),
        ({"colour": True}, {"NO_COLOR": "1"}, PAINTED),
    ],
)
def test_a_screen_gets_colours_unless_somebody_minds(
    options: dict[str, Any], environment: dict[str, str], shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    terminal, out, _, _ = screens(**options)
    terminal.line(LINE)
    assert out.getvalue() == shown


def test_a_pipe_gets_no_colours_and_no_status_line() -> None:
    out, err, clock = io.StringIO(), io.StringIO(), Clock()
    terminal = Terminal(out=out, err=err, clock=clock)
    clock.now = 60
    terminal.waiting("nothing new")
    terminal.line(LINE)
    terminal.clear()
    assert (out.getvalue(), err.getvalue()) == (PLAIN, "")


def test_the_status_line_appears_after_a_while_and_goes_before_the_next_line() -> None:
    terminal, out, err, clock = screens()
    terminal.waiting("nothing new")
    clock.now = 1.9
    terminal.waiting("nothing new")
    assert err.getvalue() == ""
    clock.now = 12.3
    terminal.waiting("nothing new")
    assert err.getvalue() == f"{CLEAR}\x1b[2m… 12 s: nothing new\x1b[0m"
    terminal.line(LINE)
    assert err.getvalue().endswith(CLEAR)
    assert out.getvalue() == PAINTED
    clock.now = 13
    terminal.waiting("nothing new")  # counted from the last line
    assert err.getvalue().endswith(CLEAR)
    assert err.getvalue().count(CLEAR) == 2


def test_the_status_line_is_one_line_that_can_be_taken_back() -> None:
    terminal, _, err, clock = screens(colour=False)
    clock.now = 5
    terminal.waiting("trouble " * 100 + "\x1b[2J\n")
    shown = err.getvalue().removeprefix(CLEAR)
    assert shown.isprintable()
    assert len(shown) < 60
    terminal.clear()
    terminal.clear()
    assert err.getvalue() == f"{CLEAR}{shown}{CLEAR}"


@pytest.mark.parametrize("term", ["dumb"])
def test_a_dumb_terminal_gets_no_status_line(term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", term)
    terminal, _, err, clock = screens()
    clock.now = 5
    terminal.waiting("nothing new")
    assert err.getvalue() == ""


def test_what_servers_say_of_themselves_is_harmless_too() -> None:
    terminal, out, err, _ = screens()
    terminal.tell("no\x1b[2J\nway")
    terminal.text("run_\x1b[31mx")
    assert (err.getvalue(), out.getvalue()) == ("no[2J way\n", "run_[31mx\n")


@given(
    event=st.dictionaries(
        st.text(), st.text() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    )
)
def test_a_frame_of_json_is_one_harmless_line_and_the_same_value(event: dict[str, Any]) -> None:
    out = Screen()
    Terminal(json=True, out=out, err=Screen()).frame("e-1", event)
    line = out.getvalue()
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert json.loads(line) == msgspec.json.decode(line) == {"id": "e-1", "event": json.loads(json.dumps(event))}


def test_json_is_never_coloured_and_has_no_status_line() -> None:
    terminal, out, err, clock = screens(json=True, colour=True)
    clock.now = 60
    terminal.waiting("nothing new")
    terminal.frame("e-1", {"type": "log", "message": "a\x9b31m\u202e\U000e0041\x7f漢"})
    assert out.getvalue() == (
        '{"id":"e-1","event":{"type":"log","message":"a\\u009b31m\\u202e\\udb40\\udc41\\u007f漢"}}\n'
    )
    assert err.getvalue() == ""
