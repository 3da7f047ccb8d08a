"""What `/ready` asks of every service."""

import asyncio
from collections.abc import Mapping, Sequence

from shared.channel.channel import Channel
from shared.channel.log import LogUnavailable
from shared.channel.postgres import PostgresEventLog

PATIENCE_SECONDS = 2


async def log_checks(channel: Channel, event_log: PostgresEventLog, failing: Sequence[str]) -> Mapping[str, str]:
    """Whether the log works: `ok`, or a sentence. `failing` are the service's own tasks that do not work now."""
    failing = [*channel.failures(), *failing]
    return {
        "database": await _database_check(channel),
        "listen": "ok" if event_log.listening else "news come by polling until the connection is back",
        "tasks": f"not working: {', '.join(failing)}" if failing else "ok",
    }


async def _database_check(channel: Channel) -> str:
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await channel.ask()
    except (LogUnavailable, TimeoutError) as error:
        return str(error) or f"no answer within {PATIENCE_SECONDS} s"
    return "ok"
