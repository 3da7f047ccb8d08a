"""Baseline: Litestar's own ChannelsPlugin in memory, its subscriptions sent as server-sent events."""

from collections.abc import AsyncIterator

from litestar import Litestar, get, post
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.memory import MemoryChannelsBackend
from litestar.response import ServerSentEvent
from litestar.response.sse import ServerSentEventMessage

from tests.bench.event import event_json
from tests.bench.serving import run_uvicorn

CHANNEL = "bench"
plugin = ChannelsPlugin(backend=MemoryChannelsBackend(), channels=[CHANNEL])


async def _messages(channels: ChannelsPlugin) -> AsyncIterator[ServerSentEventMessage]:
    async with channels.start_subscription([CHANNEL]) as subscriber:
        async for data in subscriber.iter_events():
            yield ServerSentEventMessage(data=data.decode(), event="node_update")


@get("/stream")
async def stream(channels: ChannelsPlugin) -> ServerSentEvent:
    """Follow everything that is published from now on."""
    return ServerSentEvent(_messages(channels))


@post("/bench/publish", status_code=200)
async def publish(channels: ChannelsPlugin, first: int, n: int) -> None:
    """Publish `n` events."""
    for number in range(first, first + n):
        await channels.wait_published(event_json(number), [CHANNEL])


if __name__ == "__main__":
    run_uvicorn(Litestar([stream, publish], plugins=[plugin], openapi_config=None))
