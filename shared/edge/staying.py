"""What a connection does for hours is done when its handler has returned: then the web framework has let go of it.

Its frames, its request and what it keeps for a response are 3 to 4 KB, and an idle reader is little else.
"""

from collections.abc import Awaitable, Callable
from typing import Any

Stay = Callable[[Any, Any], Awaitable[None]]  # called with ASGI's receive and send, without the framework's wrapping

_KEY = "tailrace.stay"


def stay(scope: Any, work: Stay) -> None:
    """Do `work` once the handler of this request has returned; to be called when nothing in the handler can fail."""
    scope[_KEY] = work


async def finish(scope: Any, receive: Any, send: Any) -> None:
    """Do what a handler has left to be done, if it has."""
    work: Stay | None = scope.pop(_KEY, None)
    if work is not None:
        for key in _FRAMEWORK:
            scope.pop(key, None)
            scope["state"].pop(key, None)
        await work(receive, send)


_FRAMEWORK = ("app", "litestar_app", "route_handler", "path_params", "path_template", "_ls_connection_state")
