"""How far other services' feeds have been consumed, and what of them could not be followed.

A feed's position moves in the transaction of what its events caused, and only from where its consumer believed it to
be: of two that both think it is theirs, one is refused, so that no effect happens twice.
"""

from services.tasks.rules import OwnedRun
from shared.channel.log import Rows

STEP = """
    CREATE TABLE {s}.feeds (
        name text PRIMARY KEY,
        position text NOT NULL,
        updated_at timestamptz NOT NULL DEFAULT now()
    );
    -- what was told of a task and could not be done: for people to look at
    CREATE TABLE {s}.refused_moves (
        feed text NOT NULL,
        position text NOT NULL,
        task_id text NOT NULL,
        subject text NOT NULL,
        reason text NOT NULL,
        detail text NOT NULL,
        at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (feed, position, task_id)
    );
    CREATE INDEX refused_moves_age ON {s}.refused_moves (at);
"""
KEEP_DAYS = 30  # of refused moves


class Overtaken(Exception):
    """Somebody else has consumed the feed from the same position."""


class Feeds:
    """The tables `feeds` and `refused_moves` of the service's schema."""

    def __init__(self, schema: str) -> None:
        self._s = schema

    async def position(self, rows: Rows, name: str) -> str | None:
        """Up to where the feed has been consumed; None: not begun."""
        row = await rows.fetchrow(f"SELECT position FROM {self._s}.feeds WHERE name = $1", name)
        return None if row is None else str(row["position"])

    async def check(self, rows: Rows, name: str, believed: str | None) -> None:
        """Raise Overtaken unless the feed is still where its consumer believes it to be."""
        if await self.position(rows, name) != believed:
            raise Overtaken(f"the {name} feed is not at {believed} any more")

    async def move(self, rows: Rows, name: str, position: str) -> None:
        """Everything up to `position` has had its effects."""
        await rows.fetch(
            f"""INSERT INTO {self._s}.feeds (name, position) VALUES ($1, $2)
                ON CONFLICT (name) DO UPDATE SET position = $2, updated_at = now()""",
            name,
            position,
        )

    async def refuse(self, rows: Rows, name: str, run: OwnedRun, reason: str, detail: str) -> None:
        """Record what could not be done."""
        await rows.fetch(
            f"""INSERT INTO {self._s}.refused_moves (feed, position, task_id, subject, reason, detail)
                VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING""",
            name,
            f"{run.epoch}-{run.seq}",
            run.task_id,
            f"run/{run.run_id}",
            reason,
            detail,
        )
        await rows.fetch(f"DELETE FROM {self._s}.refused_moves WHERE at < now() - interval '{KEEP_DAYS} days'")
