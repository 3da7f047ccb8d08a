"""Streams for code without an event loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing

import httpx
import pytest

from shared.client import Client, Missing, iterate
from shared.client.follow import Item
from tests.integration.client_support import fields_of
from tests.support.contract import NO_SUCH_RUN, RUNS, Served, ended_run, events_of
from tests.support.postgres import run_apart


def stored_run(url: str) -> tuple[str, list[str]]:
    """A run that has ended, and the positions of its events."""

    async def make() -> tuple[str, list[str]]:
        async with httpx.AsyncClient(base_url=url) as http:
            run_id = await ended_run(http)
            return run_id, [str(frame.id) for frame in await events_of(http, run_id)]

    return run_apart(make())


def test_a_stream_is_a_plain_generator(tailrace: Served) -> None:
    run_id, positions = stored_run(tailrace.url)

    async def events() -> AsyncIterator[tuple[str, Item]]:
        async with Client(tailrace.url) as client, client.follow(f"{RUNS}/{run_id}/stream") as stream:
            async for event in stream:
                yield stream.position, event

    assert [position for position, _ in iterate(events)] == positions


def test_leaving_early_closes_what_was_opened(tailrace: Served) -> None:
    run_id, _ = stored_run(tailrace.url)
    closed = []

    async def events() -> AsyncIterator[Item]:
        try:
            async with Client(tailrace.url) as client, client.follow(f"{RUNS}/{run_id}/stream") as stream:
                async for event in stream:
                    yield event
        finally:
            await asyncio.sleep(0)
            closed.append(True)

    with closing(iterate(events)) as items:
        assert fields_of(next(items))["status"] == "queued"
    assert closed == [True]


def test_what_the_stream_raises_is_raised(tailrace: Served) -> None:
    async def events() -> AsyncIterator[Item]:
        async with Client(tailrace.url) as client, client.follow(f"{RUNS}/{NO_SUCH_RUN}/stream") as stream:
            async for event in stream:
                yield event

    with pytest.raises(Missing):
        next(iterate(events))
