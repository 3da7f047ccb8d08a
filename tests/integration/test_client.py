"""The Python client against a real server."""

import asyncio

import httpx

from services.runs.events import SCHEMA, Status
from shared.client import Client
from shared.protocol.control import StreamEnd
from tests.support.contract import ANSWER_SECONDS, RUNS, Served, ended_run, events_of


async def test_a_stream_is_typed_and_ends_with_its_run(client: httpx.AsyncClient, tailrace: Served) -> None:
    run_id = await ended_run(client)
    stored = await events_of(client, run_id)
    async with (
        asyncio.timeout(ANSWER_SECONDS),
        Client(tailrace.url) as tailrace_client,
        tailrace_client.follow(f"{RUNS}/{run_id}/stream", schema=SCHEMA) as stream,
    ):
        seen = [(stream.position, event) async for event in stream]
    assert [position for position, _ in seen] == [frame.id for frame in stored]
    last = seen[-1][1]
    assert isinstance(last, Status)
    assert last.status == "completed"
    assert isinstance(stream.end, StreamEnd)
    assert (stream.end.reason, stream.end.final, stream.end.status) == ("terminal", True, "completed")
    assert stream.state == "ended"
