"""A preview: the row that is kept, what is shown of it, and what may follow which status."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

from msgspec import Struct

from services.previews.events import TERMINAL, Exit, Isolation, Kind, PreviewState
from shared.protocol.position import Position

NEXT: Mapping[PreviewState, frozenset[PreviewState]] = {
    "preparing": frozenset({"starting", "stopping", "failed", "lost"}),
    "starting": frozenset({"running", "stopping", "exited", "failed", "lost"}),
    "running": frozenset({"unhealthy", "stopping", "exited", "failed", "lost"}),
    "unhealthy": frozenset({"running", "stopping", "exited", "failed", "lost"}),
    "stopping": frozenset({"stopped", "preparing", "exited", "failed", "lost"}),  # preparing: to start again
    # what has ended may be started again
    "stopped": frozenset({"preparing"}),
    "exited": frozenset({"preparing"}),
    "failed": frozenset({"preparing"}),
    "lost": frozenset({"preparing"}),
}
SERVING: frozenset[PreviewState] = frozenset({"running", "unhealthy"})


class Health(Struct, frozen=True, kw_only=True):
    """Where the program answers when it is ready, and how long that may take."""

    path: str = "/health"
    timeout_seconds: float = 60.0


class Recipe(Struct, frozen=True, kw_only=True):
    """How the program is started, attempt after attempt. Its files are kept beside it."""

    entry: str
    command: Sequence[str]
    env: Mapping[str, str]
    health: Health
    ttl_seconds: float
    network: bool


class NewPreview(Struct, frozen=True, kw_only=True):
    """What a caller decides about a preview."""

    tenant: str
    owner: str
    generation_id: str
    kind: Kind
    recipe: Recipe
    files: Mapping[str, str]


class Preview(Struct, frozen=True, kw_only=True):
    """One row. Times are the database's, in UTC. `host` names the process's data directory that has the program.

    `revived_seq`: ends of the preview up to there are of earlier attempts.
    """

    id: str
    tenant: str
    owner: str
    generation_id: str
    host: str
    status: PreviewState
    kind: Kind
    recipe: Recipe
    file_names: Sequence[str]
    isolation: Isolation
    attempt: int
    exit: Exit | None
    message: str | None
    ready_after_ms: int | None
    tail: Sequence[str]
    created_at: datetime
    started_at: datetime | None
    stopped_at: datetime | None
    expires_at: datetime | None
    revived_seq: int
    moved_at: datetime
    last_seq: int

    @property
    def subject(self) -> str:
        return f"preview/{self.id}"

    @property
    def is_over(self) -> bool:
        return self.status in TERMINAL

    @property
    def label(self) -> str:
        """The id as part of a host name: `prv-01j…`."""
        return self.id.replace("_", "-")


class PreviewView(Struct, frozen=True, kw_only=True):
    """A preview as the API shows it. `last_position` is the position of its newest `preview_status`."""

    id: str
    tenant: str
    generation_id: str
    status: PreviewState
    kind: Kind
    entry: str
    command: Sequence[str]
    isolation: Isolation
    url: str
    passage: str
    attempt: int
    exit: Exit | None
    message: str | None
    ready_after_ms: int | None
    tail: Sequence[str]
    owner: str
    health: Health
    network: bool
    files: Sequence[str]
    created_at: datetime
    started_at: datetime | None
    stopped_at: datetime | None
    expires_at: datetime | None
    last_position: str


_SHOWN = (
    *("id", "tenant", "generation_id", "status", "kind", "isolation", "attempt", "exit", "message", "ready_after_ms"),
    *("tail", "owner", "created_at", "started_at", "stopped_at", "expires_at"),
)


def view(preview: Preview, epoch: str, url: str) -> PreviewView:
    """What is shown of it; `url` is the origin at which people open it."""
    shown: dict[str, Any] = {name: getattr(preview, name) for name in _SHOWN}
    recipe = preview.recipe
    return PreviewView(
        **shown,
        entry=recipe.entry,
        command=recipe.command,
        health=recipe.health,
        network=recipe.network,
        url=url,
        passage=f"{passage_of(preview.generation_id)}/",
        files=preview.file_names,
        last_position=str(Position(epoch, preview.last_seq)),
    )


def passage_of(generation_id: str) -> str:
    """Where programs reach the program, without the last slash."""
    return f"/api/v1/generations/{quote(generation_id, safe='')}/preview/app"
