"""The log's tables, and how a service's tables come to be: numbered steps, each run once."""

from collections.abc import Sequence

from asyncpg import Connection

from shared.channel.postgres.database import Database, unavailable_means

MIGRATION_SECONDS = 600.0

# One service owns one PostgreSQL schema; {s} is its name.
LOG_STEPS = (
    """
    CREATE TABLE {s}.log (
        one boolean PRIMARY KEY DEFAULT true CHECK (one),
        epoch text NOT NULL,
        head bigint NOT NULL DEFAULT 0,
        system_identifier bigint NOT NULL,
        timeline int NOT NULL
    ) WITH (fillfactor = 10);

    -- apart from the counter, so that trimming never waits for an append nor an append for it
    CREATE TABLE {s}.retained (
        one boolean PRIMARY KEY DEFAULT true CHECK (one),
        oldest bigint NOT NULL DEFAULT 1
    );
    INSERT INTO {s}.retained DEFAULT VALUES;

    CREATE TABLE {s}.events (
        seq bigint PRIMARY KEY,
        stored_at timestamptz NOT NULL DEFAULT now(),
        tenant text NOT NULL,
        subject text NOT NULL,
        session text,
        worker text,
        type text NOT NULL,
        ends text,
        data bytea NOT NULL
    );
    ALTER TABLE {s}.events ALTER COLUMN data SET STORAGE EXTERNAL;
    CREATE INDEX events_subject ON {s}.events (subject, seq);
    CREATE INDEX events_session ON {s}.events (tenant, session, seq) WHERE session IS NOT NULL;

    CREATE TABLE {s}.producers (
        tenant text NOT NULL,
        subject text NOT NULL,
        producer text NOT NULL,
        next_seq bigint NOT NULL,
        updated_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant, subject, producer)
    );
    """,
)


async def prepare_schema(database: Database, schema: str, steps: Sequence[str]) -> None:
    """Make the tables of a schema that holds no log. Raise LogUnavailable."""
    connection = await database.connect("migrations")
    try:
        with unavailable_means():
            await migrate(connection, schema, "service", steps)
    finally:
        await connection.close()


async def migrate(connection: Connection, schema: str, part: str, steps: Sequence[str]) -> None:
    """Run the steps of `part` that have not run yet. Safe when several processes start at once."""
    async with connection.transaction():
        # another replica's migration may take its time
        await connection.execute("SET LOCAL lock_timeout = 0")
        await connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        await connection.execute(
            "SELECT pg_advisory_xact_lock(hashtext($1))", f"tailrace migrate {schema}", timeout=MIGRATION_SECONDS
        )
        await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        await connection.execute(
            f"CREATE TABLE IF NOT EXISTS {schema}.steps (part text, number int, PRIMARY KEY (part, number))"
        )
        done = await connection.fetchval(f"SELECT coalesce(max(number), 0) FROM {schema}.steps WHERE part = $1", part)
        for number, step in enumerate(steps[done:], start=done + 1):
            await connection.execute(step.format(s=schema), timeout=MIGRATION_SECONDS)
            await connection.execute(f"INSERT INTO {schema}.steps VALUES ($1, $2)", part, number)
