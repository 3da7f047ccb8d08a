"""What the handlers of the previews service share."""

from services.previews.backend import Backend
from services.previews.model import Preview
from shared.edge.admission import Connection
from shared.edge.principal import principal_of

BASE = "/api/v1/previews"
PREVIEW = "/api/v1/generations/{generation_id:str}/preview"


def backend_of(connection: Connection) -> Backend:
    """The service's parts."""
    backend: Backend = connection.app.state.backend
    return backend


async def preview_of(connection: Connection, generation_id: str) -> Preview:
    """The generation's newest preview. Raise Missing, Forbidden."""
    return await backend_of(connection).subscriptions.require(principal_of(connection), generation_id)
