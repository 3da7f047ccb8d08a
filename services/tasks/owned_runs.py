"""The runs that belong to tasks, as the runs feed told of them, and which of them are to be asked to stop."""

from typing import Any

from services.tasks.rules import OVER, OwnedRun
from shared.channel.log import Rows
from shared.protocol.position import Position

STEP = """
    CREATE TABLE {s}.task_runs (
        run_id text PRIMARY KEY,
        tenant text NOT NULL,
        task_id text NOT NULL,
        status text NOT NULL,
        error text,
        epoch text NOT NULL,
        seq bigint NOT NULL,
        stop text NOT NULL DEFAULT 'no' CHECK (stop IN ('no', 'wanted', 'asked'))
    );
    CREATE INDEX task_runs_task ON {s}.task_runs (task_id, run_id);
    CREATE INDEX task_runs_stop ON {s}.task_runs (run_id) WHERE stop = 'wanted';
"""


class OwnedRuns:
    """The table `task_runs` of the service's schema."""

    def __init__(self, schema: str) -> None:
        self._table = f"{schema}.task_runs"
        self._tasks = f"{schema}.tasks"

    async def of_task(self, rows: Rows, task_id: str) -> list[OwnedRun]:
        """Oldest first: ids grow with time."""
        found = await rows.fetch(f"SELECT * FROM {self._table} WHERE task_id = $1 ORDER BY run_id", task_id)
        return [_run(row) for row in found]

    async def get(self, rows: Rows, run_id: str) -> OwnedRun | None:
        """A run as it was told of last."""
        row = await rows.fetchrow(f"SELECT * FROM {self._table} WHERE run_id = $1", run_id)
        return None if row is None else _run(row)

    async def save(self, rows: Rows, run: OwnedRun, *, stop: bool) -> None:
        """Keep what was told of a run. `stop`: it is to be asked to stop, if it goes on and was not asked before, or
        was before a restore.
        """
        await rows.fetch(
            f"""INSERT INTO {self._table} (run_id, tenant, task_id, status, error, epoch, seq, stop)
                VALUES ($1, $2, $3, $4, $5, $6, $7, CASE WHEN $8 THEN 'wanted' ELSE 'no' END)
                ON CONFLICT (run_id) DO UPDATE SET status = $4, error = $5, epoch = $6, seq = $7,
                    stop = CASE WHEN $8 AND (task_runs.stop = 'no' OR task_runs.seq = 0 OR task_runs.epoch <> $6)
                        THEN 'wanted' ELSE task_runs.stop END""",
            run.run_id,
            run.tenant,
            run.task_id,
            run.status,
            run.error,
            run.epoch,
            run.seq,
            stop and not run.is_over,
        )

    async def unhear(self, rows: Rows, head: Position) -> None:
        """What was told of beyond the head of the log has been taken back: whatever is told next is newer."""
        await rows.fetch(f"UPDATE {self._table} SET seq = 0 WHERE epoch = $1 AND seq > $2", head.epoch, head.seq)

    async def stop(self, rows: Rows, task_id: str) -> None:
        """The runs of this task that go on are to be asked to stop."""
        await rows.fetch(
            f"UPDATE {self._table} SET stop = 'wanted' WHERE task_id = $1 AND stop = 'no' AND NOT status = ANY($2)",
            task_id,
            list(OVER),
        )

    async def to_stop(self, rows: Rows, limit: int) -> list[str]:
        """Runs that are to be asked to stop."""
        found = await rows.fetch(
            f"SELECT run_id FROM {self._table} WHERE stop = 'wanted' ORDER BY run_id LIMIT $1", limit
        )
        return [row["run_id"] for row in found]

    async def asked(self, rows: Rows, run_id: str) -> None:
        """It was asked, or cannot be any more. Of a task that is gone, nothing more is kept."""
        await rows.fetch(f"UPDATE {self._table} SET stop = 'asked' WHERE run_id = $1", run_id)
        await rows.fetch(
            f"""DELETE FROM {self._table} r WHERE run_id = $1
                AND NOT EXISTS (SELECT FROM {self._tasks} t WHERE t.id = r.task_id)""",
            run_id,
        )

    async def forget(self, rows: Rows, task_id: str) -> None:
        """The task is gone. Those of its runs that are still to be asked to stop are kept until they were."""
        await rows.fetch(f"DELETE FROM {self._table} WHERE task_id = $1 AND stop <> 'wanted'", task_id)


def _run(row: Any) -> OwnedRun:
    return OwnedRun(**{field: row[field] for field in OwnedRun.__struct_fields__})
