"""One process's connections to PostgreSQL, and its errors turned into ours."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import asyncpg
from asyncpg import Connection, Pool, Record
from asyncpg.pool import PoolConnectionProxy

from shared.channel.log import LogUnavailable

Session: TypeAlias = "Connection[Record] | PoolConnectionProxy[Record]"

COMMAND_TIMEOUT_SECONDS = 6.0
CONNECT_TIMEOUT_SECONDS = 5.0

# A frozen replica must not hold the counter row: its session is ended after IDLE_IN_TRANSACTION, which is shorter than
# what the others wait for the row.
LOCK_TIMEOUT = "4s"
IDLE_IN_TRANSACTION = "2s"

UNAVAILABLE = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    # "cannot switch to state 12; another operation (2) is in progress": the connection was lost between the two halves
    # of a prepared statement. So says asyncpg 0.32, now and then, when the postmaster is killed.
    asyncpg.InternalClientError,
    asyncpg.CannotConnectNowError,
    asyncpg.OperatorInterventionError,  # shutdown, crash, and cancelled queries
    asyncpg.InsufficientResourcesError,  # too many connections, disk full
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.InternalServerError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.UndefinedTableError,  # in the middle of a restore
    asyncpg.InvalidSchemaNameError,
    asyncpg.ReadOnlySQLTransactionError,  # a standby
    asyncpg.ObjectNotInPrerequisiteStateError,  # a standby asked for its WAL position
    OSError,
    TimeoutError,
)


def is_unavailable(error: BaseException) -> bool:
    """Whether the database is at fault. The driver's errors about a query's arguments are InterfaceErrors too, but
    also ValueErrors: those are the caller's.
    """
    return isinstance(error, UNAVAILABLE) and not isinstance(error, ValueError)


class Database:
    """A pool for reads and a way to make connections that live long (the appender's, the listener's)."""

    def __init__(self, url: str, *, pool_size: int = 8) -> None:
        self._url = url
        self._pool_size = pool_size
        self._pool: Pool | None = None

    async def start(self) -> None:
        """Open the pool. Raise LogUnavailable."""
        with unavailable_means():
            self._pool = await asyncpg.create_pool(
                self._url,
                min_size=1,
                max_size=self._pool_size,
                command_timeout=COMMAND_TIMEOUT_SECONDS,
                timeout=CONNECT_TIMEOUT_SECONDS,
                server_settings=_server_settings("reader"),
                max_inactive_connection_lifetime=60,
            )

    async def close(self) -> None:
        """Close the pool; connections still in use are cut off after a second."""
        if self._pool is None:
            return
        try:
            async with asyncio.timeout(1):
                await self._pool.close()
        except (TimeoutError, *UNAVAILABLE):
            self._pool.terminate()

    async def connect_and(
        self, purpose: str, prepare: Callable[["Connection[Record]"], Awaitable[object]]
    ) -> "Connection[Record]":
        """A connection that `prepare` has had first; closed if that fails. Raise LogUnavailable."""
        connection = await self.connect(purpose)
        try:
            with unavailable_means():
                await prepare(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def connect(self, purpose: str) -> Connection:
        """A connection of its own, which the caller closes. Raise LogUnavailable."""
        with unavailable_means():
            return await asyncpg.connect(
                self._url,
                timeout=CONNECT_TIMEOUT_SECONDS,
                command_timeout=COMMAND_TIMEOUT_SECONDS,
                server_settings=_server_settings(purpose),
            )

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Session]:
        """A connection of the pool, for reads and for what needs no place in the log. Raise LogUnavailable."""
        if self._pool is None:
            raise LogUnavailable("the database is not open")
        with unavailable_means():
            async with self._pool.acquire(timeout=CONNECT_TIMEOUT_SECONDS) as connection:
                yield connection

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        """All rows. Raise LogUnavailable."""
        async with self.connection() as connection:
            return list(await connection.fetch(sql, *args))

    async def fetchrow(self, sql: str, *args: Any) -> Any:
        """The first row or None. Raise LogUnavailable."""
        async with self.connection() as connection:
            return await connection.fetchrow(sql, *args)


async def fetch_one(session: Session, sql: str, *args: Any) -> Record:
    """The first row of a statement that always returns one."""
    row = await session.fetchrow(sql, *args)
    if row is None:
        raise LookupError(f"no row came back: {sql.strip()[:60]}")
    return row


class unavailable_means:  # noqa: N801  reads as a phrase where it is used
    """Turns the driver's errors about connections, time-outs and resources into LogUnavailable."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None and is_unavailable(error):
            raise_if_cancelled()
            raise unavailable(error) from error


def raise_if_cancelled() -> None:
    """A cancelled query may end in a time-out of the driver's own clean-up, which must not hide the cancellation."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def unavailable(error: BaseException) -> LogUnavailable:
    """Our word for it."""
    return LogUnavailable(f"the database is not available now: {str(error) or type(error).__name__}")


def _server_settings(purpose: str) -> dict[str, str]:
    return {
        "application_name": f"tailrace {purpose}",
        "lock_timeout": LOCK_TIMEOUT,
        "idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION,
        # a session whose client has gone in the middle of a statement lets go of the counter too (PostgreSQL 14)
        "client_connection_check_interval": "1s",
        # A page is the next few rows of an index. Of a young run the planner knows nothing, takes its events for few
        # and would sort all of them for each page: 37 ms instead of 5 with 50,000, and ever more (PostgreSQL 18.4).
        "enable_bitmapscan": "off",
        "jit": "off",  # these queries are short; compiling them would cost more than running them
    }
