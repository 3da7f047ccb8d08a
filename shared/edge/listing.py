"""Lists: newest first, a page at a time, narrowed by fields, together with the head they are as of."""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from shared.edge.admission import Connection, whole_number
from shared.edge.ids import is_id
from shared.edge.problems import BadInput

LIST_PARAMETERS = ("limit", "cursor")
DEFAULT_LIMIT, MAX_LIMIT = 50, 500
MAX_VALUE = 200


class Listing(Struct, frozen=True):
    """What a request asks of a list. `before` is the last id of the page before; ids grow with time."""

    limit: int
    before: str | None
    filters: Mapping[str, str]

    def query(self, schema: str, table: str, tenant: str | None) -> tuple[Any, ...]:
        """The statement, for one tenant's rows or all, followed by its arguments: one row more than the limit if there
        are more, and in each row (one of NULLs for an empty page) the log's epoch and head as the same snapshot has
        them.
        """
        args: list[Any] = [tenant, self.limit + 1]
        where = [of_tenant(tenant, "$1")]
        for field, value in self.filters.items():
            args.append(value)
            where.append(f"{field} = ${len(args)}")
        if self.before is not None:
            args.append(self.before)
            where.append(f"id < ${len(args)}")
        sql = f"""SELECT l.epoch AS log_epoch, l.head AS log_head, r.* FROM {schema}.log l LEFT JOIN LATERAL (
            SELECT * FROM {schema}.{table} WHERE {" AND ".join(where)} ORDER BY id DESC LIMIT $2) r ON true
            ORDER BY r.id DESC"""
        return sql, *args


def of_tenant(tenant: str | None, parameter: str) -> str:
    """The condition that a row is the tenant's; None: anybody's. Two statements, so that each has its index."""
    return f"{parameter}::text IS NULL" if tenant is None else f"tenant = {parameter}"


def listing(connection: Connection, prefix: str, filters: Sequence[str], known: Mapping[str, Sequence[str]]) -> Listing:
    """From a request's parameters; ids begin with `prefix`, and a filter in `known` takes those values alone. Raise
    BadInput.
    """
    limit = whole_number(connection, "limit", DEFAULT_LIMIT, 1, MAX_LIMIT)
    cursor = connection.query_params.get("cursor")
    if cursor is not None and not is_id(prefix, cursor):
        raise BadInput(f"cursor is {cursor[:60]!r}; give a page's next_cursor")
    values = {name: connection.query_params[name] for name in filters if name in connection.query_params}
    for name, value in values.items():
        if name in known and value not in known[name]:
            raise BadInput(f"{name} is {value[:60]!r}; give one of {', '.join(known[name])}")
        if "\0" in value or len(value) > MAX_VALUE:
            raise BadInput(f"{name} must be up to {MAX_VALUE} characters without NUL")
    return Listing(limit, cursor, values)
