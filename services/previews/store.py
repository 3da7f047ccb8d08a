"""The previews service's SQL: its tables, and rows to Previews and back."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from services.previews.events import TERMINAL, Exit
from services.previews.model import Preview, Recipe
from shared.channel.log import Rows
from shared.edge import idempotency
from shared.edge.listing import Listing, of_tenant
from shared.protocol.position import LogState

STEPS = (
    """
    CREATE TABLE {s}.previews (
        id text PRIMARY KEY,
        tenant text NOT NULL,
        owner text NOT NULL,
        generation_id text NOT NULL,
        host text NOT NULL,
        status text NOT NULL CHECK (status IN ('preparing', 'starting', 'running', 'unhealthy', 'stopping', 'stopped',
            'exited', 'failed', 'lost')),
        kind text NOT NULL,
        recipe bytea NOT NULL,
        file_names text[] NOT NULL,
        isolation text NOT NULL,
        attempt int NOT NULL,
        exit bytea NOT NULL,
        message text,
        ready_after_ms int,
        tail text[] NOT NULL,
        created_at timestamptz NOT NULL,
        started_at timestamptz,
        stopped_at timestamptz,
        expires_at timestamptz,
        revived_seq bigint NOT NULL,
        moved_at timestamptz NOT NULL,
        last_seq bigint NOT NULL
    );
    -- apart from the row, which is written anew with every change of status
    CREATE TABLE {s}.files (
        preview_id text PRIMARY KEY REFERENCES {s}.previews ON DELETE CASCADE,
        files bytea NOT NULL
    );
    CREATE INDEX previews_newest ON {s}.previews (tenant, id DESC);
    CREATE INDEX previews_generation ON {s}.previews (tenant, generation_id, id DESC);
    CREATE INDEX previews_changed ON {s}.previews (tenant, last_seq);
    -- an active one of the same generation is replaced, never joined by another
    CREATE UNIQUE INDEX previews_active ON {s}.previews (tenant, generation_id)
        WHERE status IN ('preparing', 'starting', 'running', 'unhealthy', 'stopping');
    CREATE INDEX previews_host ON {s}.previews (host)
        WHERE status IN ('preparing', 'starting', 'running', 'unhealthy', 'stopping');
    """,
    idempotency.STEP,
)

FIELDS = Preview.__struct_fields__
FILTERS = ("status", "kind", "generation_id")
_JSON: dict[str, Any] = {"recipe": Recipe, "exit": Exit | None}
_ACTIVE = f"NOT status = ANY(ARRAY[{', '.join(repr(status) for status in sorted(TERMINAL))}])"


class PreviewStore:
    """Every statement takes the tenant, except those of the service's own housekeeping; None: all tenants, for services
    that may read what everybody has. `pool` is for plain reads.
    """

    def __init__(self, schema: str, pool: Rows) -> None:
        self._s = schema
        self.pool = pool

    async def of_generation(self, rows: Rows, tenant: str, generation_id: str, *, lock: bool = False) -> Preview | None:
        """The newest preview of a generation, None when the tenant has none. `lock`: until the transaction ends."""
        return _preview(
            await rows.fetchrow(
                f"SELECT * FROM {self._s}.previews WHERE tenant = $1 AND generation_id = $2 ORDER BY id DESC LIMIT 1"
                + (" FOR UPDATE" if lock else ""),
                tenant,
                generation_id,
            )
        )

    async def get(self, rows: Rows, preview_id: str, *, lock: bool = False) -> Preview | None:
        """The preview of whatever tenant: for the service itself."""
        sql = f"SELECT * FROM {self._s}.previews WHERE id = $1" + (" FOR UPDATE" if lock else "")
        return _preview(await rows.fetchrow(sql, preview_id))

    async def insert(self, rows: Rows, preview: Preview) -> None:
        places = ", ".join(f"${place}" for place in range(1, len(FIELDS) + 1))
        await rows.fetch(f"INSERT INTO {self._s}.previews ({', '.join(FIELDS)}) VALUES ({places})", *_values(preview))

    async def save(self, rows: Rows, preview: Preview) -> None:
        sets = ", ".join(f"{field} = ${place}" for place, field in enumerate(FIELDS, start=1) if field != "id")
        await rows.fetch(f"UPDATE {self._s}.previews SET {sets} WHERE id = $1", *_values(preview))

    async def files(self, rows: Rows, preview_id: str) -> dict[str, str]:
        """The texts with which its next attempt begins, by path."""
        row = await rows.fetchrow(f"SELECT files FROM {self._s}.files WHERE preview_id = $1", preview_id)
        return {} if row is None else msgspec.json.decode(row["files"], type=dict[str, str])

    async def save_files(self, rows: Rows, preview_id: str, files: Mapping[str, str]) -> None:
        await rows.fetch(
            f"""INSERT INTO {self._s}.files (preview_id, files) VALUES ($1, $2)
                ON CONFLICT (preview_id) DO UPDATE SET files = $2""",
            preview_id,
            msgspec.json.encode(files),
        )

    async def delete(self, rows: Rows, preview: Preview) -> None:
        """Remove a preview and all that was stored of it."""
        for table in ("events", "producers"):
            await rows.fetch(f"DELETE FROM {self._s}.{table} WHERE subject = $1", preview.subject)
        await rows.fetch(f"DELETE FROM {self._s}.previews WHERE id = $1", preview.id)

    async def page(self, rows: Rows, tenant: str | None, asked: Listing) -> tuple[list[Preview], str, int]:
        """Previews newest first, one more than asked for if there is one; and the log's epoch and head of that
        snapshot.
        """
        found = await rows.fetch(*asked.query(self._s, "previews", tenant))
        previews = [preview for row in found if (preview := _preview(row)) is not None]
        return previews, found[0]["log_epoch"], found[0]["log_head"]

    async def changed(
        self, rows: Rows, tenant: str | None, after: int, upto: int, limit: int
    ) -> tuple[list[Preview], LogState]:
        """Previews whose newest status lies above `after` and not above `upto`, in the log's order, with the log's
        state of the same snapshot.
        """
        found = await rows.fetch(
            f"""SELECT l.epoch AS log_epoch, l.head AS log_head, k.oldest AS log_oldest, p.*
                FROM {self._s}.log l CROSS JOIN {self._s}.retained k LEFT JOIN LATERAL (
                    SELECT * FROM {self._s}.previews WHERE {of_tenant(tenant, "$1")}
                        AND last_seq > $2 AND last_seq <= $3
                    ORDER BY last_seq LIMIT $4) p ON true
                ORDER BY p.last_seq""",
            tenant,
            after,
            upto,
            limit,
        )
        first = found[0]
        state = LogState(first["log_epoch"], first["log_head"], first["log_oldest"])
        return [preview for row in found if (preview := _preview(row)) is not None], state

    async def before_tail(self, rows: Rows, subject: str, lines: int) -> int | None:
        """The seq right before the last so many stored `log` events; None: there are no more than those."""
        row = await rows.fetchrow(
            f"""SELECT seq FROM {self._s}.events WHERE subject = $1 AND type = 'log'
                ORDER BY seq DESC OFFSET $2 LIMIT 1""",
            subject,
            lines,
        )
        return None if row is None else int(row["seq"])

    async def count_active(self, rows: Rows, tenant: str) -> int:
        """How many programs the tenant has."""
        sql = f"SELECT count(*) AS n FROM {self._s}.previews WHERE tenant = $1 AND {_ACTIVE}"
        return int((await rows.fetchrow(sql, tenant))["n"])

    async def active_on(self, rows: Rows, host: str) -> list[str]:
        """Ids of the previews that a host is said to have."""
        found = await rows.fetch(f"SELECT id FROM {self._s}.previews WHERE host = $1 AND {_ACTIVE} ORDER BY id", host)
        return [row["id"] for row in found]

    async def now(self, rows: Rows) -> datetime:
        now: datetime = (await rows.fetchrow("SELECT clock_timestamp() AS now"))["now"]
        return now


def _values(preview: Preview) -> Sequence[Any]:
    values = {field: getattr(preview, field) for field in FIELDS}
    for field in _JSON:
        values[field] = msgspec.json.encode(values[field])
    return list(values.values())


def _preview(row: Any) -> Preview | None:
    if row is None or row["id"] is None:
        return None
    values = {field: row[field] for field in FIELDS}
    for field, shape in _JSON.items():
        values[field] = msgspec.json.decode(row[field], type=shape)
    return Preview(**values)
