"""Terminal escapes: colours stay, everything else goes whole, also when it comes in pieces.

An escape is what ECMA-48 and xterm call one, in its 7-bit form (ESC x) or as a decoded C1 character (U+0080 to U+009F):

- CSI (`ESC [`, U+009B): parameters, intermediates, one final character. `ESC [ 0-9;: m` is a colour and is kept;
- strings (OSC `ESC ]`, DCS `ESC P`, SOS `ESC X`, PM `ESC ^`, APC `ESC _`, the title of screen `ESC k`, and their C1
  forms): titles, links, the clipboard, pictures. They end with ST (`ESC \\`, U+009C) or BEL. CAN, SUB, or the start of
  another escape call them off, and what they held is not shown, as in a terminal;
- the rest: `ESC`, intermediates (`ESC ( B`), one final character.

What does not end was no escape: of a string that meets the end of its line or of the output, or is longer than
MAX_STRING, only the introducer is dropped and what followed it is text again. So nothing an escape might swallow is
lost, and none is waited for beyond its line. Other control characters are dropped, except TAB, LF and CR. BS is dropped
without the character before it: an overstrike shows both, and nothing that was printed disappears.

Every pattern is linear: an introducer never lies inside a string, hence no character is scanned for two of them.
"""

import re

MAX_STRING = 4096  # characters in a string before it is given up
MAX_PARAMETERS = 128  # characters; the longest colours in use have about 40

DEL = "\x7f"  # calls off a string and is dropped: in place of an escape that has been cut off

_C0 = bytes(set(range(32)) - {0x09, 0x0A} | {0x7F})  # those that the plain case does not have

_CONTROL = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
_COLOUR = rf"\[[0-9;:]{{0,{MAX_PARAMETERS}}}m"  # each of these without its ESC
_CSI = rf"[0-?]{{0,{MAX_PARAMETERS}}}[ -/]{{0,8}}"
_STRING_7 = r"[\]PX^_k]"
_STRING_8 = r"[\x90\x98\x9d-\x9f]"
_INTRODUCER = rf"(?:\x1b{_STRING_7}|{_STRING_8})"
_INSIDE = rf"[^\n\r\x07\x18\x1a\x1b\x7f-\x9f]{{0,{MAX_STRING}}}"
_END = r"(?:\x1b\\|[\x07\x18\x1a\x9c]|(?=[\x1b\x7f-\x9f]))"

_COLOURS = re.compile(rf"(?:\x1b{_COLOUR})*")
# One set of characters comes first, because `re` then skips to the next of them in C: seven times as fast as the
# same as plain alternatives.
_DROPPED = re.compile(
    rf"{_CONTROL}(?:(?<=\x1b)(?!{_COLOUR})(?:\[{_CSI}[@-~]|{_STRING_7}{_INSIDE}{_END}|[ -/]{{0,8}}[0-~]|)"
    rf"|(?<=\x9b){_CSI}[@-~]|(?<={_STRING_8}){_INSIDE}{_END}|(?<!\x1b))"
)
_UNFINISHED = re.compile(rf"(?:(?:\x1b\[|\x9b){_CSI}|{_INTRODUCER}{_INSIDE}\x1b?|\x1b[ -/]{{0,8}})\Z")
_ENDLESS = re.compile(rf"{_INTRODUCER}(?!{_INSIDE}{_END})")
_STRING = re.compile(_INTRODUCER)
_C1 = re.compile(r"[\x80-\x9f]")
_LONGEST = MAX_STRING + MAX_PARAMETERS


def is_plain(data: bytes, text: str) -> bool:
    """Whether there is nothing to drop and no colour or CR either. `text` is what `data` was decoded to."""
    return len(data.translate(None, _C0)) == len(data) and (text.isascii() or _C1.search(text) is None)


def split_unfinished(text: str) -> tuple[str, str]:
    """Cut off an escape at the end of `text` that what comes next may still finish. Leave DEL in its place."""
    found = _UNFINISHED.search(text, max(0, len(text) - _LONGEST))
    return (text, "") if found is None else (text[: found.start()], text[found.start() :])


def drop_escapes(text: str) -> tuple[str, int]:
    """Drop all escapes but colours, and all control characters but TAB, LF and CR.

    Also returned is how many strings did not end; what they held is still there.
    """
    endless = len(_ENDLESS.findall(text)) if _STRING.search(text) else 0
    return _DROPPED.sub("", text), endless


def leading_colours(text: str) -> int:
    """How many characters at the start of `text` are colours."""
    found = _COLOURS.match(text)
    return found.end() if found else 0


def whole_escapes(text: str, end: int) -> int:
    """`end`, or where the colour starts that a cut at `end` would go through. `text` has no escapes but colours."""
    start = text.rfind("\x1b", max(0, end - MAX_PARAMETERS - 3), end)
    if start < 0:
        return end
    return start if text.find("m", start) >= end else end
