"""Epochs: noticing that the database is not the one it was."""

import secrets
import string

from shared.channel.postgres.database import Session, fetch_one
from shared.protocol.position import LogState

# A restored or copied cluster has another system identifier; one that was promoted or recovered to a point in time has
# another timeline, and may have lost what was acknowledged before. The timeline is read from the WAL's own name, since
# pg_control_checkpoint() tells of a promotion only after the next checkpoint.
_IDENTITY = """
SELECT (SELECT system_identifier FROM pg_control_system()) AS system_identifier,
       ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int AS timeline
"""


async def read_state(connection: Session, schema: str) -> LogState:
    """The log's state in one snapshot."""
    row = await fetch_one(connection, f"SELECT epoch, head, oldest FROM {schema}.log, {schema}.retained")
    return LogState(epoch=row["epoch"], head=row["head"], oldest=row["oldest"])


async def check_epoch(connection: Session, schema: str) -> LogState:
    """Compare the cluster with the one the log was written in; begin a new epoch if it is another. Return the state."""
    identity = await fetch_one(connection, _IDENTITY)
    here = (identity["system_identifier"], identity["timeline"])
    known = await connection.fetchrow(f"SELECT system_identifier, timeline FROM {schema}.log")
    if known is None:
        await connection.execute(
            f"INSERT INTO {schema}.log (epoch, system_identifier, timeline) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            _name(),
            *here,
        )
    elif tuple(known) != here:
        # whoever comes first names the epoch; the others find the row already right
        await connection.execute(
            f"""UPDATE {schema}.log SET epoch = $1, system_identifier = $2, timeline = $3
                WHERE (system_identifier, timeline) IS DISTINCT FROM ($2, $3)""",
            _name(),
            *here,
        )
    return await read_state(connection, schema)


async def new_epoch(connection: Session, schema: str) -> None:
    """Name a new incarnation."""
    await connection.execute(f"UPDATE {schema}.log SET epoch = $1", _name())
    await connection.execute("SELECT pg_notify($1, '')", channel_name(schema))


def channel_name(schema: str) -> str:
    """The NOTIFY channel of a log."""
    return f"tailrace_{schema}"


def _name() -> str:
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(6))
