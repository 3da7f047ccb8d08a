"""The stored output of a preview: pages by line, narrowed by level, stream and text; and all of it as plain text."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
from msgspec import Raw, Struct

from services.previews.plain import Piece, PlainText
from shared.channel.log import Rows
from shared.edge.admission import Connection, choice, whole_number
from shared.edge.problems import BadInput

LEVELS = ("DEBUG", "INFO", "WARN", "ERROR")  # a level asked for is the lowest that is shown
MAX_LIMIT, DEFAULT_LIMIT = 5_000, 500
MAX_LINE = 2**53 - 1
MAX_TEXT = 500
DOWNLOAD_PAGE = 2_000
BEYOND_PAGE = 200
_SHOWN = r"regexp_replace(told->>'message', E'\x1b\\[[0-9;:]*m', '', 'g')"  # a colour is no text that one looks for
LOG_PARAMETERS = ("after", "before", "limit", "tail", "level", "stream", "q")


class LogQuery(Struct, frozen=True):
    """Lines above `after` and below `before`; the last of them if `tail`, else the first. `levels` empty: all;
    `limit` None: as many as are usual.
    """

    after: int
    before: int
    limit: int | None
    tail: bool
    levels: tuple[str, ...]
    stream: str | None
    text: str | None


class LogPage(Struct, frozen=True):
    """`log` events in order. `first_line` and `last_line` are those of what is stored in all; `more`: there are others
    that match, beyond this page: go on `after` its highest line, or `before` its lowest. A line of several pieces is
    never cut between two pages, so that one may hold more than was asked for.
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
        limit=whole_number(connection, name, DEFAULT_LIMIT, 1, MAX_LIMIT) if name in given else None,
        tail="tail" in given or ("before" in given and "after" not in given),
        levels=levels,
        stream=choice(connection, "stream", ("stdout", "stderr"), "") if "stream" in given else None,
        text=text,
    )


class Kept(Struct, frozen=True):
    """How many `log` events of a preview are stored, their size, and the number of the last line."""

    lines: int
    bytes: int
    last_line: int

    def with_more(self, lines: int, size: int) -> "Kept":
        return Kept(self.lines + lines, self.bytes + size, self.last_line)


class Stored(Struct, frozen=True):
    """What is looked at of a stored `log` event."""

    line: int
    part: int
    last: bool
    partial: bool

    @property
    def is_end(self) -> bool:
        return self.last and not self.partial


class Logs:
    """Reads `log` events of one preview from the service's log."""

    def __init__(self, schema: str, rows: Rows) -> None:
        self._s = schema
        self._rows = rows

    async def page(self, subject: str, asked: LogQuery) -> LogPage:
        limit = asked.limit or DEFAULT_LIMIT
        found = await self._find(subject, asked, limit + 1)
        more = len(found) > limit
        if more:
            found = found[-limit:] if asked.tail else found[:limit]
            found = await self._completed(subject, asked, found)
        first, last = await self._bounds(subject)
        return LogPage([Raw(row["data"]) for row in found], more, first, last)

    async def kept(self, subject: str) -> Kept:
        """How much is stored."""
        row = await self._rows.fetchrow(
            f"""SELECT count(*) AS lines, coalesce(sum(octet_length(data)), 0) AS bytes FROM {self._s}.events
                WHERE subject = $1 AND type = 'log'""",
            subject,
        )
        return Kept(row["lines"], int(row["bytes"]), (await self._bounds(subject))[1])

    async def text(self, subject: str, asked: LogQuery) -> AsyncIterator[bytes]:
        """All that matches, or as much as was asked for, as plain text."""
        plain, seq = PlainText(), 0
        while True:
            if asked.limit is None:
                found = await self._find(subject, msgspec.structs.replace(asked, tail=False), DOWNLOAD_PAGE, seq=seq)
                texts = [row["data"] for row in found]
            else:
                texts = [bytes(raw) for raw in (await self.page(subject, asked)).data]
            text = "".join(plain.feed(msgspec.json.decode(text, type=Piece)) for text in texts)
            if text:
                yield text.encode()
            if asked.limit is not None or len(texts) < DOWNLOAD_PAGE:
                break
            seq = found[-1]["seq"]
        if text := plain.close():
            yield text.encode()

    async def _completed(self, subject: str, asked: LogQuery, found: list[Any]) -> list[Any]:
        """With the pieces, beyond the page's own end, of lines that are in it: pieces of others may lie between."""
        told = [msgspec.json.decode(row["data"], type=Stored) for row in found]
        whole = {each.line for each in told if (each.part == 0 if asked.tail else each.is_end)}
        cut = {each.line for each in told} - whole
        edge = found[0] if asked.tail else found[-1]
        while cut:
            rows = await self._beyond(subject, asked, edge["seq"])
            for row in rows:
                each = msgspec.json.decode(row["data"], type=Stored)
                if each.line in cut and row["matches"]:
                    found.append(row)
                if each.part == 0 if asked.tail else each.is_end:
                    cut.discard(each.line)
            if len(rows) < BEYOND_PAGE:
                break
            edge = rows[-1]
        return sorted(found, key=lambda row: int(row["seq"]))

    async def _beyond(self, subject: str, asked: LogQuery, seq: int) -> list[Any]:
        """The next stored events in the direction of the reading, whether they match or not."""
        conditions, args = _conditions(asked, [subject, seq])
        beyond, order = ("<", "DESC") if asked.tail else (">", "ASC")
        return list(
            await self._rows.fetch(
                f"""SELECT seq, data, {" AND ".join(conditions)} AS matches FROM (
                        SELECT seq, data, convert_from(data, 'UTF8')::json AS told FROM {self._s}.events
                        WHERE subject = $1 AND type = 'log' AND seq {beyond} $2
                        ORDER BY seq {order} LIMIT {BEYOND_PAGE}) AS e ORDER BY seq {order}""",
                *args,
            )
        )

    async def _find(self, subject: str, asked: LogQuery, limit: int, *, seq: int = 0) -> list[Any]:
        """What matches above `seq`, in the order of the log. Lines are numbered in that order, but pieces of a long
        one may lie apart.
        """
        conditions, args = _conditions(asked, [subject, limit, seq])
        order = "DESC" if asked.tail else "ASC"
        found = await self._rows.fetch(
            f"""SELECT seq, data FROM (
                    SELECT seq, data, convert_from(data, 'UTF8')::json AS told FROM {self._s}.events
                    WHERE subject = $1 AND type = 'log' AND seq > $3 ORDER BY seq {order} OFFSET 0) AS e
                WHERE {" AND ".join(conditions)} ORDER BY seq {order} LIMIT $2""",
            *args,
        )
        return sorted(found, key=lambda row: int(row["seq"]))

    async def _bounds(self, subject: str) -> tuple[int, int]:
        lines = f"SELECT data FROM {self._s}.events WHERE subject = $1 AND type = 'log' ORDER BY seq"
        row = await self._rows.fetchrow(f"SELECT ({lines} LIMIT 1) AS first, ({lines} DESC LIMIT 1) AS last", subject)
        if row["first"] is None:
            return 0, 0
        return msgspec.json.decode(row["first"])["line"], msgspec.json.decode(row["last"])["line"]


def _conditions(asked: LogQuery, args: list[Any]) -> tuple[list[str], list[Any]]:
    """What the query says of `told`, an event's JSON; and the arguments, after those that there are."""
    args = [*args, asked.after, asked.before]
    where = [f"(told->>'line')::bigint > ${len(args) - 1}", f"(told->>'line')::bigint < ${len(args)}"]
    for field, value in (("level", list(asked.levels) or None), ("stream", asked.stream and [asked.stream])):
        if value:
            args.append(value)
            where.append(f"coalesce(told->>'{field}', '') = ANY(${len(args)}::text[])")
    if asked.text is not None:
        args.append(asked.text)
        where.append(f"position(lower(${len(args)}) IN lower({_SHOWN})) > 0")
    return where, args
