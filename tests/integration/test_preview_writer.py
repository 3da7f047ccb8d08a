"""Storing output and telling statuses when answers of the database are lost: before the commit, or after it."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from services.previews.capture import CaptureLimits
from services.previews.events import SCHEMA
from services.previews.lifecycle import Lifecycle
from services.previews.logs import Kept, Logs
from services.previews.model import Health, NewPreview, Recipe
from services.previews.store import STEPS, PreviewStore
from services.previews.writer import Source, Writer
from shared.channel.channel import Channel, ChannelLimits
from shared.channel.log import LogUnavailable
from shared.channel.postgres import Database, PostgresEventLog
from shared.edge.problems import Conflict
from tests.support.readers import seeded

SOURCE = Source("default", "prv_01jzzzzzzzzzzzzzzzzzzzzzzz", "gen")


class Forgetful:
    """A channel of which every other answer is lost, the work done or not."""

    def __init__(self, channel: Channel, chance: random.Random) -> None:
        self._channel = channel
        self._chance = chance
        self.lost = 0

    async def execute(self, change: Any, **options: Any) -> Any:
        fate = self._chance.choice(("well", "well", "before", "after"))
        if fate == "before":
            self.lost += 1
            raise LogUnavailable("lost before the commit")
        done = await self._channel.execute(change, **options)
        if fate == "after":
            self.lost += 1
            raise LogUnavailable("lost after the commit")
        return done


@asynccontextmanager
async def log_of(database_url: str) -> AsyncIterator[tuple[Channel, Database]]:
    database = Database(database_url)
    await database.start()
    channel = Channel(PostgresEventLog(database, "previews", STEPS), SCHEMA, ChannelLimits())
    await channel.start()
    try:
        yield channel, database
    finally:
        await channel.close()
        await database.close()


async def stored(database: Database) -> list[dict[str, Any]]:
    rows = await database.fetch("SELECT data FROM previews.events WHERE subject = $1 ORDER BY seq", SOURCE.subject)
    return [msgspec.json.decode(row["data"]) for row in rows]


async def test_each_line_is_stored_once_whatever_answers_are_lost(database_url: str) -> None:
    chance = seeded("lost answers")
    async with log_of(database_url) as (channel, database):
        forgetful = Forgetful(channel, chance)
        expected: list[str] = []
        for attempt in (1, 2, 3):  # each as by a process of its own
            kept = await Logs("previews", database).kept(SOURCE.subject)
            assert kept.lines == kept.last_line == len(expected)
            writer = Writer(
                forgetful,  # type: ignore[arg-type]  # all of a channel that it uses
                database,
                "previews",
                SOURCE,
                CaptureLimits(),
                kept=kept,
            )
            writing = asyncio.create_task(writer.run())
            writer.begin(attempt)
            for number in range(40):
                lines = [f"{attempt} {number} {n}" for n in range(chance.randrange(30))]
                writer.feed("stdout", "".join(f"{line}\n" for line in lines).encode())
                expected += lines
                await asyncio.sleep(chance.choice((0, 0, 0.01)))
            writer.close_pipes()
            await writer.drain()
            writing.cancel()
            await asyncio.wait([writing])
        events = await stored(database)
    assert forgetful.lost > 2
    assert [event["message"] for event in events] == expected
    assert [event["line"] for event in events] == list(range(1, len(expected) + 1))


async def test_output_that_json_makes_longer_is_stored(database_url: str) -> None:
    """A batch is bounded by what was captured: colours and quotes take up to three times as much as an event."""
    async with log_of(database_url) as (channel, database):
        writer = Writer(channel, database, "previews", SOURCE, CaptureLimits(), kept=Kept(0, 0, 0))
        writer.begin(1)
        for text in (b"\x1b[m" * 2_000_000, b'"\\' * 2_000_000, b"\t" * 3_000_000):
            for start in range(0, len(text), 65_536):
                writer.feed("stdout", text[start : start + 65_536])
            writer.feed("stdout", b"\n")
        writer.close_pipes()
        async with asyncio.timeout(60):
            await writer.drain()
        events = [event for event in await stored(database) if not event["partial"]]
    lines: dict[int, int] = {}
    for event in events:
        lines[event["line"]] = lines.get(event["line"], 0) + len(event["message"])
    assert list(lines.values()) == [6_000_000, 4_000_000, 3_000_000]


async def test_what_became_of_a_preview_is_told_once_though_the_answer_was_lost(database_url: str) -> None:
    """Each step is taken again, as after an answer that was lost."""
    async with log_of(database_url) as (channel, database):
        store = PreviewStore("previews", database)
        lifecycle = Lifecycle(channel, store, "host", lambda: "process", lambda preview: f"http://{preview.label}/")
        recipe = Recipe(entry="", command=["true"], env={}, health=Health(), ttl_seconds=60, network=False)
        new = NewPreview(
            tenant="default", owner="local", generation_id="gen", kind="command", recipe=recipe, files={"a": "a"}
        )
        _, preview = await lifecycle.create(new, quota=1)
        assert preview is not None
        for _ in range(2):
            await lifecycle.move(preview.id, "starting")
        for _ in range(2):
            await lifecycle.ready(preview.id, 5)
        for _ in range(2):
            running = await lifecycle.move(preview.id, "stopping")
        for _ in range(2):
            assert (await lifecycle.again(running)).attempt == 2
        await lifecycle.move(preview.id, "starting")
        for _ in range(2):
            await lifecycle.move(preview.id, "failed", message="m")
        with pytest.raises(Conflict):
            await lifecycle.move(preview.id, "running")
        rows = await database.fetch("SELECT data FROM previews.events ORDER BY seq")
        told = [event.get("status", event["type"]) for event in (msgspec.json.decode(row["data"]) for row in rows)]
    once = ["preparing", "starting", "running", "ready", "stopping"]
    assert told == [*once, "preparing", "starting", "failed"]
