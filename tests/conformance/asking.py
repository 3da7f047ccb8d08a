"""From the table's words to the wire's, and every way of asking at once."""

import asyncio
import random
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from msgspec import Struct

from tests.conformance.reading import Reading
from tests.conformance.stage import Stage
from tests.conformance.table import Ask, Case, Comes
from tests.conformance.verdict import faults
from tests.conformance.ways import Asked, Way
from tests.support.contract import IMPOSSIBLE_RUN, NO_SUCH_RUN

SECONDS = 180.0  # nothing here takes that long, however busy the machine
NOBODY = {"nobody": NO_SUCH_RUN, "impossible": IMPOSSIBLE_RUN}


async def asked(ask: Ask, stage: Stage, base: str, tokens: Sequence[str] = ()) -> Asked:
    """What is sent to a server at `base`."""
    ids = {**NOBODY, **stage.ids}
    service, path, channel, primary = _place(ask.of.split(), ids)
    parameters: dict[str, Any] = dict(ask.more)
    if ask.of.startswith("runs "):
        parameters["run"] = [ids[name] for name in ask.of.split()[1:]]
    if ask.types is not None:
        parameters["types"] = ask.types
    if ask.lossless:
        parameters["lossless"] = "1"
    if ask.on_reset is not None:
        parameters["on_reset"] = ask.on_reset
    after = None if ask.after is None else await stage.position(service, ask.after)
    return Asked(
        base=base,
        service=service,
        path=f"/api/v1/{path}",
        channel=channel,
        after=after,
        by_header=ask.by_header,
        parameters=parameters,
        primary=primary,
        tokens=tuple(tokens),
    )


def _place(words: list[str], ids: dict[str, str]) -> tuple[str, str, str | None, str | None]:
    """Service, path, channel of the multiplexed connection, primary type."""
    match words:
        case ["run", name]:
            return "runs", f"runs/{ids[name]}", f"run/{ids[name]}", None
        case ["runs"]:
            return "runs", "runs", "runs", None
        case ["runs", *_]:
            return "runs", "runs", None, None
        case ["session", name]:
            return "runs", f"sessions/{ids[name]}", f"session/{ids[name]}", None
        case ["worker", name, worker]:
            channel = f"session/{ids[name]}/worker/{worker}"
            return "runs", f"sessions/{ids[name]}/workers/{worker}", channel, None
        case ["task", name]:
            return "tasks", f"tasks/{ids[name]}", f"task/{ids[name]}", "snapshot"
        case ["board"]:
            return "tasks", "tasks", "tasks", "snapshot"
    raise ValueError(f"nothing can be asked of {words}")


class Asking(Struct, frozen=True):
    """One way, on one route, at work."""

    way: Way
    route: str
    asked: Asked
    reading: Reading

    @property
    def name(self) -> str:
        return f"{self.way.name} {self.route}"

    def is_live(self) -> bool:
        return self.reading.live_after is not None

    def is_done(self) -> bool:
        return self.reading.task is not None and self.reading.task.done()


@asynccontextmanager
async def asking(
    ask: Ask, stage: Stage, ways: Sequence[Way], routes: Sequence[tuple[str, str]], tokens: Sequence[str] = ()
) -> AsyncIterator[list[Asking]]:
    """Every way that can ask this, on every route; ended with the block."""
    at_work: list[Asking] = []
    try:
        for route, url in routes:
            what = await asked(ask, stage, url, tokens)
            for way in ways:
                if way.can_ask(what):
                    reading = Reading()
                    reading.task = asyncio.create_task(way.read(what, reading))
                    at_work.append(Asking(way, route, what, reading))
        random.shuffle(at_work)
        yield at_work
    finally:
        tasks = [each.reading.task for each in at_work if each.reading.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def try_case(case: Case, stage: Stage, ways: Sequence[Way], routes: Sequence[tuple[str, str]]) -> list[str]:
    """What is wrong, by each way; empty when all is as the table says."""
    await stage.play(case.published)
    async with asyncio.timeout(SECONDS), asking(case.ask, stage, ways, routes) as at_work:
        assert at_work, "no way can ask this"
        await all_live(at_work)
        await stage.play(case.meanwhile)
        await together(_finish(case, each) for each in at_work)
        return wrong_with(stage, case.comes, at_work)


def wrong_with(stage: Stage, comes: Comes, at_work: Iterable[Asking]) -> list[str]:
    """What is wrong, and by which way; empty when all is as the table says."""
    return [
        f"{each.name}: {fault}"
        for each in at_work
        for fault in faults(each.way, each.asked, stage, comes, each.reading)
    ]


async def all_live(at_work: Iterable[Asking]) -> None:
    """Every reader has got its history, or has been refused."""
    await together(each.reading.until(each.is_live) for each in at_work)


async def _finish(case: Case, each: Asking) -> None:
    """Until all that must come has come, and then the end, or one sign of life more: nothing else is on the way."""
    comes, reading = case.comes, each.reading
    polled = each.way.kind == "poll"
    wanted = f"{comes.history} {comes.live}" if comes.polled is None or not polled else comes.polled
    await reading.until(lambda: len(reading.events) >= len(wanted.split()))
    ends = comes.end is not None or comes.refused is not None
    if ends and each.way.name != "ndjson":  # which has no words for an end
        await reading.until(each.is_done)
    elif comes.then_refused is not None:
        await reading.until(lambda: reading.refused is not None)
    elif not polled and not each.way.in_page:
        seen = reading.signs_of_life
        await reading.until(lambda: reading.signs_of_life > seen + 1)


async def together(waits: Iterable[Coroutine[Any, Any, None]]) -> None:
    """All of them at once."""
    async with asyncio.TaskGroup() as group:
        for wait in waits:
            group.create_task(wait)
