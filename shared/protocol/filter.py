"""Which events of a log somebody wants."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from msgspec import Struct

from shared.protocol.record import Record


class Filter(Struct, frozen=True):
    """Events of one tenant (None: all, for trusted services only), narrowed by whatever else is set.

    `types` holds exact names and globs in which `*` stands for any run of characters. A filter of a single subject
    also learns of the event that ends it, whatever `types` says, since the end of a stream is never filtered; unless
    it is `endless`.
    """

    tenant: str | None
    subjects: tuple[str, ...] | None = None
    session: str | None = None
    worker: str | None = None
    types: tuple[str, ...] | None = None
    endless: bool = False

    def shows(self, record: Record) -> bool:
        """Whether a reader is sent this event."""
        return self.covers(record) and (
            self.types is None or type_pattern(self.types).fullmatch(record.type) is not None
        )

    def wants(self, record: Record) -> bool:
        """Whether a reader must know of this event: it is shown, or it ends the only subject."""
        if self.ends_with_subject and record.ends is not None:
            return self.covers(record)
        return self.shows(record)

    def covers(self, record: Record) -> bool:
        """Whether the event lies inside the filter, types apart."""
        return (
            (self.tenant is None or record.tenant == self.tenant)
            and (self.subjects is None or record.subject in self.subjects)
            and (self.session is None or record.session == self.session)
            and (self.worker is None or record.worker == self.worker)
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


@lru_cache(maxsize=1024)
def type_pattern(globs: tuple[str, ...]) -> re.Pattern[str]:
    """One pattern for all the globs; valid in Python and in PostgreSQL alike."""
    return re.compile(type_expression(globs))


def type_expression(globs: Sequence[str]) -> str:
    """The globs as one anchored regular expression over event types."""
    alternatives = ("[a-z0-9_.]*".join(re.escape(part) for part in re.split(r"\*+", glob)) for glob in globs)
    return "^(" + "|".join(alternatives) + ")$"
