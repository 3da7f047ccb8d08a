"""Reading the log: one statement, one snapshot, bounded in rows, in bytes and in what it scans."""

from collections.abc import Sequence
from typing import Any

from shared.channel.log import Page
from shared.protocol.filter import Filter, type_expression
from shared.protocol.position import LogState
from shared.protocol.record import Record

SCAN_ROWS = 2_000  # rows looked at in one call when the filter may hide most of them

_COLUMNS = "e.seq, e.tenant, e.subject, e.session, e.worker, e.type, e.ends, e.data"

# `scanned` holds the next rows that an index leads to, `wanted` marks those the filter wants. `before` is the bytes of
# the wanted rows up to a row, so that a page is bounded in bytes without being cut to nothing.
_SELECT = """
WITH scanned AS MATERIALIZED (
    {scan}
), wanted AS (
    SELECT e.*, {wanted} AS wanted FROM scanned e
), counted AS (
    SELECT e.*,
           sum(octet_length(e.data)) FILTER (WHERE e.wanted) OVER (ORDER BY e.seq) - octet_length(e.data) AS before,
           count(*) FILTER (WHERE e.wanted) OVER (ORDER BY e.seq) AS place
    FROM wanted e
)
SELECT l.epoch, l.head, r.oldest, (SELECT count(*) FROM scanned) AS scanned, (SELECT max(seq) FROM scanned) AS last,
       (SELECT count(*) FROM wanted WHERE wanted) AS found, {columns}
FROM {s}.log l CROSS JOIN {s}.retained r
LEFT JOIN counted e ON e.wanted AND e.place <= $2 AND (e.place = 1 OR e.before < $3)
ORDER BY e.seq
"""


class ReadQueries:
    """Builds the statement that reads a filter's next page."""

    def __init__(self, schema: str) -> None:
        self._schema = schema

    def select(self, filter: Filter, after: int, *, limit: int, max_bytes: int) -> "ReadQuery":
        """The statement and its arguments for the events above `after`."""
        args: list[Any] = [after, limit, max_bytes]
        scan_rows = max(SCAN_ROWS, limit) if self._hides(filter) else limit

        def bind(value: Any) -> str:
            args.append(value)
            return f"${len(args)}"

        scan = self._scan(filter, bind, scan_rows)
        sql = _SELECT.format(scan=scan, wanted=self._wanted(filter, bind), columns=_COLUMNS, s=self._schema)
        return ReadQuery(sql, args, scan_rows)

    def _scan(self, filter: Filter, bind: Any, rows: int) -> str:
        events = f"{self._schema}.events"
        if filter.subjects is None and filter.session is None:
            return f"SELECT * FROM {events} WHERE seq > $1 ORDER BY seq LIMIT {rows}"
        # only here: PostgreSQL refuses an argument that the statement does not use
        tenant = "true" if filter.tenant is None else f"tenant = {bind(filter.tenant)}"
        if filter.subjects is not None:
            # one index scan a subject, merged: a plain `subject = ANY` would sort all their events for each page
            return f"""SELECT e.* FROM unnest({bind(list(filter.subjects))}::text[]) AS wanted_subject
                CROSS JOIN LATERAL (SELECT * FROM {events} WHERE subject = wanted_subject AND {tenant} AND seq > $1
                    ORDER BY seq LIMIT {rows}) e
                ORDER BY e.seq LIMIT {rows}"""
        session = bind(filter.session)
        return f"SELECT * FROM {events} WHERE {tenant} AND session = {session} AND seq > $1 ORDER BY seq LIMIT {rows}"

    def _wanted(self, filter: Filter, bind: Any) -> str:
        """The filter as a condition on a row `e`; the same rules as Filter.wants."""
        covered = ["true"]
        if filter.tenant is not None:
            covered.append(f"e.tenant = {bind(filter.tenant)}")
        if filter.session is not None:
            covered.append(f"e.session IS NOT DISTINCT FROM {bind(filter.session)}")
        if filter.worker is not None:
            covered.append(f"e.worker IS NOT DISTINCT FROM {bind(filter.worker)}")
        if filter.from_workers is not None:
            covered.append(f"(e.worker IS NULL OR e.type = ANY({bind(list(filter.from_workers))}::text[]))")
        if filter.types is not None:
            shown = f"e.type ~ {bind(type_expression(filter.types))}"
            covered.append(f"({shown} OR e.ends IS NOT NULL)" if filter.ends_with_subject else shown)
        return " AND ".join(covered)

    @staticmethod
    def _hides(filter: Filter) -> bool:
        """Whether rows that the index leads to may be unwanted."""
        by_index = filter.subjects is not None or filter.session is not None
        narrowed = filter.types is not None or filter.worker is not None or filter.from_workers is not None
        return not by_index or narrowed


class ReadQuery:
    """One statement, and how its rows become a page."""

    def __init__(self, sql: str, args: Sequence[Any], scan_rows: int) -> None:
        self.sql = sql
        self.args = args
        self._scan_rows = scan_rows

    def page(self, rows: Sequence[Any]) -> Page:
        """`scanned_to`: the last row returned when the page was full, else the last row scanned, else the head."""
        first = rows[0]
        records = tuple(_record(row) for row in rows if row["seq"] is not None)
        if len(records) < first["found"]:
            scanned_to = records[-1].seq
        elif first["scanned"] >= self._scan_rows:
            scanned_to = first["last"]
        else:
            scanned_to = first["head"]
        state = LogState(epoch=first["epoch"], head=first["head"], oldest=first["oldest"])
        return Page(records, max(scanned_to, self.args[0]), state)


def _record(row: Any) -> Record:
    return Record(
        seq=row["seq"],
        tenant=row["tenant"],
        subject=row["subject"],
        session=row["session"],
        worker=row["worker"],
        type=row["type"],
        ends=row["ends"],
        data=row["data"],
    )
