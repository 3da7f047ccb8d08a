"""Baseline: sse-starlette's EventSourceResponse, fed by an asyncio.Queue per reader."""

import asyncio
from collections.abc import AsyncIterator

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.bench.event import event_json
from tests.bench.serving import run_uvicorn

Queue = asyncio.Queue[ServerSentEvent]
queues: set[Queue] = set()


async def _messages(queue: Queue) -> AsyncIterator[ServerSentEvent]:
    try:
        while True:
            yield await queue.get()
    finally:
        queues.discard(queue)


async def stream(_: Request) -> EventSourceResponse:
    """Follow everything that is published from now on."""
    queue: Queue = asyncio.Queue()
    queues.add(queue)
    return EventSourceResponse(_messages(queue), ping=3600)


async def publish(request: Request) -> Response:
    """Put `n` events into every reader's queue."""
    first, count = int(request.query_params["first"]), int(request.query_params["n"])
    for number in range(first, first + count):
        event = ServerSentEvent(event_json(number).decode(), event="node_update", id=f"k3f9a2-{number}", sep="\n")
        for queue in queues:
            queue.put_nowait(event)
    return Response(status_code=200)


if __name__ == "__main__":
    routes = [Route("/stream", stream), Route("/bench/publish", publish, methods=["POST"])]
    run_uvicorn(Starlette(routes=routes))
