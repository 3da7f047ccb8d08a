"""The tiers of isolation: what each keeps out of a program's reach, and which can be had here.

| out of the program's reach | `bubblewrap` | `uid` | `process` |
|---|---|---|---|
| `environment` the service's variables, as in /proc/<pid>/environ | yes | yes | yes |
| `memory` the service's memory, through /proc/<pid>/mem or ptrace | yes | yes | yes |
| `files` what only the service may read, its data directory with that | yes | yes | no |
| `database` the socket of the embedded PostgreSQL | yes | yes | no |
| `signals` ending or stopping the service's processes | yes | yes | no |
| `previews` other previews' files, sockets, processes and their signals | yes | yes | no |
| `loopback` TCP ports of this machine, the service's own with them | yes | no | no |
| `metadata` the addresses 169.254.169.254 and the like, and all other networks | yes | no | no |
| `abstract` unix sockets without a file | yes | no | no |

The last three are not kept from a preview that was launched with `network`: it shares the machine's. The tests try
each of these from inside, and hold the answers against this table.

A tier is in force when a program launched in it at start-up came up, found our packages, and could not read a file
that is the service's (but for `process`, which cannot promise that). So it is with a bubblewrap that is installed
where the kernel, or the container around us, gives no namespaces.
"""

from collections.abc import Sequence
from typing import Literal, get_args

from msgspec import Struct

from services.previews.supervisor import confine

TierName = Literal["bubblewrap", "uid", "process"]
NAMES: tuple[TierName, ...] = get_args(TierName)  # the strongest first

# What is out of reach, and the weakest tier that keeps it there.
KEPT_BY: dict[str, TierName] = {
    "environment": "process",
    "memory": "process",
    "files": "uid",
    "database": "uid",
    "signals": "uid",
    "previews": "uid",
    "loopback": "bubblewrap",
    "metadata": "bubblewrap",
    "abstract": "bubblewrap",
}


class IsolationUnavailable(Exception):
    """The isolation that was demanded cannot be had here; the message says why."""


class Tier(Struct, frozen=True):
    """The isolation in force. `passed_over` has a sentence about each stronger one."""

    name: TierName
    holds: tuple[str, ...]
    does_not: tuple[str, ...]
    passed_over: tuple[str, ...] = ()


def tier(name: TierName, passed_over: Sequence[str] = ()) -> Tier:
    rank = NAMES.index(name)
    holds = tuple(what for what, weakest in KEPT_BY.items() if rank <= NAMES.index(weakest))
    return Tier(name, holds, tuple(what for what in KEPT_BY if what not in holds), tuple(passed_over))


def protect_this_process() -> None:
    """Keep processes of the same user from this one's environment and memory, and the kernel from dumping its core.

    For the `process` tier. Root with all its capabilities is not kept from them; a program that root launches has
    none.
    """
    confine.prctl(confine.PR_SET_DUMPABLE, 0)
