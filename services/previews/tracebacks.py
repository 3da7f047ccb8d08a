"""Which lines of one stream belong to a traceback: Python's, plain, chained or of a group; Node's and Java's; Go's.

Other output may come in between (threads, a second logger), and a traceback may never end (the process was killed). So
a line that says a level of its own is not part of it, and after PATIENCE lines without a frame the traceback is over.
"""

import re
from typing import Literal

PATIENCE = 40  # lines; a frame with a long expression marked under it takes 12
_GAP = 2  # empty lines between an exception and the one that it is chained to

_State = Literal["none", "frames", "ended", "group", "box", "properties", "go"]

_HEADER = re.compile(r"([\s|+]{0,100})(?:Exception Group )?Traceback \(most recent call last\):")
_FRAME = re.compile(r'[\s|>]{1,100}File "[^"]{1,200}(?:", line \d|$)')
_GROUP = re.compile(r"\s{1,100}[|+]")
_CHAINED = re.compile(
    r"\s{0,100}(?:[|]\s{1,8})?(?:During handling of the above exception|The above exception was the direct cause)"
)
_BOX = re.compile(r"[╭┌].{0,80}Traceback")
_RAISED = re.compile(r"(?:[\w<>$]{1,100}\.){0,16}[\w<>$]{1,100}(?=:|$)")
_AT = re.compile(
    r"\s{1,100}at [^(:<]{0,120}[(:<]|Caused by: |\s{1,8}\.\.\. \d{1,6} (?:more|common frames|lines matching)"
)
_GOROUTINE = re.compile(r"goroutine \d{1,12} (?:gp=\S{1,30} m=\S{1,30} (?:mp=\S{1,30} )?)?\[")
_GO_FRAME = re.compile(r"\S{1,180}\(|\t|created by |exit status ")
_LETTER = re.compile("[A-Z]")


class Traceback:
    """A few words of state. Ask `takes` about every complete line, in order."""

    def __init__(self) -> None:
        self._state: _State = "none"
        self._indent = ""  # what stands before the header, and hence before the exception
        self._patience = 0

    @property
    def is_open(self) -> bool:
        """Whether the next line is expected to belong to a traceback."""
        return self._state not in ("none", "ended")

    def takes(self, head: str, says_level: bool) -> bool:
        """Whether the line that begins with `head` belongs to a traceback; `says_level`: it names a level itself."""
        if self._starts(head):
            return True
        if self._state == "none":
            return False
        if self._state == "ended":
            return self._between(head)
        self._patience -= 1
        if self._patience < 0:
            self._state = "none"
            return False
        return self._continues(head, says_level)

    def _starts(self, head: str) -> bool:
        if not head or head[0] not in " \t|+>CDTEg╭┌":
            return False
        header = _HEADER.match(head)
        if header is not None:
            in_group = "+" in header[1] or "|" in header[1]
            self._enter("group" if in_group else "frames")
            self._indent = header[1]
        elif _FRAME.match(head):
            if self._state not in ("frames", "group"):
                self._indent = ""
                self._enter("frames")
            self._patience = PATIENCE
        elif _AT.match(head):
            self._enter("properties" if head.endswith("{") else "none")
        elif _BOX.match(head):
            self._enter("box")
        elif _GOROUTINE.match(head):
            self._enter("go")
        elif _CHAINED.match(head):
            self._end()
        else:
            return False
        return True

    def _enter(self, state: _State) -> None:
        self._state = state
        self._patience = PATIENCE

    def _end(self) -> None:
        self._state = "ended"
        self._patience = _GAP

    def _between(self, head: str) -> bool:
        """After the exception: empty lines may lead to one that it is chained to."""
        self._patience -= 1
        if head.strip() or self._patience < 0:
            self._state = "none"
            return False
        return True

    def _continues(self, head: str, says_level: bool) -> bool:
        match self._state:
            case "frames":
                return self._in_frames(head, says_level)
            case "group":
                return self._while(bool(_GROUP.match(head)), says_level)
            case "box":
                if head[:1] in "╰└":
                    self._end()
                    return True
                return self._while(head[:1] in "│|┃", says_level)
            case "go":
                return self._while(not head or bool(_GO_FRAME.match(head)), says_level)
            case _:  # the properties of a Node error
                if head == "}":
                    self._state = "none"
                    return True
                return head.startswith(" ")

    def _in_frames(self, head: str, says_level: bool) -> bool:
        if not head.strip():
            return True
        inner = head.removeprefix(self._indent)
        if head.startswith(self._indent) and inner[0].isspace():
            return True
        raised = _RAISED.match(inner)
        if raised is None or (says_level and not raised[0].endswith(("Error", "Exception"))):
            return False
        if ":" not in inner[raised.end() :] and "." not in raised[0] and not _LETTER.search(raised[0]):
            return False
        self._end()
        return True

    def _while(self, belongs: bool, says_level: bool) -> bool:
        """A line that does not look like the others ends it, unless it is plainly somebody else's."""
        if belongs:
            self._patience = PATIENCE
        elif not says_level:
            self._state = "none"
        return belongs
