"""The bodies that the previews API takes and gives."""

from typing import Annotated

from msgspec import Meta, Struct

from services.previews.events import Kind
from services.previews.model import PreviewView

Text = Annotated[str, Meta(max_length=4_096, pattern=r"^[^\x00]*$")]


class HealthAsked(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The program is ready when `path` is answered with anything but a server's error, within `timeout_seconds`."""

    path: Annotated[str, Meta(max_length=1_000, pattern=r"^/[\x21-\x7e]*$")] = "/health"
    timeout_seconds: Annotated[float, Meta(gt=0, le=600)] = 60.0


class CreatePreview(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A program to launch: its files, by path below its own directory, and how it is started.

    `entry` is `module:app` for `asgi` and `wsgi`, a file for `node`, a directory for `static`; a `command` is the
    program and its arguments, never a shell's line. `env` is added to a clean environment. `network` shares the
    machine's network where the isolation would keep it out of reach.
    """

    files: dict[str, str]
    kind: Kind
    entry: Text = ""
    command: Annotated[list[Text], Meta(max_length=1_000)] = []
    env: dict[str, Text] = {}
    health: HealthAsked = HealthAsked()
    ttl_seconds: Annotated[float, Meta(gt=0, le=7 * 86_400)] | None = None
    network: bool = False


class ChangeFiles(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Files to write, by path; null removes one. All of them, or none if one is refused."""

    files: dict[str, str | None]


class PreviewFiles(Struct, frozen=True):
    """The files of a preview, by path, as they are kept for its next attempt."""

    preview_id: str
    files: dict[str, str]


class PreviewPage(Struct, frozen=True):
    """Newest first. `as_of` and the rows come from one snapshot: follow the feed from it."""

    data: list[PreviewView]
    next_cursor: str | None
    as_of: str
