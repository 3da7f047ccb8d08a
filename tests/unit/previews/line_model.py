"""What LineSplitter does, said again one character at a time, slowly, and without a regular expression."""

from collections.abc import Iterator

from services.previews.escapes import MAX_PARAMETERS, MAX_STRING
from services.previews.lines import Piece

STRINGS = {"\x1b]", "\x1bP", "\x1bX", "\x1b^", "\x1b_", "\x1bk", "\x90", "\x98", "\x9d", "\x9e", "\x9f"}
CALLS_OFF = {"\x1b", "\x7f", *map(chr, range(0x80, 0xA0))}


def units(text: str) -> Iterator[str]:
    """Characters and whole colours; everything that is dropped is not there."""
    place = 0
    while place < len(text):
        unit, place = next_unit(text, place)
        if unit:
            yield unit


def next_unit(text: str, place: int) -> tuple[str, int]:
    """One unit, empty for what is dropped, and where the next begins."""
    char = text[place]
    introducer = text[place : place + 2] if char == "\x1b" else char
    if introducer in STRINGS:
        end = string_end(text, place + len(introducer))
        return "", place + len(introducer) if end is None else end
    if introducer in ("\x1b[", "\x9b"):
        end = sequence_end(text, place + len(introducer))
        if end is not None:
            whole = text[place:end]
            is_colour = whole.startswith("\x1b[") and whole[-1] == "m" and set(whole[2:-1]) <= set("0123456789:;")
            return whole if is_colour else "", end
        return "", place + len(introducer)
    if char == "\x1b":
        end = place + 1
        while end < len(text) and " " <= text[end] <= "/" and end - place <= 8:
            end += 1
        return "", end + 1 if end < len(text) and "0" <= text[end] <= "~" else place + 1
    is_control = (char < " " and char not in "\t\n\r") or "\x7f" <= char <= "\x9f"
    return "" if is_control else char, place + 1


def string_end(text: str, place: int) -> int | None:
    for end in range(place, min(len(text), place + MAX_STRING + 1)):
        char = text[end]
        if char in "\x07\x18\x1a\x9c":
            return end + 1
        if char in CALLS_OFF:
            return end + 2 if text[end : end + 2] == "\x1b\\" else end
        if char in "\r\n":
            return None
    return None


def sequence_end(text: str, place: int) -> int | None:
    end = place
    while end < len(text) and "0" <= text[end] <= "?" and end - place < MAX_PARAMETERS:
        end += 1
    intermediates = end
    while end < len(text) and " " <= text[end] <= "/" and end - intermediates < 8:
        end += 1
    return end + 1 if end < len(text) and "@" <= text[end] <= "~" else None


def split(data: bytes, part_bytes: int) -> list[Piece]:
    """All the final pieces of a whole stream."""
    pieces: list[Piece] = []
    line: list[str] = []  # of the current part
    after: list[str] = []  # colours after a CR
    part, returned = 0, False

    def end() -> None:
        nonlocal line, after, part, returned
        pieces.append(Piece("".join(line + after), part))
        line, after, part, returned = [], [], 0, False

    for unit in units(data.decode("utf-8", "replace")):
        if unit == "\n":
            end()
        elif unit == "\r":
            returned = True
        elif returned and unit.startswith("\x1b") and size([*line, *after, unit]) <= part_bytes:
            after.append(unit)
        else:
            if returned:
                kept, after = after, []
                if part or (size([*line, *kept, unit]) > part_bytes and unit.startswith("\x1b")):
                    end()
                line, after, returned = kept, [], False
            if size([*line, unit]) > part_bytes:
                pieces.append(Piece("".join(line), part, False))
                line, part = [], part + 1
            line.append(unit)
    if line or after:
        end()
    return pieces


def size(units: list[str]) -> int:
    return len("".join(units).encode())
