"""The log in PostgreSQL: the only package that knows the driver."""

from shared.channel.postgres.bulletin import Bulletin
from shared.channel.postgres.database import Database
from shared.channel.postgres.log import PostgresEventLog
from shared.channel.postgres.schema import prepare_schema
from shared.channel.postgres.turn import Turn

__all__ = ["Bulletin", "Database", "PostgresEventLog", "Turn", "prepare_schema"]
