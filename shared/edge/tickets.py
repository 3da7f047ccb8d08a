"""Tickets: what stands for a caller where no header can, in the address of an EventSource or of a preview's own origin.

One is good for 30 seconds, for one path, once: it is redeemed in the database, so by one process of all.
"""

import hashlib
import secrets
from datetime import datetime
from urllib.parse import unquote

from msgspec import Struct

from shared.channel.log import Rows
from shared.channel.postgres import Database, prepare_schema
from shared.edge.principal import Principal

SCHEMA = "access"
LIFE_SECONDS = 30
STEPS = (
    """
    CREATE TABLE {s}.tickets (
        hash bytea PRIMARY KEY,
        path text NOT NULL,
        tenant text NOT NULL,
        owner text NOT NULL,
        expires_at timestamptz NOT NULL
    );
    CREATE INDEX tickets_age ON {s}.tickets (expires_at);
    """,
    # tokens that ended before their time: shared.edge.auth.revoked
    """
    CREATE TABLE {s}.revoked (
        token_id text PRIMARY KEY,
        until timestamptz NOT NULL,
        revoked_at timestamptz NOT NULL DEFAULT now()
    );
    CREATE INDEX revoked_age ON {s}.revoked (revoked_at);
    CREATE INDEX revoked_until ON {s}.revoked (until);
    """,
    # what a ticket's owner may, and until when
    """
    ALTER TABLE {s}.tickets
        ADD COLUMN scopes text[] NOT NULL DEFAULT '{{}}',
        ADD COLUMN token_id text NOT NULL DEFAULT '',
        ADD COLUMN token_expires_at float8,
        ADD COLUMN is_service boolean NOT NULL DEFAULT false;
    """,
)


class Ticket(Struct, frozen=True):
    """`ticket` goes into `?ticket=` of a request for `path`, before it expires."""

    ticket: str
    path: str
    expires_at: datetime


class Tickets:
    """The tickets of all services, in a schema of their own. Only hashes are kept."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows: Rows = database

    async def start(self) -> None:
        """Make the table if it is not there. Raise LogUnavailable."""
        await prepare_schema(self._database, SCHEMA, STEPS)

    async def issue(self, principal: Principal, path: str) -> Ticket:
        """A new ticket for a path, percent-encoded or not. Raise LogUnavailable."""
        ticket = secrets.token_urlsafe(32)
        row = await self._rows.fetchrow(
            f"""WITH gone AS (DELETE FROM {SCHEMA}.tickets WHERE expires_at < now())
                INSERT INTO {SCHEMA}.tickets
                    (hash, path, tenant, owner, scopes, token_id, token_expires_at, is_service, expires_at)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8, now() + interval '{LIFE_SECONDS} s') RETURNING expires_at""",
            _hash(ticket),
            unquote(path),
            principal.tenant,
            principal.owner,
            sorted(principal.scopes),
            principal.token_id,
            principal.expires_at,
            principal.is_service,
        )
        return Ticket(ticket, path, row["expires_at"])

    async def redeem(self, ticket: str, path: str) -> Principal | None:
        """Whose it is, as when it was issued, for a decoded path; None for one that is used, expired, unknown or for
        another path. It is used up in any case. Whether the token behind it is still good is the caller's to find out.
        """
        row = await self._rows.fetchrow(
            f"DELETE FROM {SCHEMA}.tickets WHERE hash = $1 RETURNING *, expires_at > now() AS alive", _hash(ticket)
        )
        if row is None or not row["alive"] or row["path"] != path:
            return None
        return Principal(
            tenant=row["tenant"],
            owner=row["owner"],
            scopes=frozenset(row["scopes"]),
            token_id=row["token_id"],
            expires_at=row["token_expires_at"],
            is_service=row["is_service"],
        )


def _hash(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode(errors="replace")).digest()
