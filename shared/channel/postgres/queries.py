"""Reading the log: one statement, one snapshot, bounded in rows, in bytes and in what it scans."""

from collections.abc import Sequence
from typing import Any

from shared.channel.log import Page
from shared.protocol.filter import Filter, type_expression
from shared.protocol.position import MAX_SEQ, LogState
from shared.protocol.record import Record

SCAN_ROWS = 2_000  # rows looked at in one call when the filter may hide most of them

_COLUMNS = "e.seq, e.tenant, e.subject, e.session, e.worker, e.type, e.ends, e.data"

# `scanned` holds the next rows that an index leads to, all of them up to `horizon` (null: up to the head); `wanted`
# marks those the filter wants. `before` is the bytes of
# the wanted rows up to a row, so that a page is bounded in bytes without being cut to nothing.
_SELECT = """
WITH {scan}, wanted AS (
    SELECT e.*, {wanted} AS wanted FROM scanned e
), counted AS (
    SELECT e.*,
           sum(octet_length(e.data)) FILTER (WHERE e.wanted) OVER (ORDER BY e.seq) - octet_length(e.data) AS before,
           count(*) FILTER (WHERE e.wanted) OVER (ORDER BY e.seq) AS place
    FROM wanted e
)
SELECT l.epoch, l.head, r.oldest, (SELECT seq FROM horizon) AS horizon,
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
        return ReadQuery(sql, args)

    def _scan(self, filter: Filter, bind: Any, rows: int) -> str:
        events = f"{self._schema}.events"
        if filter.subjects is not None and len(filter.subjects) != 1:
            return self._scan_subjects(filter, bind, rows)
        where = ["seq > $1"]
        if filter.subjects is not None:
            where.append(f"subject = {bind(filter.subjects[0])}")
        elif filter.session is not None:
            where.append(f"session = {bind(filter.session)}")
        if filter.tenant is not None and len(where) > 1:  # without an index to help, `wanted` looks at the tenant
            where.append(f"tenant = {bind(filter.tenant)}")
        return f"""scanned AS MATERIALIZED (
            SELECT * FROM {events} WHERE {" AND ".join(where)} ORDER BY seq LIMIT {rows}
        ), horizon AS (SELECT CASE WHEN count(*) = {rows} THEN max(seq) END AS seq FROM scanned)"""

    def _scan_subjects(self, filter: Filter, bind: Any, rows: int) -> str:
        """A part of each subject's next events; complete up to the last of the part that ends first."""
        subjects = tuple(dict.fromkeys(filter.subjects or ()))
        part = max(32, 2 * rows // max(1, len(subjects)))
        tenant = "true" if filter.tenant is None else f"tenant = {bind(filter.tenant)}"
        return f"""parts AS MATERIALIZED (
            SELECT e.* FROM unnest({bind(list(subjects))}::text[]) AS wanted_subject CROSS JOIN LATERAL (
                SELECT * FROM {self._schema}.events WHERE subject = wanted_subject AND {tenant} AND seq > $1
                ORDER BY seq LIMIT {part}) e
        ), horizon AS (
            SELECT min(last) AS seq FROM (
                SELECT max(seq) AS last FROM parts GROUP BY subject HAVING count(*) = {part}) full_parts
        ), scanned AS MATERIALIZED (
            SELECT * FROM parts WHERE seq <= coalesce((SELECT seq FROM horizon), {MAX_SEQ}))"""

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

    def __init__(self, sql: str, args: Sequence[Any]) -> None:
        self.sql = sql
        self.args = args

    def page(self, rows: Sequence[Any]) -> Page:
        """`scanned_to`: the last row returned when the page was full, else the last row scanned, else the head."""
        first = rows[0]
        records = tuple(_record(row) for row in rows if row["seq"] is not None)
        if len(records) < first["found"]:
            scanned_to = records[-1].seq
        else:
            scanned_to = first["head"] if first["horizon"] is None else first["horizon"]
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
