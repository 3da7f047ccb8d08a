"""The runs service as its users meet it: create, watch, cancel, work under leases."""

import httpx
import pytest

from tests.support.server import Server, append, lease, running, sse


async def test_a_sample_run_is_watched_from_start_to_end(database_url: str) -> None:
    async with running(database_url) as server, httpx.AsyncClient(base_url=server.url) as client:
        body = {"task": "Say something", "params": {"step_seconds": 0, "words": 3}}
        created = await client.post("/api/v1/runs", json=body)
        assert created.status_code == 201
        async with sse(client, f"/api/v1/runs/{created.json()['id']}/stream") as stream:
            seen = [message async for message in stream]
    assert seen[0].event == "hello"
    assert seen[-1].event == "stream_end"
    assert [m.event for m in seen].count("live") == 1
    assert [m.event for m in seen if m.event in ("status", "node_update")] == [
        "status",
        "status",
        *["node_update"] * 5,
        "status",
    ]
