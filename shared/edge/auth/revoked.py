"""Tokens that ended before their time. Each process knows all of them that have not expired, and hears of a new one
as it is revoked, in whichever process that was.
"""

import logging
import time
from collections.abc import Callable
from contextlib import aclosing
from datetime import datetime

from shared.channel.log import LogUnavailable, Rows
from shared.channel.postgres import Bulletin, Database, prepare_schema
from shared.channel.postgres.bulletin import POLL_SECONDS
from shared.channel.tasks import Keeper
from shared.edge.principal import Principal
from shared.edge.tickets import SCHEMA, STEPS

log = logging.getLogger("tailrace.auth")

BULLETIN = "tailrace_revoked"
# After its expiry a token is refused for that. Until then, and for so long after, on whosever clock, it is kept here.
KEEP_SECONDS = 3600.0
# Rows become visible in another order than their times say: by so much a reader looks back. No statement takes longer.
OVERLAP_SECONDS = 60.0

_REVOKE = f"""
WITH gone AS (DELETE FROM {SCHEMA}.revoked WHERE until < now() - interval '{KEEP_SECONDS} s' AND token_id <> $1)
INSERT INTO {SCHEMA}.revoked (token_id, until) VALUES ($1, to_timestamp($2))
ON CONFLICT (token_id) DO UPDATE SET until = greatest(revoked.until, excluded.until), revoked_at = now()
RETURNING pg_notify('{BULLETIN}', '')
"""
# one row with the time at least, so that the next look begins where this one was
_READ = f"""
SELECT now() AS now, r.token_id, extract(epoch FROM r.until)::float8 AS until FROM (SELECT) one
LEFT JOIN {SCHEMA}.revoked r ON until > now() - interval '{KEEP_SECONDS} s'
    AND ($1::timestamptz IS NULL OR revoked_at > $1 - interval '{OVERLAP_SECONDS} s')
"""


class Revocations:
    """The revoked tokens, by their ids. `now` is the time in unix seconds."""

    def __init__(
        self, database: Database, *, now: Callable[[], float] = time.time, poll_seconds: float = POLL_SECONDS
    ) -> None:
        self._database = database
        self._rows: Rows = database
        self._now = now
        self._bulletin = Bulletin(database, BULLETIN, poll_seconds=poll_seconds)
        self._keeper = Keeper()
        self._until: dict[str, float] = {}
        self._watchers: dict[str, dict[object, Callable[[], object]]] = {}
        self._read_at: datetime | None = None  # by the database's clock

    async def start(self) -> None:
        """Know all that is revoked, and hear of what will be. Raise LogUnavailable."""
        await self.prepare()
        await self._read()
        self._keeper.keep("revoked tokens", self._follow)

    async def prepare(self) -> None:
        """Make the table if it is not there: enough to revoke. Raise LogUnavailable."""
        await prepare_schema(self._database, SCHEMA, STEPS)

    async def close(self) -> None:
        await self._keeper.close()

    def failing(self) -> list[str]:
        """What does not work now."""
        return self._keeper.failing()

    @property
    def listening(self) -> bool:
        """Whether we hear at once; else within a few seconds, or when the database is back."""
        return self._bulletin.listening

    async def revoke(self, token_id: str, until: float) -> None:
        """End a token that expires at `until`, in unix seconds: here when this returns, elsewhere within a second.
        Harmless when it was revoked before. Raise LogUnavailable.
        """
        if not token_id:
            raise ValueError("who has no token has none to be revoked")
        await self._rows.fetchrow(_REVOKE, token_id, until)
        self._add(token_id, until)

    def is_revoked(self, principal: Principal) -> bool:
        """Whether the principal's token was revoked."""
        return principal.token_id in self._until

    def watch(self, principal: Principal, end: Callable[[], object]) -> Callable[[], None]:
        """Call `end` when the principal's token is revoked, at once if it is already; return what ends the watch. `end`
        must not wait nor raise.
        """
        if not principal.token_id:
            return lambda: None
        if self.is_revoked(principal):
            end()
            return lambda: None
        key = object()
        self._watchers.setdefault(principal.token_id, {})[key] = end
        return lambda: self._forget(principal.token_id, key)

    # ── news ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _follow(self) -> None:
        async with aclosing(self._bulletin.notices()) as notices:
            async for is_new in notices:
                if is_new:  # perhaps to another server, with another clock
                    self._read_at = None
                try:
                    await self._read()
                except LogUnavailable as error:  # the next notice will do
                    log.warning("revoked tokens cannot be read", extra={"error": str(error)})

    async def _read(self) -> None:
        rows = await self._rows.fetch(_READ, self._read_at)
        self._read_at = rows[0]["now"]
        for row in rows:
            if row["token_id"] is not None:
                self._add(row["token_id"], row["until"])
        oldest = self._now() - KEEP_SECONDS
        self._until = {token_id: until for token_id, until in self._until.items() if until > oldest}

    def _add(self, token_id: str, until: float) -> None:
        self._until[token_id] = max(until, self._until.get(token_id, until))
        for end in self._watchers.pop(token_id, {}).values():
            try:
                end()
            except Exception as error:  # the others must end too
                log.error("a stream whose token was revoked did not end", exc_info=error)

    def _forget(self, token_id: str, key: object) -> None:
        watching = self._watchers.get(token_id)
        if watching is not None:
            watching.pop(key, None)
            if not watching:
                del self._watchers[token_id]
