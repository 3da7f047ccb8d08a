"""`tailrace tail`: watch a task, a run or a preview until it ends."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import quote

from msgspec import Struct, structs

from services.commands.answers import read
from services.commands.lines import line_of
from services.commands.outcome import EXIT_CODES, OTHER, exit_code, worst
from services.commands.terminal import Terminal
from shared.client import Client, Follow
from shared.protocol.control import Gap, Reset
from shared.protocol.schema import UnknownEvent

WAIT_SECONDS = 1.0
FIRST_SECONDS = 5.0
STREAMS: Mapping[str, Callable[[str], str]] = {
    "task": lambda subject: f"/api/v1/tasks/{quote(subject, safe='')}",
    "run": lambda subject: f"/api/v1/runs/{quote(subject, safe='')}",
    "preview": lambda subject: f"/api/v1/generations/{quote(subject, safe='')}/preview/logs",
}
WORDS = {
    "connecting": "connecting",
    "catching_up": "reading what was before",
    "live": "nothing new",
    "reconnecting": "the connection is lost, trying again",
}
Fields = Mapping[str, object]


class Twin(Struct, frozen=True):
    """What matters here of a stream's polling twin: the subject's terminal status, once there is no more to come."""

    ended: str | None


async def tail(
    client: Client, kind: str, subject: str, terminal: Terminal, *, after: str | None, types: Sequence[str] | None
) -> int:
    """Print what comes until the subject's end; return the exit code that says how it ended.

    It connects again by itself, whatever happens on the way, if there was an answer at the beginning.
    """
    url = STREAMS[kind](subject)
    await _ended(client, url)
    async with client.follow(f"{url}/stream", after=after, types=types, lossless=kind != "task") as stream:
        shown = await _print(stream, terminal)
    if not shown:
        terminal.tell("There is nothing after that position: it has ended.")
    status = None if stream.end is None else stream.end.status
    return exit_code(status or await _ended(client, url))


async def _ended(client: Client, url: str) -> str | None:
    """The subject's terminal status. Raise Refused when it cannot be watched, Unavailable when nothing answers."""
    answer = await client.request("GET", f"{url}/events", params={"after": "now"}, patience_seconds=FIRST_SECONDS)
    return read(answer, Twin).ended


async def tail_runs(client: Client, run_ids: Sequence[str], terminal: Terminal, after: str) -> int:
    """Print what comes of several runs until the last has ended; return the worst of their exit codes."""
    ends: dict[str, int] = {}

    def is_last(event: Fields) -> bool:
        if event.get("type") == "deleted":
            ends[str(event.get("run_id"))] = OTHER
        elif event.get("type") == "status" and event.get("status") in EXIT_CODES:
            ends[str(event.get("run_id"))] = exit_code(str(event.get("status")))
        return len(ends) == len(run_ids)

    async with client.follow("/api/v1/runs/stream", params={"run": run_ids}, after=after, lossless=True) as stream:
        await _print(stream, terminal, named=True, is_last=is_last)
    return worst(list(ends.values()))


async def _print(
    stream: Follow, terminal: Terminal, *, named: bool = False, is_last: Callable[[Fields], bool] = lambda _: False
) -> int:
    """Print what comes, up to the stream's end or the last event; return how much that was."""
    shown = 0
    waiting = asyncio.create_task(_show_waiting(stream, terminal))
    try:
        async for item in stream:
            event = _fields(item)
            if terminal.is_json:
                terminal.frame(stream.position, event)
            else:
                terminal.line(line_of(event, named=named))
            shown += 1
            if is_last(event):
                break
    finally:
        waiting.cancel()
        await asyncio.wait([waiting])
        terminal.clear()
    return shown


async def _show_waiting(stream: Follow, terminal: Terminal) -> None:
    while True:
        await asyncio.sleep(WAIT_SECONDS)
        trouble = f" ({stream.trouble})" if stream.state == "reconnecting" and stream.trouble else ""
        terminal.waiting(WORDS.get(stream.state, stream.state) + trouble)


def _fields(item: object) -> Fields:
    if isinstance(item, UnknownEvent):
        return item.fields
    assert isinstance(item, Gap | Reset)
    return {"type": item.__struct_config__.tag, **structs.asdict(item)}
