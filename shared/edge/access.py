"""`POST /api/v1/stream-tickets`, which every process answers, and the life of its gate: a small service beside the
others.
"""

from collections.abc import Mapping
from typing import Annotated
from urllib.parse import unquote

from litestar import Response, post
from msgspec import Meta, Struct

from shared.channel.postgres import Database
from shared.edge.admission import AnyRequest
from shared.edge.app import build_app
from shared.edge.auth.scopes import ANY
from shared.edge.gate import Gate
from shared.edge.principal import principal_of
from shared.edge.settings import Settings
from shared.edge.tickets import Ticket


class TicketAsked(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`path` is that of the stream, or a preview's `passage`, without a query."""

    path: Annotated[str, Meta(max_length=2_000, pattern=r"^/api/v1/[^?#\x00-\x20]+(?!\n)$")]

    def __post_init__(self) -> None:
        if "\0" in unquote(self.path):  # no path that is answered has one, nor can it be stored
            raise ValueError("path must not have %00 in it")


@post("/api/v1/stream-tickets", status_code=201, scope=ANY)
async def issue_ticket(request: AnyRequest, data: TicketAsked) -> Response[Ticket]:
    """A ticket for one path, good once and for 30 seconds."""
    gate: Gate = request.app.state.gate
    ticket = await gate.tickets.issue(principal_of(request), data.path)
    return Response(ticket, status_code=201, headers={"cache-control": "no-store"})


class AccessService:
    """Tickets and tokens, in one process."""

    name = "stream-tickets"
    prefixes = ("/api/v1/stream-tickets",)
    host_pattern = passage_pattern = None

    def __init__(self, settings: Settings, gate: Gate, database: Database) -> None:
        self._gate = gate
        self._database = database
        self.asgi = build_app(self.name, [issue_ticket], settings, None)
        self.asgi.state.gate = gate

    async def start(self) -> None:
        await self._gate.start(self._database)

    async def stop(self) -> None:
        await self._gate.close()

    async def checks(self) -> Mapping[str, str]:
        return self._gate.checks()
