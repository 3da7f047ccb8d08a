"""The tasks service's SQL: its tables, and rows to Tasks and back."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from services.tasks import feeds, owned_runs
from services.tasks.events import Progress, Step
from services.tasks.model import Task
from shared.channel.log import Rows
from shared.edge import idempotency
from shared.edge.listing import Listing, of_tenant
from shared.protocol.position import LogState, Position

STEPS = (
    """
    CREATE TABLE {s}.tasks (
        id text PRIMARY KEY,
        tenant text NOT NULL,
        owner text NOT NULL,
        kind text NOT NULL,
        title text NOT NULL,
        status text NOT NULL CHECK (status IN ('queued', 'running', 'waiting_input', 'succeeded', 'failed',
            'cancelled')),
        progress bytea NOT NULL,
        steps bytea NOT NULL,
        result bytea NOT NULL,
        error text,
        attempt int NOT NULL,
        rev bigint NOT NULL,
        created_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL,
        run_ids text[] NOT NULL,
        generation_id text,
        preview_status text,
        stops_runs boolean NOT NULL,
        last_seq bigint NOT NULL
    );
    CREATE INDEX tasks_newest ON {s}.tasks (tenant, id DESC);
    CREATE INDEX tasks_changed ON {s}.tasks (tenant, last_seq);
    CREATE INDEX tasks_generation ON {s}.tasks (tenant, generation_id) WHERE generation_id IS NOT NULL;
    CREATE INDEX tasks_open ON {s}.tasks (id) WHERE status IN ('queued', 'running', 'waiting_input');

    -- What may follow what is checked here too: whoever writes past the service, or has a stale row in its memory, is
    -- refused. Kept equal to NEXT in services/tasks/model.py by a test.
    CREATE FUNCTION {s}.check_move() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NOT (NEW.status = OLD.status
            OR OLD.status = 'queued'
                AND NEW.status IN ('running', 'waiting_input', 'succeeded', 'failed', 'cancelled')
            OR OLD.status = 'running'
                AND NEW.status IN ('queued', 'waiting_input', 'succeeded', 'failed', 'cancelled')
            OR OLD.status = 'waiting_input'
                AND NEW.status IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')) THEN
            RAISE check_violation USING MESSAGE = format('a task that is %s cannot become %s', OLD.status, NEW.status);
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER check_move BEFORE UPDATE OF status ON {s}.tasks
        FOR EACH ROW EXECUTE FUNCTION {s}.check_move();
    """,
    idempotency.STEP,
    owned_runs.STEP,
    feeds.STEP,
    """
    -- how the newest preview of each generation stands, as the previews feed told
    CREATE TABLE {s}.previews (
        tenant text NOT NULL,
        generation_id text NOT NULL,
        preview_id text NOT NULL,
        status text,
        epoch text NOT NULL,
        seq bigint NOT NULL,
        PRIMARY KEY (tenant, generation_id)
    );
    """,
)


class PreviewTold(Struct, frozen=True):
    """How the preview of a generation stands; `status` None: it is gone."""

    tenant: str
    generation_id: str
    preview_id: str
    status: str | None
    position: Position


FIELDS = Task.__struct_fields__
FILTERS = ("status", "kind", "generation_id")
_BYTES = "(octet_length(progress) + octet_length(steps) + octet_length(result) + coalesce(octet_length(error), 0))"


class TaskStore:
    """Every statement takes the tenant, except those of the service's own housekeeping; None: all tenants, for services
    that may read what everybody has. `pool` is for plain reads.
    """

    def __init__(self, schema: str, pool: Rows) -> None:
        self._s = schema
        self.pool = pool

    async def get(self, rows: Rows, tenant: str | None, task_id: str, *, lock: bool = False) -> Task | None:
        """The task as it is, None when the tenant has none of that id. `lock`: until the transaction ends."""
        sql = f"SELECT * FROM {self._s}.tasks WHERE id = $1 AND {of_tenant(tenant, '$2')}" + (
            " FOR UPDATE" if lock else ""
        )
        return _task(await rows.fetchrow(sql, task_id, tenant))

    async def of_anyone(self, rows: Rows, task_id: str) -> Task | None:
        """The task of whatever tenant, locked until the transaction ends."""
        return _task(await rows.fetchrow(f"SELECT * FROM {self._s}.tasks WHERE id = $1 FOR UPDATE", task_id))

    async def insert(self, rows: Rows, task: Task) -> None:
        places = ", ".join(f"${place}" for place in range(1, len(FIELDS) + 1))
        await rows.fetch(f"INSERT INTO {self._s}.tasks ({', '.join(FIELDS)}) VALUES ({places})", *_values(task))

    async def save(self, rows: Rows, task: Task) -> None:
        sets = ", ".join(f"{field} = ${place}" for place, field in enumerate(FIELDS, start=1) if field != "id")
        await rows.fetch(f"UPDATE {self._s}.tasks SET {sets} WHERE id = $1", *_values(task))

    async def delete(self, rows: Rows, task: Task) -> None:
        """Remove a task and all that was stored of it."""
        await rows.fetch(f"DELETE FROM {self._s}.events WHERE subject = $1", task.subject)
        await rows.fetch(f"DELETE FROM {self._s}.tasks WHERE id = $1", task.id)

    async def page(self, rows: Rows, tenant: str | None, asked: Listing) -> tuple[list[Task], str, int]:
        """Tasks newest first, one more than asked for if there is one; and the log's epoch and head of that
        snapshot.
        """
        found = await rows.fetch(*asked.query(self._s, "tasks", tenant))
        tasks = [task for row in found if (task := _task(row)) is not None]
        return tasks, found[0]["log_epoch"], found[0]["log_head"]

    async def changed(
        self,
        rows: Rows,
        tenant: str | None,
        after: int,
        upto: int,
        *,
        limit: int,
        max_bytes: int,
        task_id: str | None = None,
    ) -> tuple[list[Task], LogState]:
        """Tasks whose newest snapshot lies above `after` and not above `upto`, in the log's order; all of the tenant's,
        or one. At most `limit` and about `max_bytes`, but one if there is one. With the log's state of the same
        snapshot.
        """
        one = "" if task_id is None else "AND id = $6"
        found = await rows.fetch(
            f"""SELECT l.epoch AS log_epoch, l.head AS log_head, k.oldest AS log_oldest, t.*
                FROM {self._s}.log l CROSS JOIN {self._s}.retained k LEFT JOIN LATERAL (
                    SELECT *, sum({_BYTES}) OVER (ORDER BY last_seq) - {_BYTES} AS before FROM (
                        SELECT * FROM {self._s}.tasks WHERE {of_tenant(tenant, "$1")}
                            AND last_seq > $2 AND last_seq <= $3 {one}
                        ORDER BY last_seq LIMIT $4) page) t ON t.before < $5
                ORDER BY t.last_seq""",
            tenant,
            after,
            upto,
            limit,
            max_bytes,
            *(() if task_id is None else (task_id,)),
        )
        first = found[0]
        state = LogState(first["log_epoch"], first["log_head"], first["log_oldest"])
        return [task for row in found if (task := _task(row)) is not None], state

    async def open_tasks(self, rows: Rows, after: str, limit: int = 500) -> list[str]:
        """Ids of tasks of all tenants that have not ended, above `after`, in order."""
        found = await rows.fetch(
            f"""SELECT id FROM {self._s}.tasks WHERE status IN ('queued', 'running', 'waiting_input') AND id > $1
                ORDER BY id LIMIT $2""",
            after,
            limit,
        )
        return [row["id"] for row in found]

    async def stopping(self, rows: Rows, task_ids: Collection[str]) -> set[str]:
        """Which of these tasks, of whatever tenant, want their runs to stop."""
        found = await rows.fetch(
            f"SELECT id FROM {self._s}.tasks WHERE stops_runs AND id = ANY($1::text[])", list(task_ids)
        )
        return {row["id"] for row in found}

    async def of_generation(self, rows: Rows, tenant: str, generation_id: str) -> list[Task]:
        """The tasks that show a generation's preview, locked until the transaction ends."""
        found = await rows.fetch(
            f"SELECT * FROM {self._s}.tasks WHERE tenant = $1 AND generation_id = $2 ORDER BY id FOR UPDATE",
            tenant,
            generation_id,
        )
        return [task for row in found if (task := _task(row)) is not None]

    async def preview_status(self, rows: Rows, tenant: str, generation_id: str | None) -> str | None:
        """How the generation's newest preview stands, as far as was told."""
        row = await rows.fetchrow(
            f"SELECT status FROM {self._s}.previews WHERE tenant = $1 AND generation_id = $2", tenant, generation_id
        )
        return None if row is None else row["status"]

    async def tell_preview(self, rows: Rows, told: PreviewTold) -> bool:
        """Keep how a generation's preview stands; False when what is known is newer. When it is gone, any other may
        come next: an older one can be started again.
        """
        row = await rows.fetchrow(
            f"""INSERT INTO {self._s}.previews AS p (tenant, generation_id, preview_id, status, epoch, seq)
                VALUES ($1, $2, CASE WHEN $4::text IS NULL THEN '' ELSE $3 END, $4, $5, $6)
                ON CONFLICT (tenant, generation_id) DO UPDATE
                    SET preview_id = EXCLUDED.preview_id, status = $4, epoch = $5, seq = $6
                    WHERE (p.epoch <> $5 OR p.seq < $6) AND p.preview_id <= $3
                RETURNING 1 AS one""",
            told.tenant,
            told.generation_id,
            told.preview_id,
            told.status,
            told.position.epoch,
            told.position.seq,
        )
        return row is not None

    async def doubt_previews(self, rows: Rows) -> None:
        """What was told of previews may not hold any more: any news of them is newer."""
        await rows.fetch(f"UPDATE {self._s}.previews SET epoch = '', seq = 0, preview_id = ''")

    async def doubted_previews(self, rows: Rows, as_of: Position) -> list[PreviewTold]:
        """The generations of which no news has come since then: their previews are gone."""
        found = await rows.fetch(f"SELECT tenant, generation_id FROM {self._s}.previews WHERE epoch = ''")
        return [PreviewTold(row["tenant"], row["generation_id"], "", None, as_of) for row in found]

    async def now(self, rows: Rows) -> datetime:
        now: datetime = (await rows.fetchrow("SELECT clock_timestamp() AS now"))["now"]
        return now


def _values(task: Task) -> Sequence[Any]:
    values = {field: getattr(task, field) for field in FIELDS}
    for field in ("progress", "steps", "result"):
        values[field] = msgspec.json.encode(values[field])
    return list(values.values())


def _task(row: Any) -> Task | None:
    if row is None or row["id"] is None:
        return None
    values = {field: row[field] for field in FIELDS}
    values["progress"] = msgspec.json.decode(row["progress"], type=Progress)
    values["steps"] = msgspec.json.decode(row["steps"], type=list[Step])
    values["result"] = msgspec.json.decode(row["result"])
    return Task(**values)
