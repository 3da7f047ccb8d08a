"""Positions: how far somebody has seen a log, and what that means against the log as it is now."""

import re
from enum import StrEnum

from msgspec import Struct

from shared.protocol.errors import MalformedPosition

MAX_SEQ = 2**63 - 1  # PostgreSQL's bigint
_POSITION = re.compile(r"([a-z0-9]{1,16})-(0|[1-9][0-9]{0,18})", re.ASCII)


class Position(Struct, frozen=True):
    """Everything up to and including `seq` of the incarnation `epoch` has been seen. Text: `k3f9a2-1042`."""

    epoch: str
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}"

    @classmethod
    def parse(cls, text: str) -> "Position":
        """Raise MalformedPosition unless `text` is `<epoch>-<seq>` with 0 <= seq <= 2**63-1."""
        match = _POSITION.fullmatch(text)
        if match is None or int(match[2]) > MAX_SEQ:
            shown = text if len(text) <= 60 else text[:60] + "…"
            raise MalformedPosition(
                f"{shown!r} is not a position: give start, now or <epoch>-<seq>, such as k3f9a2-1042"
            )
        return cls(match[1], int(match[2]))


class Anchor(StrEnum):
    """The two positions that need no epoch."""

    START = "start"
    NOW = "now"


def parse_after(text: str) -> Position | Anchor:
    """Read an `after` parameter or a Last-Event-ID. Raise MalformedPosition."""
    if text in (Anchor.START, Anchor.NOW):
        return Anchor(text)
    return Position.parse(text)


def is_position(text: str) -> bool:
    """Whether `text` is a position, of whatever epoch."""
    try:
        Position.parse(text)
    except MalformedPosition:
        return False
    return True


class LogState(Struct, frozen=True):
    """A log at one moment: `head` is its last seq (0: empty), `oldest` the first seq still kept."""

    epoch: str
    head: int
    oldest: int

    @property
    def start(self) -> int:
        """The seq after which everything that is kept lies."""
        return self.oldest - 1


class ResetReason(StrEnum):
    """Why continuity from a position cannot be proved."""

    UNKNOWN_POSITION = "unknown_position"
    EPOCH_CHANGED = "epoch_changed"
    HISTORY_TRIMMED = "history_trimmed"


def why_reset(position: Position, state: LogState) -> ResetReason | None:
    """Why `position` cannot be continued on the log as it is in `state`; None when it can."""
    if position.epoch != state.epoch:
        return ResetReason.EPOCH_CHANGED
    if position.seq > state.head:
        return ResetReason.UNKNOWN_POSITION
    if position.seq < state.start:
        return ResetReason.HISTORY_TRIMMED
    return None
