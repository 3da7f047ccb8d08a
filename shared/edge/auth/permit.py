"""A permit: what a connection lives by, from the moment it is let in until its token ends or is replaced."""

import asyncio
import time
from collections.abc import Callable

from shared.edge.auth.revoked import Revocations
from shared.edge.principal import Principal
from shared.edge.problems import Unauthorized
from shared.protocol.ends import EndReason

LONGEST_SLEEP_SECONDS = 30.0  # a token ends by the wall clock, which may be set meanwhile

End = Callable[[EndReason], object]


class Permit:
    """Belongs to one connection. `now` is the time in unix seconds."""

    __slots__ = ("_end", "_now", "_revocations", "_timer", "_unwatch", "principal")

    def __init__(
        self, principal: Principal, revocations: Revocations | None = None, *, now: Callable[[], float] = time.time
    ) -> None:
        self.principal = principal
        self._revocations = revocations
        self._now = now
        self._end: End | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._unwatch: Callable[[], None] | None = None

    @property
    def can_end(self) -> bool:
        """Whether there is a token behind it."""
        return self._revocations is not None

    def why_over(self) -> EndReason | None:
        """Why the token is good no more; None: it is."""
        if self._revocations is not None and self._revocations.is_revoked(self.principal):
            return EndReason.ACCESS_REVOKED
        expires_at = self.principal.expires_at
        return EndReason.TOKEN_EXPIRED if expires_at is not None and self._now() >= expires_at else None

    def check(self) -> None:
        """Raise Unauthorized when the token is good no more."""
        reason = self.why_over()
        if reason is not None:
            raise Unauthorized(TOLD[reason])

    def watch(self, end: End) -> None:
        """Call `end`, once, when the token ends: at once if it has. It must not wait nor raise. Then `close` it."""
        self._end = end
        self._begin()

    def renew(self, principal: Principal) -> None:
        """Go on with a newer token of the same principal."""
        self._stop()
        self.principal = principal
        if self._end is not None:
            self._begin()

    def close(self) -> None:
        """The connection is over."""
        self._end = None
        self._stop()

    def _begin(self) -> None:
        if self._revocations is not None:
            self._unwatch = self._revocations.watch(self.principal, self._look)
        if self._end is not None and self.principal.expires_at is not None:
            self._look()

    def _look(self) -> None:
        """End what has to, else look again when it is time."""
        self._timer = None
        reason, end = self.why_over(), self._end
        if end is None:
            return
        if reason is not None:
            self.close()
            end(reason)
            return
        expires_at = self.principal.expires_at
        if expires_at is not None:
            seconds = min(expires_at - self._now(), LONGEST_SLEEP_SECONDS)
            self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None


TOLD = {
    EndReason.TOKEN_EXPIRED: "The token has expired.",
    EndReason.ACCESS_REVOKED: "The token was revoked.",
}
