"""Which events of a log somebody wants."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from msgspec import Struct

from shared.protocol.record import Record


class Filter(Struct, frozen=True):
    """Events of one tenant (None: all, for trusted services only), narrowed by whatever else is set.

    `types` holds exact names and globs in which `*` stands for any run of characters. `from_workers`, when set, holds
    the only types that are let through from workers. A filter of a single subject
    also learns of the event that ends it, whatever `types` says, since the end of a stream is never filtered; unless
    it is `endless`. Ends up to the seq `ends_above` do not count: the subject has come back since.
    """

    tenant: str | None
    subjects: tuple[str, ...] | None = None
    session: str | None = None
    worker: str | None = None
    types: tuple[str, ...] | None = None
    from_workers: tuple[str, ...] | None = None
    endless: bool = False
    ends_above: int = 0

    def shows(self, record: Record) -> bool:
        """Whether a reader is sent this event."""
        return self.covers(record) and (
            self.types is None or type_pattern(self.types).fullmatch(record.type) is not None
        )

    def wants(self, record: Record) -> bool:
        """Whether a reader must know of this event: it is shown, or it ends the only subject."""
        if self.is_end(record):
            return self.covers(record)
        return self.shows(record)

    def is_end(self, record: Record) -> bool:
        """Whether a stream through this filter is over with this event, given that it covers it."""
        return record.ends is not None and record.seq > self.ends_above and self.ends_with_subject

    def covers(self, record: Record) -> bool:
        """Whether the event lies inside the filter, types apart."""
        return (
            (self.tenant is None or record.tenant == self.tenant)
            and (self.subjects is None or record.subject in self.subjects)
            and (self.session is None or record.session == self.session)
            and (self.worker is None or record.worker == self.worker)
            and (self.from_workers is None or record.worker is None or record.type in self.from_workers)
        )

    @property
    def ends_with_subject(self) -> bool:
        """Whether a stream through this filter is over when its subject is."""
        return self.subjects is not None and len(self.subjects) == 1 and not self.endless

    def describe(self) -> dict[str, Any]:
        """What the `hello` frame says of it. The tenant is the caller's own and is left out."""
        parts = {
            "subjects": self.subjects,
            "session": self.session,
            "worker": self.worker,
            "types": self.types,
        }
        return {name: value for name, value in parts.items() if value is not None}


_ANY = "[a-z0-9_.]*"


@lru_cache(maxsize=1024)
def type_pattern(globs: tuple[str, ...]) -> re.Pattern[str]:
    """One pattern for all the globs. What stands between two stars is matched at its first place and never tried at
    another (it cannot match more for that), so that no glob, however many stars it has, takes long.
    """
    return re.compile("(?:" + "|".join(_pattern(glob) for glob in globs) + ")")


def _pattern(glob: str) -> str:
    first, *rest = (re.escape(part) for part in _parts(glob))
    if not rest:
        return first
    return first + "".join(f"(?>{_ANY}?{part})" for part in rest[:-1]) + _ANY + rest[-1]


def type_expression(globs: Sequence[str]) -> str:
    """The globs as one anchored regular expression over event types, for PostgreSQL, which does not backtrack."""
    alternatives = (_ANY.join(re.escape(part) for part in _parts(glob)) for glob in globs)
    return "^(" + "|".join(alternatives) + ")$"


def _parts(glob: str) -> list[str]:
    """What stands before, between and after its stars; several in a row are one."""
    return re.sub(r"\*+", "*", glob).split("*")
