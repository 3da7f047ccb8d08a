"""The level of a line of output: DEBUG, INFO, WARN or ERROR.

A line says its level in one of the forms that programs use: a word in capitals (`ERROR:root:`, `[WARN]`, `| INFO |`),
a word before a colon or in brackets (`warning: unused`, `error[E0308]:`, `[error]`), `npm warn`, `level=error`, a JSON
member (`"level":50`), klog's letter, an exception's name, a Python warning. The first one counts. CRITICAL, FATAL and
the like are ERROR, TRACE is DEBUG. Numbers are pino's and bunyan's: 30 is INFO.

A line that says nothing is INFO, on stderr as on stdout: most programs that log at all log everything to stderr, and
a terminal that is red throughout tells nothing. It is ERROR as part of a traceback (see tracebacks.py).

Only the first 200 characters are looked at, colours not counted (of JSON 1,000: structlog puts the level last). Words
are found first and judged by what stands beside them: a usual line takes 3 µs, the worst 80.
`python -m tests.bench.capture`
"""

import re
from typing import Literal

from services.previews.lines import Piece
from services.previews.tracebacks import Traceback

Level = Literal["DEBUG", "INFO", "WARN", "ERROR"]

LOOKED_AT = 200  # characters
_LOOKED_AT_JSON = 1000
_COLOURED = 4  # times as much is read of a line with colours, before they are taken out

_NAMES: dict[Level, str] = {
    "DEBUG": "trace trc trce verbose silly debug dbg dbug",
    "INFO": "info inf information notice note log success",
    "WARN": "warn wrn warning",
    "ERROR": "error err fail eror critical crit fatal ftl severe panic pnc alert emerg emergency exception",
}
_LEVELS: dict[str, Level] = {
    spelled: level
    for level, names in _NAMES.items()
    for name in names.split()
    for spelled in (name, name.upper(), name.capitalize())
}
_NOT_ALONE = {"NOTE", "LOG", "FAIL", "ALERT"}  # these need their colon or brackets, in capitals too
_NUMBERS: tuple[tuple[int, Level], ...] = ((50, "ERROR"), (40, "WARN"), (30, "INFO"))
_LETTERS: dict[str, Level] = {"D": "DEBUG", "I": "INFO", "W": "WARN", "E": "ERROR", "F": "ERROR"}

_KNOWN = frozenset(_LEVELS)
_WORD = re.compile(r"[A-Za-z]+")
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
_BEFORE_CAPITALS, _AFTER_CAPITALS = " \t[(|<:>*-", " \t])|>:,!*-"
_CODE = re.compile(r"\[\w{1,12}\]:(?:\s|$)")  # the rest of Rust's error[E0308]:
_FIELD = re.compile(r"\b(?:level|lvl|severity)=\"?$")
_EXCEPTION = re.compile(r"(?:Uncaught )?[\w$.]{0,100}(?:Error|Exception)(?: \[\w{1,60}\])?(?::|$)")
_WARNING = re.compile(r":\d{1,7}: \w{0,60}Warning:")
_KLOG = re.compile(r"([DIWEF])\d{4} \d\d:\d\d:\d\d\.")
_MEMBER = re.compile(
    r'[{,\s]"(?:log\.)?(?:level|levelname|log_level|severity|lvl)"\s?:\s?(?:"([A-Za-z]{1,12})"|([0-9]{1,3})\b)'
)


def say_level(text: str) -> Level | None:
    """The level that a line says it has."""
    return _member(text[:_LOOKED_AT_JSON]) if text.startswith("{") else _say(without_colours(text))


def without_colours(text: str) -> str:
    """The characters of a line that are looked at."""
    head = text[:LOOKED_AT]
    return _COLOUR.sub("", text[: LOOKED_AT * _COLOURED])[:LOOKED_AT] if "\x1b" in head else head


def _member(head: str) -> Level | None:
    found = _MEMBER.search(head)
    if found is None:
        return None
    name, number = found.groups()
    if name is not None:
        return _LEVELS.get(name.lower())
    return next((level for least, level in _NUMBERS if int(number) >= least), "DEBUG")


def _say(head: str) -> Level | None:
    if _KNOWN.isdisjoint(_WORD.findall(head)):
        return _by_name(head)
    for word in _WORD.finditer(head):
        level = _LEVELS.get(word[0])
        if level is not None and _is_said(word[0], head, word.start(), word.end()):
            return level
    return _by_name(head)


def _is_said(word: str, head: str, start: int, end: int) -> bool:
    """Whether the word at this place is a level, or only part of a sentence."""
    before, after = head[start - 1 : start] if start else " ", head[end : end + 1] or " "
    if word.isupper() and word not in _NOT_ALONE and before in _BEFORE_CAPITALS and after in _AFTER_CAPITALS:
        return True
    if before == "[" and head[end : end + 10].lstrip(" ").startswith("]"):
        return True
    if before in " \t:]" and ((after == ":" and head[end + 1 : end + 2] in ("", " ", "\t")) or _CODE.match(head, end)):
        return True
    return (start == 4 and head.startswith("npm ")) or (before in '="' and _FIELD.search(head, 0, start) is not None)


def _by_name(head: str) -> Level | None:
    """The level of an exception, a Python warning, a panic or a klog line."""
    if ("Error" in head or "Exception" in head) and _EXCEPTION.match(head):
        return "ERROR"
    if "Warning:" in head and _WARNING.search(head):
        return "WARN"
    if head.startswith("thread '") and " panicked at " in head:
        return "ERROR"
    klog = _KLOG.match(head)
    return None if klog is None else _LETTERS[klog[1]]


class LevelReader:
    """The levels of one stream's lines, in order. It remembers whether it is inside a traceback, and nothing else."""

    def __init__(self) -> None:
        self._traceback = Traceback()
        self._level: Level = "INFO"  # of the line whose parts are coming

    def read(self, piece: Piece) -> Level:
        """The level of the next piece. All parts of a line have that of the first; a partial one changes nothing."""
        if piece.part == 0:
            self._level = self._of_line(piece.text, piece.partial)
        return self._level

    def _of_line(self, text: str, partial: bool) -> Level:
        said = say_level(text)
        if partial:
            return said or ("ERROR" if self._traceback.is_open else "INFO")
        if self._traceback.takes(without_colours(text), said is not None):
            return "ERROR"
        return said or "INFO"
