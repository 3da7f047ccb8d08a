"""Where a reader begins."""

from msgspec import Struct

from shared.protocol.position import LogState, ResetReason


class Start(Struct, frozen=True):
    """After the seq `after` of the log as it was in `state`. `reset`: continuity from `requested` cannot be proved."""

    state: LogState
    after: int
    resumed: bool = False
    reset: ResetReason | None = None
    requested: str = ""
