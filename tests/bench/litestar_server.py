"""Baseline A: Litestar's own `ServerSentEvent`, fed by an asyncio.Queue per reader. The usual way to do it.

The JSON is encoded once per event and the message object is shared, so that only delivery is compared.
"""

import asyncio
from collections.abc import AsyncIterator

from litestar import Litestar, get, post
from litestar.response import ServerSentEvent
from litestar.response.sse import ServerSentEventMessage

from tests.bench.event import event_json
from tests.bench.serving import run_uvicorn

Queue = asyncio.Queue[ServerSentEventMessage]
queues: set[Queue] = set()


async def _messages(queue: Queue) -> AsyncIterator[ServerSentEventMessage]:
    try:
        while True:
            yield await queue.get()
    finally:
        queues.discard(queue)


@get("/stream")
async def stream() -> ServerSentEvent:
    """Follow everything that is published from now on."""
    queue: Queue = asyncio.Queue()
    queues.add(queue)
    return ServerSentEvent(_messages(queue))


@post("/bench/publish", status_code=200)
async def publish(first: int, n: int) -> None:
    """Put `n` events into every reader's queue."""
    for number in range(first, first + n):
        data = event_json(number).decode()
        message = ServerSentEventMessage(data=data, event="node_update", id=f"k3f9a2-{number}")
        for queue in queues:
            queue.put_nowait(message)


if __name__ == "__main__":
    run_uvicorn(Litestar([stream, publish], openapi_config=None))
