"""Where lines go: standard output, in colour for people, and a status line on standard error while they wait."""

import os
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

import msgspec

from services.commands.lines import Line, Style

COLOURS: Mapping[Style, str] = {"dim": "2", "good": "32", "bad": "31", "warn": "33", "busy": "36"}
CLEAR = "\r\x1b[K"


class Terminal:
    """Prints events as lines or, with `json`, as one JSON object each."""

    def __init__(
        self, *, json: bool = False, colour: bool | None = None, out: TextIO = sys.stdout, err: TextIO = sys.stderr
    ) -> None:
        self._json = json
        self._out = out
        self._err = err
        if colour is None:  # https://no-color.org
            colour = out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._colour = colour and not json
        self._waits = err.isatty() and not json
        self._status = False
        self._since = time.monotonic()

    @property
    def is_json(self) -> bool:
        return self._json

    def frame(self, position: str, event: Mapping[str, Any]) -> None:
        """One frame as JSON, the same as ndjson has it."""
        self._write(str(msgspec.json.encode({"id": position, "event": event}), "utf-8"))

    def line(self, line: Line) -> None:
        parts = [self._painted("dim", line.time), *(self._painted(style, text) for style, text in line.parts if text)]
        self._write(" ".join(parts))

    def text(self, text: str) -> None:
        """A line for scripts, such as an id."""
        self._write(text)

    def tell(self, sentence: str) -> None:
        """A sentence beside the output."""
        self._clear()
        print(sentence, file=self._err, flush=True)

    def waiting(self, what: str) -> None:
        """Show that we wait, and for how long already; only to people."""
        seconds = int(time.monotonic() - self._since)
        if self._waits and seconds >= 2:
            self._err.write(f"{CLEAR}{self._painted('dim', f'… {what}, {seconds} s')}")
            self._err.flush()
            self._status = True

    def close(self) -> None:
        self._clear()

    def _write(self, text: str) -> None:
        self._clear()
        self._since = time.monotonic()
        print(text, file=self._out, flush=True)

    def _clear(self) -> None:
        if self._status:
            self._err.write(CLEAR)
            self._err.flush()
            self._status = False

    def _painted(self, style: Style, text: str) -> str:
        code = COLOURS.get(style) if self._colour else None
        return text if code is None else f"\x1b[{code}m{text}\x1b[0m"
