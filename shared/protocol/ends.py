"""Why a stream ends, and whether its client should come back."""

from enum import Enum


class EndReason(Enum):
    """Value: (name on the wire, final, WebSocket close code). Final means: do not come back."""

    TERMINAL = ("terminal", True, 1000)
    MAX_TICKS = ("max_ticks", True, 1000)
    ACCESS_REVOKED = ("access_revoked", True, 4404)
    TOKEN_EXPIRED = ("token_expired", False, 4401)
    SERVER_SHUTDOWN = ("server_shutdown", False, 1012)
    MAX_DURATION = ("max_duration", False, 1012)
    SLOW_READER = ("slow_reader", False, 4408)

    def __init__(self, label: str, final: bool, close_code: int) -> None:
        self.label = label
        self.final = final
        self.close_code = close_code
