"""Where lines go: standard output, in colour for people, and a status line on standard error while they wait."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import msgspec

from services.commands.lines import Line, Style, seen

COLOURS: Mapping[Style, str] = {"dim": "2", "good": "32", "bad": "31", "warn": "33", "busy": "36"}
CLEAR = "\r\x1b[K"
QUIET_SECONDS = 2  # so long nobody asks what is going on


class Terminal:
    """Prints events as lines or, with `json`, as one JSON object each. `colour` None: where a person looks at them."""

    def __init__(
        self,
        *,
        json: bool = False,
        colour: bool | None = None,
        out: TextIO | None = None,
        err: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._json = json
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self._clock = clock
        is_dumb = os.environ.get("TERM") == "dumb"
        if colour is None:  # https://no-color.org
            colour = self._out.isatty() and not os.environ.get("NO_COLOR") and not is_dumb
        self._colour = colour and not json
        self._waits = self._err.isatty() and not json and not is_dumb
        self._status = False
        self._since = clock()

    @property
    def is_json(self) -> bool:
        return self._json

    def frame(self, position: str, event: Mapping[str, Any]) -> None:
        """One frame as JSON, the same as ndjson has it."""
        self._write(_harmless(str(msgspec.json.encode({"id": position, "event": event}), "utf-8")))

    def line(self, line: Line) -> None:
        parts = [self._painted("dim", line.time), *(self._painted(style, text) for style, text in line.parts if text)]
        self._write(" ".join(parts))

    def text(self, text: str) -> None:
        """A line for scripts, such as an id."""
        self._write(seen(text))

    def tell(self, sentence: str) -> None:
        """A sentence beside the output."""
        self.clear()
        print(seen(sentence), file=self._err, flush=True)

    def waiting(self, what: str) -> None:
        """Show that we wait, and for how long already; only to people."""
        seconds = int(self._clock() - self._since)
        if self._waits and seconds >= QUIET_SECONDS:
            text = f"… {seconds} s: {seen(what)}"[
                : shutil.get_terminal_size().columns - 1
            ]  # one line can be taken back
            self._err.write(f"{CLEAR}{self._painted('dim', text)}")
            self._err.flush()
            self._status = True

    def clear(self) -> None:
        """Take the status line back."""
        if self._status:
            self._status = False
            self._err.write(CLEAR)
            self._err.flush()

    def _write(self, text: str) -> None:
        self.clear()
        self._since = self._clock()
        print(text, file=self._out, flush=True)

    def _painted(self, style: Style, text: str) -> str:
        code = COLOURS.get(style) if self._colour else None
        return text if code is None else f"\x1b[{code}m{text}\x1b[0m"


def _harmless(json: str) -> str:
    """The same JSON without what some terminals obey: JSON itself escapes only the controls below the space."""
    return json if json.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in json)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
