"""Where a reader begins."""

from msgspec import Struct

from shared.protocol.control import Reset
from shared.protocol.position import LogState, ResetReason


class Start(Struct, frozen=True):
    """After the seq `after` of the log as it was in `state`. `reset`: continuity from `requested` cannot be proved."""

    state: LogState
    after: int
    resumed: bool = False
    reset: ResetReason | None = None
    requested: str = ""

    def reset_frame(self) -> Reset:
        """What a client that must start over is told."""
        return Reset(reason=str(self.reset), requested=self.requested, oldest=self.state.oldest, head=self.state.head)
