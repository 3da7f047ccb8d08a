"""Scopes: what a token lets its bearer do. Pure.

`previews:admin` is for those who look after a tenant: it reaches the previews of its other users. `feed:consume` is for
services that follow the feeds of all tenants, and no user should have it.
"""

from collections.abc import Iterable, Mapping
from typing import Protocol

SCOPES: Mapping[str, str] = {
    "tasks:read": "tasks, their lists and streams",
    "tasks:write": "make, change, cancel and delete tasks",
    "runs:read": "runs, their lists, events and streams",
    "runs:write": "start, cancel, answer, retry and delete runs",
    "runs:work": "lease queued runs and report on those",
    "sessions:read": "the events and streams of sessions and their workers",
    "sessions:write": "publish events into sessions",
    "previews:read": "previews, their lists, output and streams",
    "previews:use": "enter the program of a preview, in a browser or by calling it",
    "previews:write": "start, restart, change and stop previews",
    "previews:admin": "all of that with the previews of the tenant's other users",
    "feed:consume": "the tasks, runs and previews of all tenants, to read",
}
ALL = frozenset(SCOPES)

# what an operation asks for is one of the scopes it names, or
ANY: tuple[str, ...] = ()  # none: whoever has a token may
PUBLIC = None  # not even a token; for what is the same for everybody

# Who may write is shown what was written, so a refusal to read it would protect nothing. Not so sessions:write, whose
# answers hold no more than positions, nor runs:work, which shows the leased run alone: an agent needs no more.
_IMPLIED: Mapping[str, tuple[str, ...]] = {
    "tasks:write": ("tasks:read",),
    "runs:write": ("runs:read",),
    "previews:use": ("previews:read",),
    "previews:write": ("previews:read", "previews:use"),
    "previews:admin": ("previews:read", "previews:use", "previews:write"),
    "feed:consume": ("tasks:read", "runs:read", "previews:read"),
}


class Holder(Protocol):
    """Whoever has scopes."""

    @property
    def scopes(self) -> frozenset[str]: ...


def allows(holder: Holder, scope: str) -> bool:
    """Whether the holder has a scope or one that implies it. Raise KeyError for a scope that is none: a slip of the
    code, which should not pass for a refusal.
    """
    return not _GRANTED_BY[scope].isdisjoint(holder.scopes)


def known(names: Iterable[str]) -> frozenset[str]:
    """Those of the names that are scopes of ours; a token may carry others, for others."""
    return ALL.intersection(names)


def unknown(names: Iterable[str]) -> list[str]:
    """Those that are not."""
    return sorted(set(names) - ALL)


# the scopes that grant each one, itself among them
_GRANTED_BY: Mapping[str, frozenset[str]] = {
    wanted: frozenset(scope for scope in SCOPES if scope == wanted or wanted in _IMPLIED.get(scope, ()))
    for wanted in SCOPES
}
