"""Idempotency keys: a creation that is sent again gets the first answer again, and creates nothing.

The key and the answer are stored in the transaction of the creation itself, so there is no moment at which one is
there without the other, and a second request that comes while the first is under way waits for its answer.
"""

import hashlib
from typing import Any

import msgspec
from msgspec import Struct

from shared.channel.log import Rows, Transaction
from shared.edge.admission import Connection
from shared.edge.principal import principal_of
from shared.edge.problems import BadInput, Unprocessable

KEEP_HOURS = 24

STEP = """
    CREATE TABLE {s}.idempotency (
        tenant text NOT NULL,
        owner text NOT NULL,
        operation text NOT NULL,
        key text NOT NULL,
        body_hash bytea NOT NULL,
        answer bytea NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant, owner, operation, key)
    );
    CREATE INDEX idempotency_age ON {s}.idempotency (created_at);
"""


class IdempotencyKey(Struct, frozen=True):
    """A key belongs to the tenant, the principal and the operation; `body_hash` tells whether the body is the same."""

    tenant: str
    owner: str
    operation: str
    key: str
    body_hash: bytes


def key_of(connection: Connection, operation: str, body: Any) -> IdempotencyKey | None:
    """The request's key, None when it has none. Raise BadInput."""
    key = connection.headers.get("idempotency-key")
    if key is None:
        return None
    if not 1 <= len(key) <= 255 or not key.isprintable():
        raise BadInput("Idempotency-Key must be 1 to 255 printable characters")
    principal = principal_of(connection)
    body_hash = hashlib.sha256(msgspec.json.encode(body, order="deterministic")).digest()
    return IdempotencyKey(principal.tenant, principal.owner, operation, key, body_hash)


class Answers:
    """The answers given, in the PostgreSQL schema of one service."""

    def __init__(self, schema: str) -> None:
        self._s = schema

    async def recall(self, tx: Rows, key: IdempotencyKey) -> bytes | None:
        """The answer given to this key before. Raise Unprocessable when it was to another body."""
        row = await tx.fetchrow(
            f"""SELECT body_hash, answer FROM {self._s}.idempotency WHERE tenant = $1 AND owner = $2
                AND operation = $3 AND key = $4 AND created_at > now() - interval '{KEEP_HOURS} hours'""",
            key.tenant,
            key.owner,
            key.operation,
            key.key,
        )
        if row is None:
            return None
        if row["body_hash"] != key.body_hash:
            raise Unprocessable(f"Idempotency-Key {key.key!r} was used with another body; choose a new key")
        answer: bytes = row["answer"]
        return answer

    async def remember(self, tx: Transaction, key: IdempotencyKey, answer: bytes) -> None:
        """Keep the answer; those that are too old go."""
        await tx.execute(f"DELETE FROM {self._s}.idempotency WHERE created_at < now() - interval '{KEEP_HOURS} hours'")
        await tx.execute(
            f"INSERT INTO {self._s}.idempotency (tenant, owner, operation, key, body_hash, answer) "
            "VALUES ($1, $2, $3, $4, $5, $6)",
            key.tenant,
            key.owner,
            key.operation,
            key.key,
            key.body_hash,
            answer,
        )
