"""How a runner tells of its work."""

from typing import Any, Protocol


class Reporter(Protocol):
    """Both return when the event is stored."""

    async def node(self, node: str, **fields: Any) -> None:
        """A `node_update`; `fields` are those of the event."""
        ...

    async def error(self, code: str, message: str, *, fatal: bool, attempt: int, node: str | None = None) -> None:
        """An `error`."""
        ...
