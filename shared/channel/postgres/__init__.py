"""The log in PostgreSQL: the only package that knows the driver."""

from shared.channel.postgres.database import Database
from shared.channel.postgres.log import PostgresEventLog
from shared.channel.postgres.turn import Turn

__all__ = ["Database", "PostgresEventLog", "Turn"]
