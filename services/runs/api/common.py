"""What the handlers of the runs service share."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from services.runs.backend import Backend
from services.runs.events import SCHEMA, WORKER_TYPES, cut_snippet
from services.runs.lifecycle import NO_RUN
from shared.edge.admission import Connection
from shared.edge.ids import is_id
from shared.edge.problems import BadInput, Missing
from shared.protocol.errors import InvalidEvent
from shared.protocol.schema import Built

BASE = "/api/v1/runs"


def backend_of(connection: Connection) -> Backend:
    """The service's parts."""
    backend: Backend = connection.app.state.backend
    return backend


def check_id(run_id: str) -> None:
    """One that cannot exist is refused in the same words as one that does not."""
    if not is_id("run", run_id):
        raise Missing(NO_RUN)


def build_events(sent: Sequence[Mapping[str, Any]], allowed: Sequence[str] = WORKER_TYPES, **given: Any) -> list[Built]:
    """Events from a request. Raise BadInput that names the first fault and its place."""
    given["ts"] = datetime.now(UTC)
    events = []
    for place, fields in enumerate(sent):
        snippet = fields.get("snippet")
        cut = {**fields, "snippet": cut_snippet(snippet)} if isinstance(snippet, str) else fields
        try:
            events.append(SCHEMA.build(cut, given, allowed))
        except InvalidEvent as error:
            raise BadInput(f"events[{place}]: {error}. Nothing of this request was stored.") from None
    return events


def check_producer(producer: str | None, producer_seq: int | None) -> None:
    """Raise BadInput when only one of them is given."""
    if (producer is None) != (producer_seq is None):
        raise BadInput("producer and producer_seq go together: give both, or neither")
