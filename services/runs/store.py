"""The runs service's SQL: its tables, and rows to Runs and back."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from services.runs.model import Run
from services.runs.summary import Summary
from shared.channel.log import Rows
from shared.edge import idempotency
from shared.edge.listing import Listing, of_tenant

STEPS = (
    """
    CREATE TABLE {s}.runs (
        id text PRIMARY KEY,
        tenant text NOT NULL,
        owner text NOT NULL,
        task text NOT NULL,
        mode text NOT NULL,
        runner text NOT NULL,
        status text NOT NULL CHECK (status IN ('queued', 'running', 'waiting_input', 'cancelling', 'completed',
            'failed', 'cancelled', 'timed_out')),
        session_id text,
        task_id text,
        workers int NOT NULL,
        params bytea NOT NULL,
        timeout_seconds float8,
        error text,
        output text,
        attempt int NOT NULL,
        max_attempts int NOT NULL,
        created_at timestamptz NOT NULL,
        started_at timestamptz,
        finished_at timestamptz,
        last_activity_at timestamptz NOT NULL,
        first_seq bigint NOT NULL,
        last_seq bigint NOT NULL,
        lease_token text,
        lease_worker text,
        lease_expires_at timestamptz,
        summary bytea NOT NULL
    );
    CREATE INDEX runs_newest ON {s}.runs (tenant, id DESC);
    CREATE INDEX runs_session ON {s}.runs (tenant, session_id, id DESC) WHERE session_id IS NOT NULL;
    CREATE INDEX runs_task ON {s}.runs (tenant, task_id, id DESC) WHERE task_id IS NOT NULL;
    CREATE INDEX runs_queued ON {s}.runs (runner, id) WHERE status = 'queued';
    CREATE INDEX runs_leased ON {s}.runs (lease_expires_at) WHERE lease_expires_at IS NOT NULL;
    """,
    """
    ALTER TABLE {s}.runs ADD COLUMN start_after timestamptz, ADD COLUMN retry_of text;
    """,
    idempotency.STEP,
)

FIELDS = Run.__struct_fields__
FILTERS = ("status", "runner", "mode", "session_id", "task_id")


class RunStore:
    """Every statement takes the tenant, except those of the service's own housekeeping; None: all tenants, for services
    that may read what everybody has. `pool` is for plain reads.
    """

    def __init__(self, schema: str, pool: Rows) -> None:
        self._s = schema
        self.pool = pool

    async def get(self, rows: Rows, tenant: str | None, run_id: str) -> Run | None:
        """The run as it is, None when the tenant has none of that id."""
        sql = f"SELECT * FROM {self._s}.runs WHERE id = $1 AND {of_tenant(tenant, '$2')}"
        return _run(await rows.fetchrow(sql, run_id, tenant))

    async def lock(self, rows: Rows, run_id: str) -> tuple[Run, datetime] | None:
        """The run, locked until the transaction ends, and the database's time."""
        row = await rows.fetchrow(
            f"SELECT r.*, clock_timestamp() AS now FROM {self._s}.runs r WHERE id = $1 FOR UPDATE", run_id
        )
        run = _run(row)
        return None if run is None else (run, row["now"])

    async def insert(self, rows: Rows, run: Run) -> None:
        places = ", ".join(f"${place}" for place in range(1, len(FIELDS) + 1))
        await rows.fetch(f"INSERT INTO {self._s}.runs ({', '.join(FIELDS)}) VALUES ({places})", *_values(run))

    async def save(self, rows: Rows, run: Run) -> None:
        sets = ", ".join(f"{field} = ${place}" for place, field in enumerate(FIELDS, start=1) if field != "id")
        await rows.fetch(f"UPDATE {self._s}.runs SET {sets} WHERE id = $1", *_values(run))

    async def save_progress(self, rows: Rows, run: Run) -> None:
        """What appending events changes of a run, and nothing else."""
        await rows.fetch(
            f"UPDATE {self._s}.runs SET summary = $2, last_seq = $3, last_activity_at = $4 WHERE id = $1",
            run.id,
            msgspec.json.encode(run.summary),
            run.last_seq,
            run.last_activity_at,
        )

    async def now(self, rows: Rows) -> datetime:
        now: datetime = (await rows.fetchrow("SELECT clock_timestamp() AS now"))["now"]
        return now

    async def page(self, rows: Rows, tenant: str | None, asked: Listing) -> tuple[list[Run], str, int]:
        """Runs newest first, one more than asked for if there is one; and the log's epoch and head of that snapshot."""
        found = await rows.fetch(*asked.query(self._s, "runs", tenant))
        runs = [run for row in found if (run := _run(row)) is not None]
        return runs, found[0]["log_epoch"], found[0]["log_head"]

    async def exist(self, rows: Rows, tenant: str | None, run_ids: Sequence[str]) -> set[str]:
        """Which of these ids the tenant has."""
        found = await rows.fetch(
            f"SELECT id FROM {self._s}.runs WHERE {of_tenant(tenant, '$1')} AND id = ANY($2::text[])",
            tenant,
            list(run_ids),
        )
        return {row["id"] for row in found}

    async def oldest_queued(self, rows: Rows, tenant: str | None, runners: Sequence[str]) -> str | None:
        """The queued run that has waited longest for one of these runners; `tenant` None: of any tenant."""
        row = await rows.fetchrow(
            f"""SELECT id FROM {self._s}.runs WHERE status = 'queued' AND runner = ANY($1::text[])
                AND ($2::text IS NULL OR tenant = $2) AND (start_after IS NULL OR start_after <= clock_timestamp())
                ORDER BY id LIMIT 1""",
            list(runners),
            tenant,
        )
        return None if row is None else str(row["id"])

    async def seconds_until_due(self, rows: Rows, runners: Sequence[str]) -> float | None:
        """When the next run that waits for its time may start; None when none does."""
        row = await rows.fetchrow(
            f"""SELECT extract(epoch FROM min(start_after) - clock_timestamp())::float8 AS seconds FROM {self._s}.runs
                WHERE status = 'queued' AND runner = ANY($1::text[]) AND start_after > clock_timestamp()""",
            list(runners),
        )
        return None if row["seconds"] is None else float(row["seconds"])

    async def delete(self, rows: Rows, run: Run) -> None:
        """Remove a run and all that was stored of it."""
        for sql in (
            f"DELETE FROM {self._s}.events WHERE subject = $1",
            f"DELETE FROM {self._s}.producers WHERE subject = $1",
            f"DELETE FROM {self._s}.runs WHERE id = substr($1, length('run/') + 1)",
        ):
            await rows.fetch(sql, run.subject)

    async def overdue(self, rows: Rows) -> list[str]:
        """Runs whose lease has expired or whose time is up."""
        found = await rows.fetch(
            f"""SELECT id FROM {self._s}.runs WHERE lease_expires_at < clock_timestamp()
                UNION SELECT id FROM {self._s}.runs WHERE lease_expires_at IS NOT NULL AND timeout_seconds IS NOT NULL
                    AND started_at + timeout_seconds * interval '1 s' < clock_timestamp()
                LIMIT 500"""
        )
        return [row["id"] for row in found]

    async def renew(self, rows: Rows, tenant: str, run_id: str, token: str, seconds: float) -> Any:
        """Extend a lease that is still held; the run's status and the new expiry, None when it is not held."""
        return await rows.fetchrow(
            f"""UPDATE {self._s}.runs SET lease_expires_at = clock_timestamp() + $3::float8 * interval '1 s'
                WHERE id = $1 AND lease_token = $2 AND tenant = $4 AND lease_expires_at > clock_timestamp()
                RETURNING status, lease_expires_at""",
            run_id,
            token,
            seconds,
            tenant,
        )

    async def next_producer_seq(self, rows: Rows, tenant: str, subject: str, producer: str) -> int | None:
        """The number that a producer's next event must have; None for one we have not heard of."""
        row = await rows.fetchrow(
            f"SELECT next_seq FROM {self._s}.producers WHERE tenant = $1 AND subject = $2 AND producer = $3",
            tenant,
            subject,
            producer,
        )
        return None if row is None else int(row["next_seq"])

    async def save_producer(self, rows: Rows, tenant: str, subject: str, producer: str, next_seq: int) -> None:
        await rows.fetch(
            f"""INSERT INTO {self._s}.producers (tenant, subject, producer, next_seq) VALUES ($1, $2, $3, $4)
                ON CONFLICT (tenant, subject, producer) DO UPDATE SET next_seq = $4, updated_at = now()""",
            tenant,
            subject,
            producer,
            next_seq,
        )


def _values(run: Run) -> list[Any]:
    values = {field: getattr(run, field) for field in FIELDS}
    values["params"] = msgspec.json.encode(run.params)
    values["summary"] = msgspec.json.encode(run.summary)
    return list(values.values())


def _run(row: Any) -> Run | None:
    if row is None or row["id"] is None:
        return None
    values = {field: row[field] for field in FIELDS}
    values["params"] = msgspec.json.decode(row["params"])
    values["summary"] = msgspec.json.decode(row["summary"], type=Summary)
    return Run(**values)
