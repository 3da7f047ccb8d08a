"""The SSE edge: a Litestar response that answers with its own ASGI callable, so that guards, dependencies and OpenAPI
work as for any other handler, and the stream has the connection to itself.
"""

from dataclasses import replace
from functools import partial
from typing import Any

from litestar import Request, Response
from litestar.response.base import ASGIResponse

from shared.edge.admission import Subscription
from shared.edge.connection import connection_of
from shared.edge.gate import entry_of
from shared.edge.lean import Flag
from shared.edge.sinks import SseSink
from shared.edge.snapshots import delivery_of
from shared.edge.staying import stay
from shared.edge.streams import Streams
from shared.protocol import sse


class EventStream(Response[None]):
    """Answers with `subscription` as `text/event-stream`, until the client leaves or the stream ends."""

    def __init__(self, subscription: Subscription, streams: Streams) -> None:
        super().__init__(None, media_type="text/event-stream")
        self._subscription = subscription
        self._streams = streams

    def to_asgi_response(self, app: Any, request: Request[Any, Any, Any], **_: Any) -> ASGIResponse:
        return _Answer(self._subscription, self._streams)  # type: ignore[return-value]  # Litestar only calls it

    @classmethod
    async def admit(cls, subscription: Subscription, streams: Streams) -> "Response[Any]":
        """The stream; or 204 when there is nothing more to come. Raise Gone, Busy, Away."""
        streams.check_room(subscription.filter.tenant)
        if await subscription.has_nothing_more():
            return Response(None, status_code=204, media_type="text/event-stream")
        if subscription.on_reset == "error":
            await subscription.start()
            subscription = replace(
                subscription, on_reset="reset"
            )  # from here on there is no status left to say it with
        return cls(subscription, streams)


class _Answer:
    """The ASGI application that sends one stream."""

    def __init__(self, subscription: Subscription, streams: Streams) -> None:
        self._subscription = subscription
        self._streams = streams

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(sse.HEADERS)})
        stay(scope, partial(self._stream, scope))

    async def _stream(self, scope: Any, receive: Any, send: Any) -> None:
        sink, connection = SseSink(self._subscription.primary), connection_of(scope)
        if not connection.is_open:
            return
        over = Flag()  # the client has left, or the last byte is out
        connection.on_lost = over.set
        connection.write(sink.wire(sse.opening(self._streams.jittered_retry())))
        delivery = delivery_of(self._subscription, sink, connection, self._streams, say=send, on_end=over.set)
        delivery.open()
        permit = entry_of(scope).permit
        if permit is not None:
            permit.watch(delivery.finish)
        try:
            await over.wait()
        finally:
            connection.on_lost = None
            if permit is not None:
                permit.close()
            await delivery.close()
