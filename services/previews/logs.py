"""The stored output of a preview: pages by line, narrowed by level, stream and text; and all of it as plain text."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
from msgspec import Raw, Struct

from shared.channel.log import Rows
from shared.edge.admission import Connection, choice, whole_number
from shared.edge.problems import BadInput

LEVELS = ("DEBUG", "INFO", "WARN", "ERROR")  # a level asked for is the lowest that is shown
MAX_LIMIT, DEFAULT_LIMIT = 5_000, 500
MAX_LINE = 2**53 - 1
MAX_TEXT = 500
DOWNLOAD_PAGE = 2_000
LOG_PARAMETERS = ("after", "before", "limit", "tail", "level", "stream", "q")


class LogQuery(Struct, frozen=True):
    """Lines above `after` and below `before`; the last of them if `tail`, else the first. `levels` empty: all."""

    after: int
    before: int
    limit: int
    tail: bool
    levels: tuple[str, ...]
    stream: str | None
    text: str | None


class LogPage(Struct, frozen=True):
    """`log` events in order. `first_line` and `last_line` are those of what is stored in all; `more`: there are others
    that match, beyond this page.
    """

    data: list[Raw]
    more: bool
    first_line: int
    last_line: int


def query_of(connection: Connection) -> LogQuery:
    """From a request's parameters. Raise BadInput."""
    given = connection.query_params
    if "tail" in given and "limit" in given:
        raise BadInput("tail and limit say the same: give one of them")
    name = "tail" if "tail" in given else "limit"
    levels: tuple[str, ...] = ()
    if "level" in given:
        lowest = choice(connection, "level", LEVELS, LEVELS[0])
        levels = LEVELS[LEVELS.index(lowest) :]
    text = given.get("q")
    if text is not None and (not text or len(text) > MAX_TEXT or "\0" in text):
        raise BadInput(f"q must be 1 to {MAX_TEXT} characters without NUL")
    return LogQuery(
        after=whole_number(connection, "after", 0, 0, MAX_LINE),
        before=whole_number(connection, "before", MAX_LINE, 0, MAX_LINE),
        limit=whole_number(connection, name, DEFAULT_LIMIT, 1, MAX_LIMIT),
        tail="tail" in given or ("before" in given and "after" not in given),
        levels=levels,
        stream=choice(connection, "stream", ("stdout", "stderr"), "") if "stream" in given else None,
        text=text,
    )


class Logs:
    """Reads `log` events of one preview from the service's log."""

    def __init__(self, schema: str, rows: Rows) -> None:
        self._s = schema
        self._rows = rows

    async def page(self, subject: str, asked: LogQuery) -> LogPage:
        found = await self._find(subject, asked, asked.limit + 1)
        more = len(found) > asked.limit
        found = found[-asked.limit :] if asked.tail else found[: asked.limit]
        first, last = await self._bounds(subject)
        return LogPage([Raw(row["data"]) for row in found], more, first, last)

    async def last_line(self, subject: str) -> int:
        """The number of the newest stored line; 0 when there is none."""
        return (await self._bounds(subject))[1]

    async def text(self, subject: str, asked: LogQuery) -> AsyncIterator[bytes]:
        """All that matches, as plain text: final pieces only, those of one line put together."""
        after = asked.after
        while True:
            page = msgspec.structs.replace(asked, after=after, tail=False)
            found = await self._find(subject, page, DOWNLOAD_PAGE)
            text = bytearray()
            for row in found:
                event: dict[str, Any] = msgspec.json.decode(row["data"])
                if not event["partial"]:
                    text += event["message"].encode() + (b"\n" if event["last"] else b"")
            if text:
                yield bytes(text)
            if len(found) < DOWNLOAD_PAGE:
                return
            after = msgspec.json.decode(found[-1]["data"])["line"]

    async def _find(self, subject: str, asked: LogQuery, limit: int) -> list[Any]:
        """In the order of the log. Lines are numbered in that order, but pieces of a long one may lie apart."""
        args: list[Any] = [subject, asked.after, asked.before, limit]
        where = ["(told->>'line')::bigint > $2", "(told->>'line')::bigint < $3"]
        for field, value in (("level", list(asked.levels) or None), ("stream", asked.stream and [asked.stream])):
            if value:
                args.append(value)
                where.append(f"told->>'{field}' = ANY(${len(args)}::text[])")
        if asked.text is not None:
            args.append(asked.text)
            where.append(f"position(lower(${len(args)}) IN lower(told->>'message')) > 0")
        order = "DESC" if asked.tail else "ASC"
        found = await self._rows.fetch(
            f"""SELECT seq, data FROM (
                    SELECT seq, data, convert_from(data, 'UTF8')::json AS told FROM {self._s}.events
                    WHERE subject = $1 AND type = 'log' ORDER BY seq {order} OFFSET 0) AS e
                WHERE {" AND ".join(where)} ORDER BY seq {order} LIMIT $4""",
            *args,
        )
        return sorted(found, key=lambda row: int(row["seq"]))

    async def _bounds(self, subject: str) -> tuple[int, int]:
        lines = f"SELECT data FROM {self._s}.events WHERE subject = $1 AND type = 'log' ORDER BY seq"
        row = await self._rows.fetchrow(f"SELECT ({lines} LIMIT 1) AS first, ({lines} DESC LIMIT 1) AS last", subject)
        if row["first"] is None:
            return 0, 0
        return msgspec.json.decode(row["first"])["line"], msgspec.json.decode(row["last"])["line"]
