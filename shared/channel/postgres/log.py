"""The log in PostgreSQL: a counter row gives the order, so commit order is seq order and no reader passes a hole."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import nullcontext
from typing import Any

import asyncpg
from asyncpg import Connection

from shared.channel.appender import check_size
from shared.channel.log import Command, Committed, HistoryTrimmed, LogUnavailable, Page
from shared.channel.postgres.database import (
    UNAVAILABLE,
    Database,
    Session,
    fetch_one,
    is_unavailable,
    raise_if_cancelled,
    unavailable,
)
from shared.channel.postgres.epoch import check_epoch, new_epoch, read_state
from shared.channel.postgres.news import News
from shared.channel.postgres.queries import ReadQueries
from shared.channel.postgres.schema import LOG_STEPS, migrate
from shared.protocol.filter import Filter
from shared.protocol.position import LogState, Position
from shared.protocol.record import Draft, Record

_APPEND = """
WITH counter AS (
    UPDATE {s}.log SET head = head + $1 RETURNING epoch, head, head - $1 AS base
), stored AS (
    INSERT INTO {s}.events (seq, tenant, subject, session, worker, type, ends, data)
    SELECT counter.base + new.place, new.tenant, new.subject, new.session, new.worker, new.type, new.ends, new.data
    FROM counter, unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bytea[])
        WITH ORDINALITY AS new (tenant, subject, session, worker, type, ends, data, place)
)
SELECT epoch, base, pg_notify($9, epoch || '-' || head) FROM counter
"""
RETENTION_BATCH = 5_000
GROUP_SECONDS = 0.2  # how long one transaction takes in more: it holds the counter, and others wait


class PostgresEventLog:
    """One service's log, in the PostgreSQL schema `schema`. `steps` are the service's own tables."""

    def __init__(self, database: Database, schema: str, steps: Sequence[str] = ()) -> None:
        self.schema = schema
        self._database = database
        self._steps = steps
        self._append_sql = _APPEND.format(s=schema)
        self._queries = ReadQueries(schema)
        self._news = News(database, schema, self._check)
        self._writer: Connection | None = None

    async def start(self) -> LogState:
        connection = await self._database.connect("migrations")
        try:
            await migrate(connection, self.schema, "log", LOG_STEPS)
            await migrate(connection, self.schema, "service", self._steps)
            return await check_epoch(connection, self.schema)
        except UNAVAILABLE as error:
            raise LogUnavailable(f"the database is not available now: {error}") from error
        finally:
            await connection.close()

    async def close(self) -> None:
        await self._news.close()
        await self._drop_writer()

    # ── append ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def append(self, commands: Sequence[Command[Any]]) -> list[Committed[Any] | Exception]:
        try:
            return await self._append_group(await self._get_writer(), commands)
        except _Refused as refused:
            return [refused.reason]
        except Exception as error:
            if isinstance(error, LogUnavailable) or is_unavailable(error):
                await self._drop_writer()
                raise_if_cancelled()
                raise unavailable(_first(error)) from error
            if len(commands) == 1:
                return [error]
            # One command's rows were refused, and with them the whole group: each by itself, so that it fails alone.
            return [result for command in commands for result in await self.append([command])]
        except BaseException:
            await self._drop_writer()  # cancelled in the middle: the connection's state is not known
            raise

    async def _append_group(
        self, connection: Connection, commands: Sequence[Command[Any]]
    ) -> list[Committed[Any] | Exception]:
        if all(command.change is None for command in commands):
            return await self._store(connection, [_Pending(None, tuple(c.drafts)) for c in commands])
        async with connection.transaction():
            # Always the counter first: one lock order for every transaction that changes state, hence no deadlock.
            counter = await fetch_one(connection, f"SELECT epoch, head FROM {self.schema}.log FOR UPDATE")
            next_seq = counter["head"] + 1
            results: list[_Pending | Exception] = []
            deadline = asyncio.get_running_loop().time() + GROUP_SECONDS
            for command in commands:
                if results and asyncio.get_running_loop().time() > deadline:
                    break
                result = await self._apply(connection, command, counter["epoch"], next_seq, alone=len(commands) == 1)
                results.append(result)
                if isinstance(result, _Pending):
                    next_seq += len(result.drafts)
            stored = iter(await self._store(connection, [r for r in results if isinstance(r, _Pending)]))
            return [r if isinstance(r, Exception) else next(stored) for r in results]

    async def _apply(
        self, connection: Connection, command: Command[Any], epoch: str, next_seq: int, *, alone: bool
    ) -> "_Pending | Exception":
        """Run one command's change. Among others it gets a savepoint, so that its refusal leaves no trace of it."""
        if command.change is None:
            return _Pending(None, tuple(command.drafts))
        transaction = _Transaction(connection, epoch, next_seq + len(command.drafts))
        try:
            async with nullcontext() if alone else connection.transaction():
                outcome = await command.change(transaction)
                drafts = (*command.drafts, *outcome.drafts)
                check_size(Command(drafts))
        except Exception as error:
            # an OSError of the change's own (PermissionError) is a refusal; the driver's close the connection, or are
            # time-outs
            own = isinstance(error, OSError) and not isinstance(error, TimeoutError) and not connection.is_closed()
            if is_unavailable(error) and not own:
                connection.terminate()  # else the rollback waits for an answer once more
                raise
            if alone:
                raise _Refused(error) from error
            return error
        return _Pending(outcome.value, drafts)

    async def _store(self, connection: Connection, pending: Sequence["_Pending"]) -> list[Committed[Any] | Exception]:
        drafts = [draft for part in pending for draft in part.drafts]
        if not drafts:
            state = await read_state(connection, self.schema)
            return [Committed(part.value, Position(state.epoch, state.head)) for part in pending]
        row = await fetch_one(connection, self._append_sql, *_columns(drafts), self._news.name)
        seq, results = row["base"], []
        for part in pending:
            records = tuple(Record.of(seq + place, draft) for place, draft in enumerate(part.drafts, start=1))
            seq += len(records)
            results.append(Committed(part.value, Position(row["epoch"], seq), records))
        return list(results)

    async def _get_writer(self) -> Connection:
        if self._writer is None or self._writer.is_closed():
            self._writer = None
            self._writer = await self._database.connect_and("appender", self._check)
        return self._writer

    async def _drop_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.terminate()

    # ── read ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def read(self, filter: Filter, after: int, *, limit: int, max_bytes: int) -> Page:
        query = self._queries.select(filter, after, limit=limit, max_bytes=max_bytes)
        try:
            page = query.page(await self._database.fetch(query.sql, *query.args))
        except asyncpg.DataError:
            # the filter names something that no text column can hold, so there is nothing to find
            state = await self.state()
            page = Page((), max(state.head, after), state)
        if after < page.state.start:
            raise HistoryTrimmed(f"events up to {page.state.start} are no longer kept")
        return page

    async def state(self) -> LogState:
        async with self._database.connection() as connection:
            return await read_state(connection, self.schema)

    def heads(self) -> AsyncIterator[LogState]:
        return self._news.heads()

    @property
    def listening(self) -> bool:
        """Whether news arrive at once (else the slow poll finds them)."""
        return self._news.listening

    async def new_epoch(self) -> LogState:
        """Start a new incarnation, after a restore into the same cluster; connected readers get `reset`."""
        async with self._database.connection() as connection:
            await new_epoch(connection, self.schema)
            return await read_state(connection, self.schema)

    async def _check(self, connection: Session) -> LogState:
        return await check_epoch(connection, self.schema)

    # ── retention ──────────────────────────────────────────────────────────────────────────────────────────────

    async def trim(self, *, max_age_seconds: float | None, max_events: int | None) -> LogState:
        """Forget a prefix of the log: what is older than the age or beyond the count. Never blocks an append.

        `oldest` moves first, in its own transaction: a reader that needs what is about to go is told so.
        """
        state = await self.state()
        oldest = state.oldest
        if max_events is not None:
            oldest = max(oldest, state.head - max_events + 1)
        if max_age_seconds is not None:
            oldest = max(oldest, await self._first_younger(state, max_age_seconds))
        if oldest > state.oldest:
            async with self._database.connection() as connection:
                await connection.execute(f"UPDATE {self.schema}.retained SET oldest = greatest(oldest, $1)", oldest)
        deleted = RETENTION_BATCH
        while deleted == RETENTION_BATCH:
            deleted = await self._delete_before(oldest)
        return await self.state()

    async def _first_younger(self, state: LogState, max_age_seconds: float) -> int:
        """The seq of the first event that is not too old; from the front, so that its cost is that of what goes."""
        seq = state.oldest
        while seq <= state.head:
            row = await self._database.fetchrow(
                f"""SELECT max(seq) AS last,
                    max(seq) FILTER (WHERE stored_at < now() - $2::float8 * interval '1 s') AS old
                    FROM (SELECT seq, stored_at FROM {self.schema}.events WHERE seq >= $1
                          ORDER BY seq LIMIT {RETENTION_BATCH}) part""",
                seq,
                max_age_seconds,
            )
            if row["old"] is None:
                return seq
            seq = int(row["old"]) + 1
            if row["old"] != row["last"]:
                break
        return seq

    async def _delete_before(self, oldest: int) -> int:
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                f"""DELETE FROM {self.schema}.events WHERE seq IN
                    (SELECT seq FROM {self.schema}.events WHERE seq < $1 ORDER BY seq LIMIT {RETENTION_BATCH})
                    RETURNING 1""",
                oldest,
            )
        return len(rows)


def _first(error: BaseException) -> BaseException:
    """What went wrong before the clean-up did."""
    while error.__context__ is not None and is_unavailable(error.__context__):
        error = error.__context__
    return error


class _Refused(Exception):  # it carries an error out of a transaction, so that it is rolled back
    def __init__(self, reason: Exception) -> None:
        super().__init__(reason)
        self.reason = reason


class _Pending:
    __slots__ = ("drafts", "value")

    def __init__(self, value: Any, drafts: tuple[Draft, ...]) -> None:
        self.value = value
        self.drafts = drafts


class _Transaction:
    """What a change sees of the connection: it can read and change rows, but not end the transaction."""

    def __init__(self, connection: Connection, epoch: str, next_seq: int) -> None:
        self.epoch = epoch
        self.next_seq = next_seq
        self.fetch = connection.fetch
        self.fetchrow = connection.fetchrow
        self.execute = connection.execute


def _columns(drafts: Sequence[Draft]) -> tuple[Any, ...]:
    return (
        len(drafts),
        [d.tenant for d in drafts],
        [d.subject for d in drafts],
        [d.session for d in drafts],
        [d.worker for d in drafts],
        [d.type for d in drafts],
        [d.ends for d in drafts],
        [d.data for d in drafts],
    )
