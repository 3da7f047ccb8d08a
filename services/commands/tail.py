"""`tailrace tail`: watch a task, a run or a preview until it ends."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import quote

from msgspec import structs

from services.commands.lines import line_of
from services.commands.outcome import exit_code, worst
from services.commands.terminal import Terminal
from shared.client import Client, Follow
from shared.protocol.control import Gap, Reset
from shared.protocol.schema import UnknownEvent

WAIT_SECONDS = 1.0
FIRST_SECONDS = 5.0
STREAMS: Mapping[str, Callable[[str], str]] = {
    "task": lambda subject: f"/api/v1/tasks/{quote(subject, safe='')}/stream",
    "run": lambda subject: f"/api/v1/runs/{quote(subject, safe='')}/stream",
    "preview": lambda subject: f"/api/v1/generations/{quote(subject, safe='')}/preview/logs/stream",
}
WORDS = {"connecting": "connecting", "reconnecting": "the connection is lost, trying again", "live": "nothing new"}


async def tail(
    client: Client, kind: str, subject: str, terminal: Terminal, *, after: str | None, types: Sequence[str] | None
) -> int:
    """Print what comes until the subject's end; return the exit code that says how it ended.

    It connects again by itself, whatever happens on the way, if there was an answer at the beginning.
    """
    url = STREAMS[kind](subject)
    await client.request("GET", f"{url.removesuffix('stream')}events?after=now", patience_seconds=FIRST_SECONDS)
    async with client.follow(url, after=after, types=types, lossless=kind != "task") as stream:
        await _print(stream, terminal)
    status = None if stream.end is None else stream.end.status
    if status is None:
        terminal.tell("There is nothing after that position: it has ended.")
    return exit_code(status)


async def tail_runs(client: Client, run_ids: Sequence[str], terminal: Terminal, after: str) -> int:
    """Print what comes of several runs until the last has ended; return the worst of their exit codes."""
    ends: dict[str, int] = {}
    async with client.follow("/api/v1/runs/stream", params={"run": run_ids}, after=after, lossless=True) as stream:

        def seen(event: Mapping[str, object]) -> bool:
            code = exit_code(str(event["status"])) if event.get("type") == "status" else None
            if code is not None and event["status"] in _RUN_ENDS:
                ends[str(event["run_id"])] = code
            return len(ends) == len(run_ids)

        await _print(stream, terminal, named=True, is_over=seen)
    return worst(list(ends.values()))


_RUN_ENDS = ("completed", "failed", "cancelled", "timed_out")


async def _print(
    stream: Follow,
    terminal: Terminal,
    *,
    named: bool = False,
    is_over: Callable[[Mapping[str, object]], bool] = lambda _: False,
) -> None:
    waiting = asyncio.create_task(_show_waiting(stream, terminal))
    try:
        async for item in stream:
            event = _fields(item)
            if terminal.is_json:
                terminal.frame(stream.position, event)
            else:
                terminal.line(line_of(event, named=named))
            if is_over(event):
                return
    finally:
        waiting.cancel()
        terminal.close()


async def _show_waiting(stream: Follow, terminal: Terminal) -> None:
    while True:
        await asyncio.sleep(WAIT_SECONDS)
        trouble = f" ({stream.trouble})" if stream.state == "reconnecting" and stream.trouble else ""
        terminal.waiting(WORDS.get(stream.state, stream.state) + trouble)


def _fields(item: object) -> Mapping[str, object]:
    if isinstance(item, UnknownEvent):
        return item.fields
    assert isinstance(item, Gap | Reset)
    return {"type": item.__struct_config__.tag, **structs.asdict(item)}
