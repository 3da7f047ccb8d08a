"""What a case of the table is made of.

**Steps** are short sentences, carried out in order. Names are the case's own: `a`, `b`, `s`, `t`.

    run a                     queued and leased: two events, a1 and a2
    a updates 3               three node updates, by its worker `w`
    a errs                    an error that is not fatal
    a completed               its end; so are `failed`, `cancelled`, `timed_out`
    a deleted
    run a in s                one of a session
    session s                 an id that nobody has used
    s queen says some_type    an agent event of a session; so does `s worker:7 says …`
    task t                    queued: t1
    t moves running           another snapshot; so do terminal statuses
    t deleted
    elsewhere 3               events of other runs
    trimmed before a3         retention takes what lies before it
    new epoch                 the log is restored

**Labels** stand for events: `a3` is the third of `a` in the log. `reset:epoch_changed` stands for a reset.

**Positions** are labels too (what comes after that event is wanted; `a0`: all of a), `start`, `now`, or one of those
that cannot be continued: `other epoch`, `ahead`, `malformed`, `trimmed`.
"""

from typing import Any

from msgspec import Struct


class Ask(Struct, frozen=True, kw_only=True):
    """How one asks. `of` is the subject in the words of the multiplexed connection, with names for ids, or
    `runs a b`; `more` are parameters that only URLs have.
    """

    of: str
    after: str | None = None
    by_header: bool = False  # Last-Event-ID, where the way has headers
    types: str | None = None
    lossless: bool = False
    on_reset: str | None = None
    more: dict[str, Any] = {}


class Comes(Struct, frozen=True, kw_only=True):
    """What must come: labels before `live`, and after it.

    `end` is the reason of the end and the status (`terminal completed`). `refused`: the status, and words of its
    detail. `over`: there is nothing left, and never will be: 204. `polled`: what polling gets, where it differs.
    """

    history: str = ""
    live: str = ""
    end: str | None = None
    refused: tuple[int, str] | None = None
    over: bool = False
    resumed: bool | None = None
    polled: str | None = None
    then_refused: int | None = None  # a poll after the end


class Case(Struct, frozen=True, kw_only=True):
    """`meanwhile` happens when every reader is live."""

    name: str
    published: tuple[str, ...] = ()
    ask: Ask
    meanwhile: tuple[str, ...] = ()
    comes: Comes
